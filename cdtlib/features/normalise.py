"""Normalisation of feature maps (paper §3, "Pre-processing").

Each channel of each level is normalised with its mean and standard deviation over the domain and clamped to [-1, 1].
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of every channel of one level over one domain, float32 (C,) each."""

    mean: torch.Tensor
    std: torch.Tensor

    def clamping_at(self, deviations: float) -> "ChannelStatistics":
        """Statistics that keep `deviations` standard deviations of a map, not one: they take its place as 1."""
        return ChannelStatistics(self.mean, self.std * deviations)

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map (N, C, H, W) in any range → (N, C, H, W) in [-1, 1]; one standard deviation is 1."""
        mean, std = (v.to(x).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return ((x - mean) / std).clamp(-1, 1)


def channel_statistics(batches: Iterable[dict[int, torch.Tensor]]) -> dict[int, ChannelStatistics]:
    """One pass over {level: maps (N, C, H, W)}; memory does not depend on how many there are.

    The batches' means and sums of squared deviations are merged in float64 (Chan, Golub & LeVeque 1983), so
    the result does not lose digits however large the domain. A channel that never varies gets a std of 1e-5.
    """
    count, mean, m2 = {}, {}, {}
    for maps in batches:
        for level, x in maps.items():
            x = x.double()
            n = x.numel() // x.shape[1]
            batch_mean = x.mean((0, 2, 3))
            batch_m2 = (x - batch_mean.view(1, -1, 1, 1)).square().sum((0, 2, 3))
            if level not in count:
                count[level], mean[level], m2[level] = n, batch_mean, batch_m2
                continue
            total = count[level] + n
            delta = batch_mean - mean[level]
            mean[level] = mean[level] + delta * (n / total)
            m2[level] = m2[level] + batch_m2 + delta.square() * (count[level] * n / total)
            count[level] = total
    if not count:
        raise ValueError("no feature maps were given: the statistics of an empty domain do not exist")
    return {
        level: ChannelStatistics(
            mean[level].float().cpu(), (m2[level] / count[level]).sqrt().clamp_min(1e-5).float().cpu()
        )
        for level in sorted(count)
    }

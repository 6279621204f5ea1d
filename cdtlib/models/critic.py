"""Discriminators: WGAN-GP critics of feature maps, and the PatchGAN of the inverter."""

import torch
from torch import nn

from cdtlib.models.blocks import InstanceNorm


class Critic(nn.Module):
    """D of one domain at one level: feature map (N, channels, side, side) in [-1, 1] → scores (N,), any range.

    Convolutions with LeakyReLU(0.2), each further one halving the side until it is at most 4, then a linear layer.
    No normalisation, as the gradient penalty of eq. (1) is per sample (Gulrajani et al. 2017).
    """

    def __init__(self, channels: int, side: int, width: int, blocks: int = 1):
        super().__init__()
        layers = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(blocks - 1):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2)]
        while side > 4:
            layers += [nn.Conv2d(width, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            side //= 2
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(1)


class PatchCritic(nn.Module):
    """The 70×70 PatchGAN (Isola et al. 2017): pictures (N, 3, H, W) in [-1, 1] → a score per patch (N, 1, h, w)."""

    def __init__(self, width: int = 64):
        super().__init__()
        layers = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        c = width
        for stride in (2, 2, 1):
            layers += [nn.Conv2d(c, 2 * c, 4, stride, padding=1), InstanceNorm(2 * c), nn.LeakyReLU(0.2)]
            c *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(c, 1, 4, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

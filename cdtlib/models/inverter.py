"""Feature inversion (paper §3, "Feature inversion", after Dosovitskiy & Brox 2016)."""

import torch
from torch import nn

from cdtlib.models.blocks import enlarge


class Inverter(nn.Module):
    """Feature map of one level → picture.

    (N, channels, s, s) in [-1, 1] → (N, 3, H, H) in [-1, 1], H = s·2^(level-1) for VGG-19. Three 3×3 convolutions, then
    a transposed convolution per doubling, halving the channels, LeakyReLU(0.2), tanh at the end; no normalisation.
    """

    def __init__(
        self,
        channels: int,  # of the feature map
        width: int,  # channels of the three convolutions
        halvings: tuple[int, ...],  # to undo, s → 2s + this for each: those of the level (`Architecture.halvings`)
        refine: int = 0,  # 3×3 convolutions after each doubling
    ):
        super().__init__()
        layers = []
        c = channels
        for _ in range(3):
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.LeakyReLU(0.2)]
            c = width
        for lost in halvings:
            following = max(c // 2, 16)
            layers += [enlarge(c, following, lost), nn.LeakyReLU(0.2)]
            c = following
            layers += [layer for _ in range(refine) for layer in (nn.Conv2d(c, c, 3, padding=1), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*layers, nn.Conv2d(c, 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layers(x))

"""Translators of feature maps from one domain to the other (paper §3, Fig. 4; §4 for the layers)."""

import torch
from torch import nn

from cdtlib.models.blocks import AdaIN, double, enlarge, halve


class DeepestTranslator(nn.Module):
    """G^5: level 5 of one domain → level 5 of the other (§4: strided, then symmetric transposed convolutions).

    (N, channels, side, side) in [-1, 1] → the same shape and range. GroupNorm and ReLU, tanh at the end.
    """

    def __init__(
        self,
        channels: int,  # of the feature map
        side: int,  # of the feature map
        width: int,  # channels inside
        halvings: int = 2,  # strided convolutions: 14 → 7 → 4
        blocks: int = 0,  # residual blocks at the coarsest side
        skip: float = 0.0,  # the input times this is added before the tanh: short trainings start near the identity
    ):
        super().__init__()
        self.skip = skip
        groups = min(32, width // 4)

        def normalised(layer):
            return nn.Sequential(layer, nn.GroupNorm(groups, width), nn.ReLU())

        sides = [side]
        layers = [normalised(nn.Conv2d(channels, width, 3, padding=1))]
        for _ in range(halvings):
            layers.append(normalised(halve(width, width)))
            sides.append((sides[-1] + 1) // 2)
        layers += [Residual(width, groups) for _ in range(blocks)]
        layers += [normalised(double(width, width, s)) for s in reversed(sides[:-1])]
        layers += [nn.Conv2d(width, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layers(x) + self.skip * x)


class Residual(nn.Module):
    """x + two normalised convolutions of x."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def pooled(channels: int, width: int) -> list[nn.Module]:
    """Layers of a style branch: maps (N, channels, s, s) → (N, width), without a place."""
    return [
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
        halve(width, width), nn.ReLU(),
        halve(width, width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ]  # fmt: skip


class Conditional(nn.Module):
    """Level i from the next deeper one, in a given style (Fig. 4, right, without the style branch).

    deeper: level i+1, (N, deeper_channels, s, s) in [-1, 1]; style: (N, style), any range. `render` returns
    (N, channels, 2s, 2s) in [-1, 1]. Content comes from `deeper`; `style` gives the AdaIN parameters.
    `lost`: level i has the side 2s + lost, as AlexNet's can; None: it has the side s, and nothing is enlarged.
    """

    def __init__(
        self, style_branch: nn.Module, channels: int, deeper_channels: int, width: int, style: int, lost: int | None = 0
    ):
        super().__init__()
        enlarging = nn.Conv2d(width, width, 3, padding=1) if lost is None else enlarge(width, width, lost)
        self.style = style_branch
        self.content = nn.ModuleList(
            [
                nn.Conv2d(deeper_channels, width, 3, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
                enlarging,
                nn.Conv2d(width, width, 3, padding=1),
            ]
        )
        self.adain = nn.ModuleList(AdaIN(width, style) for _ in self.content)
        self.head = nn.Conv2d(width, channels, 3, padding=1)

    def render(self, deeper: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        y = deeper
        for convolution, adain in zip(self.content, self.adain, strict=True):
            y = torch.relu(adain(convolution(y), style))
        return torch.tanh(self.head(y))


class ConditionalTranslator(Conditional):
    """G^i, i < 5: level i to the other domain, given its already translated level i+1 (Fig. 4, right).

    x: level i, (N, channels, 2s, 2s); deeper: translated level i+1, (N, deeper_channels, s, s); both in [-1, 1].
    Returns (N, channels, 2s, 2s) in [-1, 1]. Content comes from `deeper` alone; x gives the AdaIN parameters.
    `lost` as in `Conditional`.
    """

    def __init__(
        self,
        channels: int,  # of level i
        deeper_channels: int,  # of level i+1
        width: int,  # channels of the content branch
        style: int,  # length of the style vector
        style_width: int,  # channels of the style branch
        lost: int | None = 0,
    ):
        branch = nn.Sequential(
            *pooled(channels, style_width),
            nn.Linear(style_width, style), nn.ReLU(),
            nn.Linear(style, style), nn.ReLU(),
            nn.Linear(style, style), nn.ReLU(),
        )  # fmt: skip
        super().__init__(branch, channels, deeper_channels, width, style, lost)

    def forward(self, x: torch.Tensor, deeper: torch.Tensor) -> torch.Tensor:
        return self.render(deeper, self.style(x))

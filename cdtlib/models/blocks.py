"""Building blocks that several networks share."""

import torch
from torch import nn


def initialise(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Weights from N(0, deviation²), biases zero (as CycleGAN), for every convolution and linear layer."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def kaiming(network: nn.Module) -> nn.Module:
    """Kaiming-normal weights (He et al. 2015), biases zero: keeps the signal's size in networks without norms.

    A transposed convolution that doubles starts as what it stands for, nearest-neighbour doubling followed by a 3×3
    convolution: with independent weights its four phases draw a chequerboard (Odena et al. 2016) that a short training
    does not get rid of.
    """
    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose2d) and layer.stride == (2, 2) and layer.kernel_size[0] >= 4:
            more = layer.kernel_size[0] - 4  # see `enlarge`
            small = torch.empty(layer.out_channels, layer.in_channels, 3, 3)
            nn.init.kaiming_normal_(small, a=0.2)
            with torch.no_grad():  # each of the 2×2 doubled pixels adds its own 3×3 kernel
                corners = ((y, x) for y in (0, 1) for x in (0, 1))
                kernel = sum(nn.functional.pad(small, (x, 1 - x + more, y, 1 - y + more)) for y, x in corners)
                layer.weight.copy_(kernel.transpose(0, 1))
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def halve(c_in: int, c_out: int) -> nn.Conv2d:
    """Strided convolution, spatial side s → ceil(s / 2)."""
    return nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)


def double(c_in: int, c_out: int, side: int) -> nn.ConvTranspose2d:
    """Transposed convolution that undoes `halve` of an even (kernel 4) or odd (kernel 3) side."""
    return nn.ConvTranspose2d(c_in, c_out, 4 if side % 2 == 0 else 3, stride=2, padding=1)


def enlarge(c_in: int, c_out: int, more: int = 0) -> nn.ConvTranspose2d:
    """Transposed convolution, spatial side s → 2s + more, more = 0, 1, 2: 4/2/1, or with a larger kernel."""
    return nn.ConvTranspose2d(c_in, c_out, 4 + more, stride=2, padding=1)


class InstanceNorm(nn.InstanceNorm2d):  # noqa: TID251
    """Instance norm (Ulyanov et al. 2016) of (N, C, H, W), whose gradient is right for one picture, too.

    PyTorch's is wrong on a CPU (2.15 at least) where N is 1 and the next layer hands its gradient back in
    channels_last: here it is brought into the ordinary order first.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if y.requires_grad and len(y) == 1:
            y.register_hook(torch.Tensor.contiguous)
        return y


class AdaIN(nn.Module):
    """Adaptive instance normalisation (Huang & Belongie 2017): style gives every channel's scale and shift."""

    def __init__(self, channels: int, style: int):
        super().__init__()
        self.norm = InstanceNorm(channels)
        self.affine = nn.Linear(style, 2 * channels)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        scale, shift = self.affine(style).view(x.shape[0], -1, 1, 1).chunk(2, dim=1)  # (N, C, 1, 1) each
        return self.norm(x) * (1 + scale) + shift

"""What the training loops share."""

import torch
from torch import nn


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which networks compute in `precision`, "fp32" or "bf16"; weights and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights: averaged ← d · averaged + (1 - d) · network.

    d is `decay`, less in the first steps: min(decay, (1 + step) / (10 + step)). decay 0 copies the weights.
    """
    d = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - d)

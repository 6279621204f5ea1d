"""What the training loops share."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from cdtlib import processes

#: Calls of an update before it becomes a graph, in which libraries choose algorithms and optimizers make their state.
EAGER = 8


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which networks compute in `precision`, "fp32" or "bf16"; weights and losses stay float32.

    In float32, too, where the machine has no instructions for bf16: there it takes twice as long as float32, or more.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and has_bf16(device.type))


@cache
def has_bf16(kind: str) -> bool:
    """Whether this machine's "cpu" or "cuda" computes in bf16 itself and not by way of float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights: averaged ← d · averaged + (1 - d) · network.

    d is `decay`, less in the first steps: min(decay, (1 + step) / (10 + step)). decay 0 copies the weights.
    """
    d = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - d)


class Adam(torch.optim.Adam):
    """Adam in one kernel, whose steps on a GPU a CUDA graph can hold (see `captured`); `set_rate` changes its rate."""

    def __init__(self, parameters, lr: float, betas: tuple[float, float], weight_decay: float = 0.0):
        parameters = list(parameters)
        on_gpu, device = parameters[0].is_cuda, parameters[0].device
        rate = torch.tensor(lr, device=device) if on_gpu else lr  # a graph would keep a number as it was
        super().__init__(parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=True, capturable=on_gpu)

    def load_state_dict(self, state: dict) -> None:
        """All but the rate, which stays this optimizer's own: where it changes, `set_rate` sets it in each step."""
        super().load_state_dict(state)
        for group in self.param_groups:  # a state of the CPU is loaded with its options
            group |= {name: self.defaults[name] for name in ("capturable", "lr")}


def set_rate(rate: float, *optimizers: torch.optim.Optimizer) -> None:
    """The learning rate of a step: a function of its number, so that there is no scheduler's state to keep."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def captured(device: torch.device, *works: Callable) -> tuple[Callable, ...]:
    """`works`, updates of some networks, as they are on a CPU; on a GPU each is a CUDA graph after `EAGER` calls.

    An update is some thousands of small operations, and without a graph a GPU waits for Python most of the time. A work
    takes tensors of ever the same shapes (or None), and does the same with them every time, on the device alone:
    nothing is read back or decided in it; what it draws (DRIT's noise) is the same as without a graph. It returns
    tensors without gradients; as the graphs share their memory, its own next call overwrites them, and so may calls of
    works that were first called before it. Several processes, which meet in every update, do without graphs.
    """
    if device.type != "cuda" or processes.world() > 1:
        return works
    stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
    return tuple(_Captured(work, stream, pool) for work in works)


class _Captured:
    """One of the works of `captured`, which share a stream and, being replayed one at a time, their memory."""

    def __init__(self, work: Callable, stream: torch.cuda.Stream, pool: tuple[int, int]):
        self.work, self.stream, self.pool = work, stream, pool
        self.calls, self.graph = 0, None

    def __call__(self, *given: torch.Tensor | None):
        self.calls += 1
        if self.calls <= EAGER:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                result = self.work(*given)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.graph is None:
            self.given = [None if x is None else x.clone() for x in given]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=self.pool, stream=self.stream):
                self.result = self.work(*self.given)
        for mine, x in zip(self.given, given, strict=True):
            if x is not None:
                mine.copy_(x)
        self.graph.replay()
        return self.result

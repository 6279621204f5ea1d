"""Training by several processes, as `torchrun` starts them, with the result of one::

    torchrun --nproc-per-node 2 -m cdtlib.cli train photos/zebra photos/horse

Every process runs the same program. All begin with the same weights and draw the same random numbers, those of the
whole batch; of what was drawn, each takes its `share`. Losses are means over samples, so the mean of the processes'
gradients, which a `Run` takes before each step of an optimizer, is the gradient of the whole batch.

Not everything is a mean over samples::

    noise as large as a share           `noise_like`: drawn for the whole batch
    a ratio of sums over the batch      divide by the `mean` of the processes' denominators
    batch norm, dropout, a memory of    share nothing: every process then does the whole batch, which gives
    earlier samples                     the same result, and is only not faster

Files are written by the `first` process alone. In a plain process nothing is started and nothing is changed: `share`
and `mean` return what they are given, and `first` calls what it is given.

Lightning Fabric lets the processes meet. CPU tensors travel by gloo, those of GPUs by nccl; each process of a machine
has a GPU of its own.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cdtlib import machine

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


class FirstFailed(RuntimeError):
    """The first process has failed, and has said why; this one cannot go on alone."""


@cache
def _fabric() -> "Fabric | None":
    """What joins this process to the others, once they have met; None for a plain process."""
    total, here = machine.processes()
    if total == 1:
        return None
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # not who has come, in five lines
    gpus = torch.cuda.device_count()
    if 0 < gpus < here:
        raise ValueError(
            f"torchrun started {here} processes on a machine with {gpus} GPUs, and each needs one of its own: "
            f"--nproc-per-node {gpus} at most, or CUDA_VISIBLE_DEVICES= for none"
        )
    strategy = DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),  # also where torchrun was started by Slurm's srun
        process_group_backend="cpu:gloo,cuda:nccl" if gpus else "gloo",
        timeout=timedelta(days=30),  # the first may wait for a run that another job trains
    )
    accelerator = "cuda" if gpus else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=total // here, strategy=strategy)
    fabric.launch()
    return fabric


def world() -> int:
    """How many processes train together: 1 in a plain process."""
    return fabric.world_size if (fabric := _fabric()) else 1


def rank() -> int:
    """The number of this one among them, from 0."""
    return fabric.global_rank if (fabric := _fabric()) else 0


def leave() -> None:
    """Part from the others, when all is done."""
    if world() > 1:
        mean(torch.zeros(()))  # nobody leaves while another still needs it
        dist.destroy_process_group()


def check(batches: dict[str, int]) -> None:
    """Raise ValueError for a batch, by the name of its setting, that cannot be shared equally (as `first` raises)."""

    def refuse():
        for name, batch in batches.items():
            if batch % world():
                raise _unequal(name, batch)

    first(refuse)


def _unequal(name: str, batch: int) -> ValueError:
    return ValueError(
        f"{name}: {batch} samples cannot be shared equally by {world()} processes; start as many as divide them "
        "(torchrun --nproc-per-node), or change the setting"
    )


def share(batch: Tensor) -> Tensor:
    """This process's samples of a whole batch (N, …): every world-th, so that its halves are halves of the batch's.

    Raises ValueError if the samples cannot be shared equally.
    """
    if world() == 1:
        return batch
    if len(batch) % world():
        raise _unequal("batch", len(batch))
    return batch[rank() :: world()]


def noise_like(x: Tensor) -> Tensor:
    """Normal noise for a share x (n, …), of the noise that one process would draw for the whole batch."""
    if world() == 1:
        return torch.randn_like(x)
    return share(torch.randn(len(x) * world(), *x.shape[1:], dtype=x.dtype, device=x.device))


@torch.no_grad()
def mean(value: Tensor) -> Tensor:
    """The mean over the processes of a value that needs no gradient; the same in all."""
    if world() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world()


def average_gradients(optimizer: torch.optim.Optimizer, *_) -> None:
    """Replace the gradients of all that `optimizer` trains by their means over the processes (a pre-hook of `step`)."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    together = mean(torch.cat([g.reshape(-1) for g in gradients]))
    for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


@torch.no_grad()
def align(tensors: Iterable[Tensor]) -> None:
    """Give all processes the first one's values."""
    if world() > 1:
        for tensor in tensors:
            values = tensor.contiguous()
            dist.broadcast(values, src=0)
            tensor.copy_(values)


def first(function: Callable[[], T]) -> T:
    """What `function` returns in the first process, where alone it is called. All must come here, and wait for it.

    What it raises there is raised there, and FirstFailed in the others.
    """
    if world() == 1:
        return function()
    told, failure = [None, False], None
    if rank() == 0:
        try:
            told[0] = function()
        except Exception as error:
            told[1], failure = True, error
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    if failure is not None:
        raise failure
    if told[1]:
        raise FirstFailed("the first process has failed")
    return told[0]


def same(value: T) -> T:
    """The first process's value, in all of them."""
    return first(lambda: value)

"""What a method costs: parameters, seconds a translated picture, and the memory that training adds to a process."""

import multiprocessing
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def seconds_a_picture(translate: Callable[[torch.Tensor, str], torch.Tensor], images: torch.Tensor) -> float:
    """Seconds that `translate(images, "b")` takes for each picture (N, 3, H, W), after one to warm up: the fastest of
    three, as other work may slow one down."""
    translate(images[:1], "b")  # copies its result to the CPU, so a GPU is waited for
    passes = timeit.repeat(lambda: translate(images, "b"), timer=time.perf_counter, number=1, repeat=3)
    return min(passes) / len(images)


def training_memory(train: Callable[..., None], *arguments: Any, device: str | None = None) -> int | None:
    """Bytes by which the memory of a new process grows at most while it runs `train(folder, *arguments)`, folder an
    empty one that is removed afterwards; on a `device` "cuda" (default: where there is one), the most that is allocated
    there. None where it cannot be told.

    A process of its own, because memory that was freed before is used again unseen. `train` and the arguments must be
    picklable. Raises RuntimeError if `train` fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        gpu = torch.cuda.is_available() if device is None else device == "cuda"
        process = context.Process(target=_measure, args=(theirs, gpu, train, Path(folder), *arguments))
        process.start()
        theirs.close()
        try:
            return ours.recv()
        except EOFError:
            raise RuntimeError(f"{train.__name__} failed in the process that measures its memory") from None
        finally:
            process.join()


def _measure(answer, gpu: bool, train: Callable[..., None], folder: Path, *arguments: Any) -> None:
    torch.set_num_threads(1)
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    before = None
    if gpu:
        torch.cuda.init()
    elif clear.exists():
        clear.write_text("5")  # forget the highest memory so far (proc(5))
        before = _kilobytes(status, "VmRSS")
    train(folder, *arguments)
    if gpu:
        answer.send(torch.cuda.max_memory_allocated())
    else:
        answer.send(before and 1024 * (_kilobytes(status, "VmHWM") - before))


def _kilobytes(status: Path, name: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])

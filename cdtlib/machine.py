"""What a result was made with: device, versions, commit. Written beside every number."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

#: The project's folder: the one that holds cdtlib/ and notebooks/.
ROOT = Path(__file__).resolve().parent.parent

# What decides a result; a change elsewhere, in a text or in results/, does not make a commit "dirty".
_SOURCES = ["cdtlib", "notebooks", "requirements.txt"]


def short(path: Path) -> str:
    """`path` as seen from the current folder if it lies in it, else whole."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def skips_bad() -> bool:
    """Whether the environment variable CDT_SKIP_BAD says to go on without pictures that cannot be used."""
    return os.environ.get("CDT_SKIP_BAD", "") not in ("", "0")


def results_root() -> Path:
    """Where all results lie: CDT_RESULTS, or the project's `results`."""
    return Path(os.environ.get("CDT_RESULTS") or ROOT / "results")


def progress_kind(interactive: bool) -> str:
    """How progress is shown: CDT_PROGRESS (bar, lines or none; ValueError for anything else), by default a bar where
    somebody watches, else lines."""
    kind = os.environ.get("CDT_PROGRESS") or ("bar" if interactive else "lines")
    if kind not in ("bar", "lines", "none"):
        raise ValueError(f"CDT_PROGRESS is bar, lines or none, not {kind!r}")
    return kind


def processes() -> tuple[int, int]:
    """How many processes torchrun has started, in all and on each machine; (1, 1) for a plain one.

    Raises ValueError if they are not as many on each machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1, 1
    total, here, machines = (int(os.environ[f"{of}WORLD_SIZE"]) for of in ("", "LOCAL_", "GROUP_"))
    if total != here * machines:
        raise ValueError(f"torchrun started {total} processes on {machines} machines: start as many on each of them")
    return total, here


def device() -> str:
    """The name of the GPU if torch can use one, else of the CPU."""
    if Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi"):
        import torch  # takes seconds to import, so not where there is nothing to find

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return cpu()


def cpu() -> str:
    """The name of the CPU, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def cpus() -> int:
    """The number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: str) -> int:
    """Bytes that are free on a device: a GPU, or else in the machine."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def versions() -> dict[str, str]:
    """The versions of Python, of this library and of the libraries that decide its numbers."""
    names = ["cdtlib", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "torch-fidelity"]
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def commit(root: Path = ROOT) -> str:
    """The git commit of the project, 12 digits, with "+dirty" if the sources differ from it.

    "unknown" outside a git clone, such as in an unpacked archive.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return "unknown"  # the folder lies inside a clone of something else
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+dirty" if git("status", "--porcelain", "--", *_SOURCES) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

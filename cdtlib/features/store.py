"""Features on disk: every pyramid of a domain, computed once (paper §3, "Pre-processing").

A store is a folder: `images.npy` uint8 (N, 3, H, W), `level_<i>.npy` float16 (N, C, h, w) normalised and clamped,
`statistics.safetensors`, `done.json`. It is written beside its place and moved there whole.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2 import functional as tv

from cdtlib import machine
from cdtlib.data import to_float
from cdtlib.features.backbones import Backbone
from cdtlib.features.normalise import ChannelStatistics, channel_statistics
from cdtlib.files import DamagedFile, full_disk_named, write_json


def view(image: torch.Tensor, row: int, number: int) -> torch.Tensor:
    """Augmented copy `number` of picture `row`, uint8 (3, H, W): 0 itself, 1 mirrored, further ones cropped.

    Odd numbers are mirrored. A crop keeps 80–95 % of the side and depends on row and number alone.
    """
    if number >= 2:
        size = image.shape[-1]
        random = np.random.default_rng([row, number])
        side = round(size * random.uniform(0.8, 0.95))
        top, left = (int(random.integers(0, size - side + 1)) for _ in range(2))
        image = tv.resized_crop(image, top, left, side, side, [size, size], antialias=True)
    return image.flip(-1) if number % 2 else image


def _pictures(domain, views: int, batch: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, uint8 (n · views, 3, H, W)) for all of `domain`, about `batch` rows at a time."""
    n = max(1, batch // views)
    for start in range(0, len(domain), n):
        indices = range(start, min(start + n, len(domain)))
        pictures = zip(indices, domain.batch(indices), strict=True)
        yield start * views, torch.stack([view(p, index, number) for index, p in pictures for number in range(views)])


def fits(size: int, device: str) -> bool:
    """Whether a device can hold `size` bytes and have as much left for everything else."""
    return 2 * size <= machine.free_memory(device)


class FeatureStore:
    """The normalised pyramids of one domain's pictures, memory-mapped or, once asked for, held where they are used."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
            self.id: str = done["id"]
            self.levels: tuple[int, ...] = tuple(done["levels"])
            self.views: int = done["views"]
            sizes = dict(done["bytes"])
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise self._damaged("done.json", f"it cannot be read: {error!r}") from error
        for name, size in sizes.items():
            if not (folder / name).exists() or (folder / name).stat().st_size != size:
                raise self._damaged(name, "it is missing, or its size is not what was written")
        stats = load_file(folder / "statistics.safetensors")
        self.statistics = {i: ChannelStatistics(stats[f"mean_{i}"], stats[f"std_{i}"]) for i in self.levels}
        self._length = len(np.load(folder / "images.npy", mmap_mode="r"))
        self._resident: dict[tuple[str, str], torch.Tensor] = {}

    def _damaged(self, name: str, why: str) -> DamagedFile:
        return DamagedFile(f"{self.folder / name} is damaged ({why}): delete {self.folder}, and it is made again")

    def __len__(self) -> int:
        """How many rows there are: pictures times views."""
        return self._length

    def _rows(self, name: str, rows, device) -> torch.Tensor:
        key = (name, str(device))
        if key in self._resident:
            return self._resident[key][rows]
        array = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        rows = rows.cpu() if isinstance(rows, torch.Tensor) else rows
        return torch.from_numpy(np.array(array[rows if isinstance(rows, slice) else np.asarray(rows, int)])).to(device)

    def resident(self, *names: str, device: str = "cpu") -> "FeatureStore":
        """Hold the named arrays (`images`, `level_5`, …) in the device's memory, so that a step moves no data.

        One that does not fit (see `fits`) stays on the disk, which is said, and its rows are read as they are needed.
        """
        for name in names:
            array = np.load(self.folder / f"{name}.npy", mmap_mode="r")
            if (name, str(device)) in self._resident:
                continue
            if fits(array.nbytes, device):
                self._resident[name, str(device)] = torch.from_numpy(np.array(array)).to(device)
            else:
                size = f"{name} of {self.folder.name}, {array.nbytes / 1e9:.1f} GB,"
                print(f"{size} is read from the disk: it would take most of the memory of {device}", file=sys.stderr)
        return self

    def level(self, i: int, rows=slice(None), device: str = "cpu") -> torch.Tensor:
        """Level i of the given rows (a slice or indices): float32 (n, C, h, w) in [-1, 1]."""
        return self._rows(f"level_{i}", rows, device).float()

    def images(self, rows=slice(None), device: str = "cpu") -> torch.Tensor:
        """The pictures of the given rows: float32 (n, 3, H, W) in [-1, 1]."""
        return to_float(self._rows("images", rows, device))

    def originals(self) -> list[int]:
        """The rows that are pictures as they are, not augmented copies."""
        return list(range(0, len(self), self.views))


def build(
    domain,
    backbone: Backbone | None,
    root: Path,
    *,
    levels: tuple[int, ...] = (5, 4, 3),
    views: int = 1,
    statistics_of: FeatureStore | None = None,
    clamped_at: float = 1.0,
    device: str = "cpu",
    batch: int = 32,
) -> FeatureStore:
    """The store of `domain`, found under `root` or made there.

    Two streaming passes: the backbone's maps go to disk while their statistics are summed, then they are normalised
    in place, and clamped at `clamped_at` standard deviations, which become 1. `statistics_of` gives another store's
    statistics instead (a test split is normalised as its training split is). Memory does not grow with the number of
    pictures. Without a backbone and `levels`, pictures alone are kept.
    """
    facts = {
        "domain": domain.fingerprint,
        "backbone": backbone.fingerprint if backbone else None,
        "levels": list(levels),
        "views": views,
        "statistics_of": statistics_of.id if statistics_of else None,
    }
    facts |= {"clamped_at": clamped_at} if clamped_at != 1 else {}
    identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(root) / f"{domain.name}-{domain.split}-{identity}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(folder.name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            try:

                def opened(name: str) -> np.memmap:
                    """Opened anew for each batch: pages that stay mapped count as the process's memory."""
                    return np.load(unfinished / f"{name}.npy", mmap_mode="r+")

                def write(name: str, row: int, values: np.ndarray) -> None:
                    path = unfinished / f"{name}.npy"
                    if not path.exists():
                        shape = (len(domain) * views, *values.shape[1:])
                        size = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape).nbytes
                        # Without its place reserved, a disk that fills up would kill the process (a bus error).
                        if hasattr(os, "posix_fallocate"):
                            with full_disk_named(path, size), open(path, "r+b") as file:
                                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
                    opened(name)[row : row + len(values)] = values

                def extracted() -> Iterator[dict[int, torch.Tensor]]:
                    for row, pictures in _pictures(domain, views, batch):
                        write("images", row, pictures.numpy())
                        if not levels:
                            continue  # pictures alone
                        with torch.no_grad():
                            maps = backbone(to_float(pictures.to(device)), deepest=max(levels))
                        for i in levels:
                            write(f"level_{i}", row, maps[i].clamp(-65504, 65504).half().cpu().numpy())
                        yield {i: maps[i] for i in levels}

                if levels:
                    backbone = backbone.to(device)
                    statistics = channel_statistics(extracted())
                    statistics = {i: s.clamping_at(clamped_at) for i, s in statistics.items()}
                    statistics = statistics_of.statistics if statistics_of else statistics
                else:
                    statistics = dict(extracted())  # of no levels, and what it yields is nothing
                for i in levels:
                    for row in range(0, len(domain) * views, batch):
                        part = opened(f"level_{i}")[row : row + batch]
                        maps = torch.from_numpy(part).to(device).float()
                        part[:] = statistics[i].normalise(maps).half().cpu().numpy()
                for path in unfinished.glob("*.npy"):
                    opened(path.stem).flush()
                stats = {f"mean_{i}": s.mean for i, s in statistics.items()}
                stats |= {f"std_{i}": s.std for i, s in statistics.items()}
                save_file(stats, unfinished / "statistics.safetensors")
                sizes = {f.name: f.stat().st_size for f in unfinished.iterdir()}
                write_json(unfinished / "done.json", facts | {"id": identity, "bytes": sizes})
                os.replace(unfinished, folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return FeatureStore(folder)

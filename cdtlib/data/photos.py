"""Folders of photos: one folder per domain, pictures of any size, mode and name.

Every picture becomes a square in the same way, whatever its file: turned as its EXIF orientation says, put
on white where it is transparent, cropped to the largest centred square and resized to `size` (Lanczos,
antialiased). All are cropped alike so that the shape of a file cannot give its class away. Colour profiles
are not applied.

Files are not trusted. Their format is told by their content, never by their name, and only the formats in
`FORMATS` are opened; a picture of more than `MAX_PIXELS` is refused by its header, before anything is
decoded; a truncated one is refused, not filled with grey.
"""

import errno
import hashlib
import json
import os
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pi_heif
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from cdtlib import machine
from cdtlib.files import sha256, walk

pi_heif.register_heif_opener()  # Pillow then reads HEIF, as it reads the other formats

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".heic", ".heif", ".avif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# What says nothing about the picture, though it was reading it that failed
_OF_THE_MACHINE = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)
FORMATS = ("JPEG", "PNG", "HEIF", "AVIF", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
_LIMIT = f"at most {MAX_PIXELS // 10**6} megapixels are accepted"
MIN_SIDE = 16  # pixels; below that there is nothing to see
POLICY = 1  # part of every fingerprint: raise it when the pixels that `load` returns change


class BadPicture(ValueError):
    """A file that cannot be used as a picture: `path` and `reason`."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class BadPictures(ValueError):
    """Some pictures cannot be used: `bad`, a list of BadPicture. The message names up to 20 of them."""

    def __init__(self, bad: Sequence[BadPicture], total: int):
        advice = "Mend or remove them, or go on without them (--skip-bad, CDT_SKIP_BAD=1; in Python skip_bad=True)."
        if len(bad) == total:
            advice = "Nothing is left to go on with: mend or replace them."
        super().__init__(f"{summary(bad, total)}\n{advice}")
        self.bad = list(bad)


def summary(bad: Sequence[BadPicture], total: int) -> str:
    """How many of `total` pictures are bad, then a line for each of the first 20: its path and the reason."""
    lines = [f"{len(bad)} of {total} pictures cannot be used:"]
    lines += [f"  {picture}" for picture in bad[:20]]
    if len(bad) > 20:
        lines.append(f"  and {len(bad) - 20} more")
    return "\n".join(lines)


def scan(folder: str | Path, least: int = 2) -> list[Path]:
    """All files in `folder` and its subfolders with a suffix of `SUFFIXES`, sorted; hidden ones left out.

    The files are not opened. Broken links are listed, so that they are reported and not lost. Raises FileNotFoundError,
    NotADirectoryError, ValueError if there are fewer than `least` pictures, and what `check_finished` raises.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}: give the folder that holds the domain's pictures")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give the folder that holds the domain's pictures")
    check_finished(folder)

    paths = [Path(parent, name) for parent, names in walk(folder) for name in names if _is_picture(name)]
    if len(paths) < least:
        found = f"only one picture, {paths[0].name}: a domain needs at least two" if paths else "no pictures"
        raise ValueError(f"{folder} holds {found} (files ending in {', '.join(SUFFIXES)})")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def check_finished(folder: str | Path) -> None:
    """Refuse (ValueError) a class of a data set that `cdt data` has begun and not finished: a part of its pictures."""
    try:
        record = json.loads((Path(folder).resolve().parent / "dataset.json").read_bytes())
    except (OSError, ValueError):
        return  # the user's own folder
    if isinstance(record, dict) and record.get("finished") is False:
        raise ValueError(f"{folder} is not complete: finish its data set first, with the same `cdt data` command again")


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def load(path: str | Path, size: int) -> torch.Tensor:
    """The picture in the file as uint8 RGB, (3, size, size), made square as described above.

    16-bit grey is scaled to 8 bits; of an animation, the first frame is taken; a picture smaller than `size`
    is enlarged. Raises BadPicture if the file is not a whole picture, if a side is shorter than `MIN_SIDE`,
    or if its header announces more than `MAX_PIXELS`.
    """
    pixels = np.array(_square(Path(path), size))  # (size, size, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, size, size)


def _square(path: Path, size: int) -> Image.Image:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadPicture(path, "not a file")
        if status.st_size == 0:
            raise BadPicture(path, "empty file")
        with Image.open(path, formats=FORMATS) as picture:  # reads the header only
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BadPicture(path, f"too large: its header says {width}×{height}, {_LIMIT}")
            if min(width, height) < MIN_SIDE:
                raise BadPicture(path, f"too small: {width}×{height}, at least {MIN_SIDE}×{MIN_SIDE}")
            # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, if that is still twice what is needed.
            picture.draft(None, (2 * size, 2 * size))
            picture.load()
            with suppress(Exception):  # a damaged EXIF block costs a picture its orientation, not its place
                ImageOps.exif_transpose(picture, in_place=True)
            return _crop(_to_rgb(picture, path), size)
    except BadPicture:
        raise
    except FileNotFoundError:
        raise BadPicture(path, "broken link" if path.is_symlink() else "no such file") from None
    except UnidentifiedImageError:
        raise BadPicture(path, f"not a picture, or a damaged one ({', '.join(FORMATS)} are read)") from None
    except Image.DecompressionBombError:  # Pillow's own limit, about twice ours, strikes first
        raise BadPicture(path, f"too large by its header: {_LIMIT}") from None
    except MemoryError:
        raise  # the machine's fault, not the picture's
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise BadPicture(path, error.strerror or str(error)) from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise BadPicture(path, f"damaged: {error}") from error


def _to_rgb(picture: Image.Image, path: Path) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255, which leaves such pictures white.
        grey = np.asarray(picture).astype(np.float32) / 257  # 65535 becomes 255
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise BadPicture(path, "32 bits per pixel, whose range is unknown: save it with 8 or 16")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _crop(picture: Image.Image, size: int) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=box)


def check_files(paths: Iterable[str | Path], skip_bad: bool = False) -> dict[Path, str]:
    """Decode every one of these pictures, so that a bad one is known before anything long starts.

    Returns the good ones, in their order, with the SHA-256 of their files. Bad ones are named together in one summary:
    raised as BadPictures, or printed as a warning if `skip_bad` or the environment variable CDT_SKIP_BAD says so and a
    good one is left. Raises OSError where the machine fails, such as a disk.
    """
    skip_bad = skip_bad or machine.skips_bad()
    paths = [Path(path) for path in paths]
    good, bad = {}, []
    for path, (digest, reason) in zip(paths, _map(_examine, paths), strict=True):
        if reason is None:
            good[path] = digest
        else:
            bad.append(BadPicture(path, reason))
    if bad and not (skip_bad and good):
        raise BadPictures(bad, len(paths))
    if bad:
        print(f"Warning: {summary(bad, len(paths))}\nGoing on without them.", file=sys.stderr, flush=True)
    return good


def _examine(path: Path) -> tuple[str, str | None]:
    """The SHA-256 of a file and None, or, of a bad one, "" and the reason."""
    try:
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_size
    except OSError:
        stamp = None
    return _examine_once(path.absolute(), stamp)


@cache  # a command checks a folder first as one of a pair, then as train and as test
def _examine_once(path: Path, stamp: tuple[int, int] | None) -> tuple[str, str | None]:
    try:
        _square(path, MIN_SIDE)  # decodes the whole file, at the smallest scale that JPEG offers
        return sha256(path), None
    except BadPicture as error:
        return "", error.reason


def _map(function: Callable, items: Sequence) -> list:
    # Threads do, as Pillow decodes outside of the interpreter's lock.
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def split_of(folder: str | Path, test_fraction: float = 0.15) -> dict[str, list[Path]]:
    """The pictures of `folder` as {"train": [...], "test": [...]}, each sorted.

    If the folder has subfolders `train` and `test` (or, without that, `val`, `valid` or `validation`), these are the
    two sides, and pictures elsewhere in it are not used. Otherwise the SHA-256 of a picture's path below `folder`,
    without its suffix, sends it to the test side with probability `test_fraction`: adding, removing or converting a
    picture moves no other one. Each side gets at least one: if the hashes leave a side empty, as can happen with few
    pictures, the picture nearest to it goes there (the one case in which a new picture can move another).
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, not {test_fraction}")
    folder = Path(folder)
    paths = scan(folder)
    kept = [name for name in ("test", "val", "valid", "validation") if (folder / name).is_dir()]
    if (folder / "train").is_dir() and kept:
        sides = {}
        for side, name in (("train", "train"), ("test", kept[0])):
            sides[side] = [path for path in paths if path.is_relative_to(folder / name)]
            if not sides[side]:
                raise ValueError(f"no pictures in {folder / name}: put some there, or remove train and {kept[0]}")
        return sides

    test = held_out({path: path.relative_to(folder).with_suffix("").as_posix() for path in paths}, test_fraction)
    return {"train": [p for p in paths if p not in test], "test": [p for p in paths if p in test]}


def held_out(names: Mapping[Hashable, str], test_fraction: float) -> set:
    """The pictures that go to the test side: those whose names' SHA-256 falls below `test_fraction`, at least one
    picture and never all. `names` has at least two."""
    draw = {picture: _draw(name) for picture, name in names.items()}
    test = {picture for picture in draw if draw[picture] < test_fraction}
    test = test or {min(draw, key=draw.get)}
    if len(test) == len(draw):
        test.remove(max(draw, key=draw.get))
    return test


def _draw(name: str) -> float:
    """A number in [0, 1), uniform over names."""
    # The same name can be stored in two ways (é as one or as two code points) by different systems.
    return int(hashlib.sha256(_bytes(unicodedata.normalize("NFC", name))).hexdigest()[:13], 16) / 16**13


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")  # file names need not be valid UTF-8


class PhotoDomain:
    """The train or the test pictures of one folder of photos; the interface is described in `cdtlib.data`.

    :param folder: holds the pictures of one class, see `scan` and `split_of`
    :param split: "train" or "test"
    :param size: side of the pictures in pixels
    :param name: of the class; the folder's name if not given
    :param skip_bad: go on without pictures that cannot be used, after a printed warning
    :param test_fraction: share of the test side where the folder has no `train` and `test`

    All pictures of the split are decoded once at the start. `paths` are the good ones, in the order of the
    indices. `fingerprint` depends on their names below the folder, the content of their files, `size` and
    `POLICY`; not on where the folder lies. Raises what `scan`, `split_of` and `check_files` raise.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        size: int,
        name: str | None = None,
        skip_bad: bool = False,
        test_fraction: float = 0.15,
    ):
        if split not in ("train", "test"):
            raise ValueError(f'split must be "train" or "test", not {split!r}')
        folder = Path(folder)
        digests = check_files(split_of(folder, test_fraction)[split], skip_bad)
        self.name = name or folder.resolve().name
        self.split = split
        self.size = size
        self.paths = list(digests)
        self.digests = list(digests.values())  # SHA-256 of the files, in the same order
        whole = hashlib.sha256(f"photos policy {POLICY} size {size}".encode())
        for path, digest in digests.items():
            whole.update(b"\0" + _bytes(path.relative_to(folder).as_posix()) + b"\0" + digest.encode())
        self.fingerprint = whole.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """The pictures at `indices`: uint8 RGB, (len(indices), 3, size, size). Raises BadPicture."""
        pictures = torch.empty(len(indices), 3, self.size, self.size, dtype=torch.uint8)
        for row, picture in enumerate(_map(lambda i: load(self.paths[i], self.size), indices)):
            pictures[row] = picture
        return pictures


def unused(folder: str | Path) -> dict[str, int]:
    """How many files below `folder` are no pictures to `scan`, by their suffix, the most frequent first; hidden ones do
    not count."""
    names = (name for _, names in walk(Path(folder)) for name in names)
    others = (Path(name).suffix.lower() for name in names if not _is_picture(name) and not name.startswith("."))
    return dict(Counter(others).most_common())


def check_pair(folder_a: str | Path, folder_b: str | Path) -> None:
    """Refuse (ValueError) two domains that are one folder, or that share pictures: files of the same content.

    Files that cannot be used as pictures are left to `check_files`.
    """
    folder_a, folder_b = Path(folder_a), Path(folder_b)
    paths_a, paths_b = scan(folder_a), scan(folder_b)
    if folder_a.resolve() == folder_b.resolve():
        raise ValueError(f"A and B are the same folder, {folder_a}: translation needs two different domains")

    in_a = {digest: path for path, (digest, _) in zip(paths_a, _map(_examine, paths_a), strict=True)}
    in_a.pop("", None)  # the digest of bad files
    in_b = zip(paths_b, _map(_examine, paths_b), strict=True)
    shared = [(in_a[digest], path) for path, (digest, _) in in_b if digest in in_a]
    if shared:
        examples = "\n".join(f"  {a} = {b}" for a, b in shared[:3])
        more = f"\n  and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise ValueError(
            f"{len(shared)} pictures of {folder_b} are also in {folder_a}:\n{examples}{more}\n"
            "A picture can belong to one domain only: remove it from the other."
        )

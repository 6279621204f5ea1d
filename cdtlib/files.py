"""Files that are either whole or absent: every result, checkpoint and record is written through here.

A reader never sees half a file, whatever happens to the writer (an error, a full disk, `kill -9`, a
power cut): the content goes to a temporary file in the same folder, is flushed to the disk, and only
then takes the place of the old file in one step.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: What temporary files' names begin with. A killed process can leave some behind; nothing reads them.
TEMPORARY = ".tmp-"


class DamagedFile(ValueError):
    """A stored file is truncated, altered or missing; the message names it and says how to mend it."""


@contextmanager
def atomic(path: str | Path, needed: int | None = None) -> Iterator[Path]:
    """Yield the path of a temporary file that takes the place of `path` if the body succeeds::

        with atomic("figures/grid.png") as temporary:
            figure.savefig(temporary)

    The temporary file lies in the folder of `path` (made if it is missing) and has its suffix, from which
    Pillow and matplotlib read the format. After any error it is removed and `path` is as it was.
    `needed`: the size in bytes, if known, for the message when the disk is full.

    Raises OSError (ENOSPC or EDQUOT) that names `path` and the space needed and free if the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}")
    try:
        with full_disk_named(path, needed):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            # The new name, too, must reach the disk before anything that is written later and refers to it.
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)  # still there only after an error


def make_folder(folder: str | Path) -> None:
    """Make `folder`, if it is missing, and try to write into it: so that what would fail for it fails at once.

    Raises OSError that names the folder.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write into this folder: {os.strerror(error.errno)}", str(folder)) from error


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically (see `atomic`)."""
    with atomic(path, needed=len(data)) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically (see `atomic`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: str | Path) -> str:
    """The SHA-256 of the file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def full_disk_named(path: str | Path, needed: int | None = None) -> Iterator[None]:
    """Make an OSError that says the disk (or a quota) is full name the file and the space needed and free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(Path(path).parent).free
        need = "" if needed is None else f"{_megabytes(needed)} needed, "
        message = f"{os.strerror(error.errno)} ({need}{_megabytes(free)} free)"
        raise OSError(error.errno, message, str(path)) from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.3f} MB"


def walk(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and its subfolders, hidden ones left out, each with the names of its files; links are followed."""
    seen = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        # A link to a folder above would be walked for ever.
        subfolders[:] = [] if real in seen else [name for name in subfolders if not name.startswith(".")]
        if real not in seen:
            yield parent, names
        seen.add(real)

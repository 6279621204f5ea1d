"""One file from the web: whole and checked, or not there. An interrupted download goes on where it stopped.

pooch checks the checksum and puts the file in its place; what is here is the way the bytes come: further attempts when
a server fails or falls silent, and ranges, so that what has arrived is not fetched again, even by another process.
"""

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from cdtlib.files import DamagedFile, full_disk_named
from cdtlib.machine import progress_kind

WAITS = (1, 2, 4, 8, 16)  # seconds before further attempts; they begin anew whenever something has arrived
LONGEST_WAIT = 60  # seconds, however long a server asks for (Retry-After)
TIMEOUT = (10, 30)  # seconds: until connected, and without a byte
CHUNK = 1 << 14  # bytes; of a connection that breaks, an unfinished chunk is lost
PROGRESS_SECONDS = 10.0  # between two lines of progress where there is no terminal

_local = threading.local()  # .session: a connection for each thread, kept open from file to file

pooch.get_logger().setLevel("WARNING")  # what is fetched is told by whoever asks for it


class Unavailable(OSError):
    """A file cannot be fetched now; the message names its address and the reason."""


def fetch(
    url: str,
    path: str | Path,
    known_hash: str | None = None,
    *,
    show: bool = False,
    stop: threading.Event | None = None,
) -> Path:
    """The file at `url`, as `path`; if it is there already, it is only checked against `known_hash`.

    :param known_hash: SHA-256, or "md5:…"; None: any content is taken, if all bytes that the server announced arrived
    :param show: progress, as CDT_PROGRESS says: bar, lines (one every 10 seconds) or none
    :param stop: set by another thread to end this download; what arrived is kept

    What has arrived lies in `path` + ".part" until the file is whole. It is used again if the server still has the
    same file (its ETag or Last-Modified says so) and sends ranges. A wrong checksum leads to one more download.
    Raises Unavailable; DamagedFile for a checksum that is wrong twice; OSError if the disk is full.
    """
    progress_kind(False)  # pooch takes any ValueError from within for a wrong checksum
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    store = pooch.create(
        path.parent, base_url="", registry={path.name: known_hash}, urls={path.name: url}, retry_if_failed=1
    )
    try:
        store.fetch(path.name, downloader=_Resuming(path, show, stop or threading.Event()))
    except ValueError as error:
        raise DamagedFile(
            f"{url}: what arrives there is not the expected file ({known_hash}). Either its publisher has replaced it, "
            "or something on the way alters it. If you have the right file, give it with --from."
        ) from error
    return path


class _Resuming:
    """A downloader as pooch wants it, for one file."""

    def __init__(self, path: Path, show: bool, stop: threading.Event):
        self.path, self.show, self.stop = path, show, stop
        self.part = path.with_name(path.name + ".part")
        self.version = path.with_name(path.name + ".version")  # the ETag or date of the file that `part` belongs to

    def __call__(self, url: str, output_file: str, pooch: pooch.Pooch) -> None:
        arrived, waits = self._size(), iter(WAITS)
        while True:
            try:
                self._go_on(url)
                break
            except requests.RequestException as error:
                response = error.response
                final = response is not None and response.status_code < 500 and response.status_code not in (408, 429)
                if isinstance(error, ValueError) or final:  # ValueError: not an address
                    raise Unavailable(f"{url}: {_reason(error)}") from error
                if self._size() > arrived:
                    arrived, waits = self._size(), iter(WAITS)
                wait = next(waits, None)
                if wait is not None and response is not None and response.headers.get("Retry-After", "").isdigit():
                    wait = min(LONGEST_WAIT, int(response.headers["Retry-After"]))
                if wait is not None and self.show:
                    print(f"{url}: {_reason(error)}; trying again in {wait} s", file=sys.stderr, flush=True)
                if wait is None or self.stop.wait(wait):
                    raise Unavailable(f"{url}: {_reason(error)}") from error
        os.replace(self.part, output_file)
        self.version.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _go_on(self, url: str) -> None:
        """One attempt: the rest of the file if that is possible, else all of it."""
        headers = {"Accept-Encoding": "identity"}  # compressed, the size would be another one
        if (have := self._size()) and self.version.exists():
            headers |= {"Range": f"bytes={have}-", "If-Range": self.version.read_text()}
        if not hasattr(_local, "session"):
            _local.session = requests.Session()
        with _local.session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            described = response.headers.get("Content-Range", "")
            if response.status_code == 416 and described == f"bytes */{have}":
                return  # it was whole already
            if response.status_code == 416 or (
                response.status_code == 206 and not described.startswith(f"bytes {have}-")
            ):
                self.part.unlink()
                raise requests.ConnectionError("the server sent another part of the file than it was asked for")
            response.raise_for_status()
            if response.status_code != 206:
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            with full_disk_named(self.part, needed=total and total - have):
                if total and shutil.disk_usage(self.part.parent).free < total - have:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                with open(self.part, "ab" if have else "wb") as file:
                    if not have:
                        self._remember(response)
                    label = f"fetching {self.path.name}"
                    with progress(label, total, have, unit="B", kind=None if self.show else "none") as advance:
                        for chunk in response.iter_content(CHUNK):
                            file.write(chunk)
                            advance(len(chunk))
                            if self.stop.is_set():
                                raise requests.ConnectionError("stopped")
        if total is not None and self._size() != total:
            raise requests.ConnectionError(f"{self._size()} of {total} bytes arrived")

    def _remember(self, response: requests.Response) -> None:
        etag = response.headers.get("ETag", "")
        version = response.headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
        if version:
            self.version.write_text(version)
        else:
            self.version.unlink(missing_ok=True)


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    return str(getattr(error.args[0], "reason", error) if error.args else error)


@contextmanager
def progress(
    label: str, total: int | None, done: int = 0, *, unit: str = "", kind: str | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with every further amount done. `kind` is bar, lines or none, by default CDT_PROGRESS;
    without either a bar in a terminal, else lines. `unit` "B" is bytes. Raises ValueError for another kind."""
    kind = kind or progress_kind(sys.stderr.isatty())
    if kind == "bar":
        scale = unit == "B"
        with tqdm(desc=label, total=total, initial=done, unit=unit, unit_scale=scale, dynamic_ncols=True) as bar:
            yield bar.update
        return
    spoke = time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, spoke
        done += amount
        if kind == "lines" and time.monotonic() - spoke >= PROGRESS_SECONDS:
            spoke = time.monotonic()
            share = f" {done / total:.0%}" if total else f" {done:,} {unit}"
            print(label + share, file=sys.stderr, flush=True)

    yield advance

"""Published weights of the networks that only judge pictures: given, found or downloaded, and checked."""

import os
from pathlib import Path

import torch

from cdtlib.files import DamagedFile, sha256


def published(url: str, digest: str, weights: str | Path | None = None, also: tuple[str, ...] = ()) -> Path:
    """The file of `url`, checked; downloaded (once) to where torch keeps such files if there is none.

    :param digest: the SHA-256 of the file, or its first digits
    :param weights: the file, or the folder where it lies; if None, the environment variable CDT_WEIGHTS
    :param also: names of other files that serve; taken first, if they lie there, and not checked here

    Raises FileNotFoundError that names the file and its address if it is not there and cannot be downloaded (it is not
    looked for elsewhere if `weights` is given), DamagedFile if its content is not the published one.
    """
    name = url.rpartition("/")[2]
    names = (*also, name)
    wanted = " or ".join(names)
    place = weights if weights is not None else os.environ.get("CDT_WEIGHTS")
    if place:
        place = Path(place)
        for path in [place / n for n in names] if place.is_dir() else [place]:
            if path.is_file() and path.name in names:
                return path if path.name in also else _checked(path, url, digest)
    if weights is not None:
        raise FileNotFoundError(f"{weights} neither is nor holds {wanted}; {name} comes from {url}")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name  # where torchvision and torch-fidelity would put it
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
        except Exception as error:  # no network, a full disk, a wrong hash
            raise FileNotFoundError(
                f"no {wanted} in {place or 'CDT_WEIGHTS, which is not set'}, and {url} cannot be downloaded ({error}): "
                "fetch it by other means, and set CDT_WEIGHTS to the folder where it lies"
            ) from error
    return _checked(path, url, digest)


def _checked(path: Path, url: str, digest: str) -> Path:
    if not sha256(path).startswith(digest):  # not only for the numbers' sake: such files are unpickled
        raise DamagedFile(
            f"{path} is damaged or not the published file (its SHA-256 does not begin with {digest[:8]}): "
            f"delete it, and download it from {url}"
        )
    return path

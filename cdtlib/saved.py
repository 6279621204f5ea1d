"""A trained translation in one file: what `cdt train` writes and `cdt translate` reads."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cdtlib import processes
from cdtlib.files import DamagedFile, atomic
from cdtlib.settings import Settings

FILE = "translation.safetensors"


def write(folder: Path, tensors: dict[str, torch.Tensor], settings: Settings, **about: str) -> Path:
    """Write `folder`/translation.safetensors; `about` must name the `method`. Returns the folder."""
    tensors = {key: value.cpu().contiguous() for key, value in tensors.items()}
    about = {"settings": settings.model_dump_json(), **about}

    def save():
        with atomic(Path(folder) / FILE) as path:
            save_file(tensors, path, metadata=about | {"sha256": _digest(about, tensors)})

    processes.first(save)
    return Path(folder)


def read(folder: Path) -> tuple[dict[str, torch.Tensor], Settings, dict[str, str]]:
    """The tensors, the settings and what else was written about them. Raises FileNotFoundError or DamagedFile."""
    path = Path(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(f"no {FILE} in {folder}: give the folder that `cdt train` named at its end")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        if about.pop("sha256") != _digest(about, tensors):
            raise ValueError("its content is not what was written")
        return tensors, Settings.model_validate_json(about.pop("settings")), about
    except Exception as error:
        raise DamagedFile(
            f"{path} cannot be read ({error}): `cdt train` with the same folders writes it anew"
        ) from error


def _digest(about: dict[str, str], tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all that a file holds."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy())
    return digest.hexdigest()

"""What a notebook needs: the method for its pair, and one place for its figures and numbers."""

import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cdtlib import machine, plots
from cdtlib.data.photos import PhotoDomain, check_pair
from cdtlib.data.zoo import ZooDomain
from cdtlib.files import atomic, write_json
from cdtlib.method import CascadedTranslation
from cdtlib.metrics.semantics import Probes, zoo_probes
from cdtlib.settings import Settings, load


def results_root() -> Path:
    """Where all results lie: CDT_RESULTS, or the project's `results`."""
    return Path(os.environ.get("CDT_RESULTS") or machine.ROOT / "results")


def domains(settings: Settings) -> dict[str, dict]:
    """{"a": {"train": domain, "test": domain}, "b": …} of the settings' pair.

    Photos lie in CDT_PHOTOS, a folder per domain. Raises FileNotFoundError or ValueError saying what is missing.
    """
    data = settings.data
    if data.source == "zoo":
        counts = {"train": data.train, "test": data.test}
        return {
            side: {split: ZooDomain(name, split, n, size=data.size, seed=settings.seed) for split, n in counts.items()}
            for side, name in zip("ab", settings.pair, strict=True)
        }
    root = os.environ.get("CDT_PHOTOS")
    if not root:
        raise FileNotFoundError(
            f"profile {settings.profile} needs photos: set CDT_PHOTOS (or --photos) to a folder that holds a folder "
            f"of pictures for each domain, here {settings.pair[0]!r} and {settings.pair[1]!r}"
        )
    return photo_domains(Path(root) / settings.pair[0], Path(root) / settings.pair[1], data.size)


def photo_domains(folder_a: Path, folder_b: Path, size: int, skip_bad: bool = False) -> dict[str, dict]:
    """{"a": {"train": domain, "test": domain}, "b": …} of two folders of photos; every file is checked first."""
    check_pair(folder_a, folder_b)
    return {
        side: {split: PhotoDomain(folder, split, size, skip_bad=skip_bad) for split in ("train", "test")}
        for side, folder in (("a", folder_a), ("b", folder_b))
    }


class Experiment:
    """One notebook on one pair of domains: `settings`, `method`, and where its figures and numbers go."""

    def __init__(self, notebook: str, profile: str, pair: list[str], seed: int):
        self.notebook = notebook
        self.settings = load(profile, pair, seed)
        self.root = results_root() / profile
        self.stem = f"{notebook}-{pair[0]}-{pair[1]}"
        self.method = CascadedTranslation(self.settings, domains(self.settings), self.root)
        self.metrics: list[dict] = []
        self.started = time.monotonic()
        self.format = "jpg" if self.settings.data.source == "photos" else "png"
        plots.style(photos=self.format == "jpg")
        (self.root / "figures").mkdir(parents=True, exist_ok=True)
        if profile == "smoke":
            print("Profile smoke: this proves that everything runs. Its pictures and numbers mean nothing.")

    def probes(self) -> Probes | None:
        """The networks that read the drawn zoo's pictures, found or trained; None where pictures are photos."""
        if self.settings.data.source != "zoo":
            return None
        return zoo_probes(self.root / "runs", **self.settings.probes.model_dump(), device=self.method.device)

    def figure(self, figure: Figure, name: str) -> None:
        """Save a figure as figures/<stem>-<name>.png, .jpg for photos, and show it."""
        with atomic(self.root / "figures" / f"{self.stem}-{name}.{self.format}") as path:
            figure.savefig(path)
        plt.show()

    def metric(self, name: str, value: float, *, n: int, **about) -> None:
        """Note a number: its value, how many pictures it rests on, and `lower`, `upper`, `published`, `source`,
        `unit`, `better` where they apply."""
        known = {"lower", "upper", "published", "source", "unit", "better"}
        if unknown := about.keys() - known:
            raise ValueError(f"metric {name}: unknown {sorted(unknown)}; there are {sorted(known)}")
        self.metrics.append({"name": name, "value": float(value), "n": n} | dict.fromkeys(sorted(known)) | about)

    def finish(self) -> pd.DataFrame:
        """Write metrics/<stem>.json and return it as a table; says which runs were trained here and which found."""
        runs = [
            {"run": r.folder.name, "reused": r.reused, "training seconds": round(r.seconds, 1)}
            for r in self.method.runs
        ]
        write_json(
            self.root / "metrics" / f"{self.stem}.json",
            {
                "notebook": self.notebook,
                "profile": self.settings.profile,
                "pair": list(self.settings.pair),
                "seed": self.settings.seed,
                "settings": self.settings.model_dump(mode="json"),
                "commit": machine.commit(),
                "device": machine.device(),
                "seconds": round(time.monotonic() - self.started, 1),
                "runs": runs,
                "metrics": self.metrics,
            },
        )
        return pd.DataFrame(self.metrics)

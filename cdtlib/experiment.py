"""What a notebook needs: the method for its pair, and one place for its figures and numbers."""

import math
import os
import sys
import time
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from cdtlib import machine, plots, published
from cdtlib.cascade import OTHER
from cdtlib.data import to_uint8
from cdtlib.data.photos import PhotoDomain, check_pair, split_of, unused
from cdtlib.data.zoo import ZooDomain
from cdtlib.features.backbones import Backbone, full_precision
from cdtlib.files import atomic, write_json
from cdtlib.method import CascadedTranslation
from cdtlib.metrics import detection
from cdtlib.metrics.detection import Detector, Found, Unmeasurable, coco_classes, load_detector
from cdtlib.metrics.distances import backbone_distances, inception_distances, inception_weights, speckle, spread
from cdtlib.metrics.semantics import Measure, Probes, evaluate, zoo_probes
from cdtlib.rivals import TABLE_2, TABLE_3
from cdtlib.rivals.common import Generating, Translating
from cdtlib.settings import Settings, load, overrides, stem

#: The fewest held-out photos of a domain of which every number of the notebooks can be computed.
HELD_OUT = 6

#: What a number is to be seen beside: how the tables call it, by its name in the metrics' files.
REFERENCES = {"lower": "baseline", "upper": "ideal"}


def show_whole_tables() -> None:
    """Have notebooks show every row and column of a table, and whole texts: names tell one number from another."""
    whole = dict.fromkeys(("max_rows", "max_columns", "max_colwidth"))
    for name, value in (whole | {"float_format": "{:.4g}".format}).items():
        pd.set_option(f"display.{name}", value)


def domains(settings: Settings) -> dict[str, dict]:
    """{"a": {"train": domain, "test": domain}, "b": …} of the settings' pair.

    Raises FileNotFoundError or ValueError saying what is missing.
    """
    data = settings.data
    if data.source == "zoo":
        counts = {"train": data.train, "test": data.test}
        return {
            side: {split: ZooDomain(name, split, n, size=data.size, seed=settings.seed) for split, n in counts.items()}
            for side, name in zip("ab", settings.pair, strict=True)
        }
    found = photo_domains(*photo_folders(settings), data.size)
    for sides in found.values():  # broken ones may have been left out
        _check_enough({split: len(own) for split, own in sides.items()}, sides["test"].name)
    return found


def photo_folders(settings: Settings) -> list[Path]:
    """The folders of photos of the settings' two domains, in CDT_PHOTOS.

    Raises FileNotFoundError for a missing one, ValueError for one that `cdt data` has not finished or that holds too
    few photos.
    """
    root = os.environ.get("CDT_PHOTOS")
    if not root:
        raise FileNotFoundError(
            f"profile {settings.profile} needs photos: set CDT_PHOTOS (or --photos) to a folder that holds a folder "
            f"of pictures for each domain, here {settings.pair[0]!r} and {settings.pair[1]!r}"
        )
    folders = [Path(root) / name for name in settings.pair]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"profile {settings.profile}: no folder {folder.name!r} of photos in {root}")
        _check_enough({split: len(files) for split, files in split_of(folder).items()}, str(folder))
    return folders


def _check_enough(counts: dict[str, int], of: str) -> None:
    if counts["test"] < HELD_OUT:
        raise ValueError(
            f"{of} has {counts['test']} held-out photos (its folder `test`, or some 15 % of all); the notebooks' "
            f"numbers need at least {HELD_OUT}: add photos. (`cdt train` and `cdt translate` do with fewer.)"
        )
    if counts["train"] < counts["test"]:
        raise ValueError(
            f"{of} has {counts['train']} photos to train on and {counts['test']} held out; the notebooks compare as "
            "many of either: put more into `train`"
        )


def photo_domains(folder_a: Path, folder_b: Path, size: int, skip_bad: bool = False) -> dict[str, dict]:
    """{"a": {"train": domain, "test": domain}, "b": …} of two folders of photos; every file is checked first.

    Says which files are no pictures, and which held-out ones are trained on, too.
    """
    check_pair(folder_a, folder_b)
    found = {}
    for side, folder in (("a", folder_a), ("b", folder_b)):
        if others := unused(folder):
            kinds = ", ".join(f"{count} {suffix or 'without an ending'}" for suffix, count in others.items())
            print(f"{Path(folder).name}: {sum(others.values())} files are not used ({kinds})", file=sys.stderr)
        own = {split: PhotoDomain(folder, split, size, skip_bad=skip_bad) for split in ("train", "test")}
        trained = dict(zip(own["train"].digests, own["train"].paths, strict=True))
        both = [
            (path, trained[d]) for d, path in zip(own["test"].digests, own["test"].paths, strict=True) if d in trained
        ]
        if both:
            which = " = ".join(str(path.relative_to(folder)) for path in both[0])
            print(
                f"{Path(folder).name}: {len(both)} of {len(own['test'])} held-out pictures are trained on, too, under "
                f"another name ({which}), which flatters all numbers: remove one of each",
                file=sys.stderr,
            )
        found[side] = own
    return found


class Experiment:
    """One notebook on one pair of domains: `settings`, `method`, and where its figures and numbers go.

    `changes` to the profile's settings are as `cdtlib.settings.overrides` takes them.
    """

    def __init__(self, notebook: str, profile: str, pair: list[str], seed: int, changes: Sequence[str] = ()):
        self.notebook = notebook
        self.changes = list(changes)
        self.settings = load(profile, pair, seed, **overrides(changes))
        self.root = machine.results_root() / profile
        self.stem = stem(notebook, pair, seed, changes)
        self.method = CascadedTranslation(self.settings, domains(self.settings), self.root)
        self.metrics: list[dict] = []
        self.commit = machine.commit()  # now: a night later the sources may be others
        self.started = time.monotonic()
        self.format = "jpg" if self.settings.data.source == "photos" else "png"
        plots.style(photos=self.format == "jpg")
        (self.root / "figures").mkdir(parents=True, exist_ok=True)
        if profile == "smoke":
            print("Profile smoke: this proves that everything runs. Its pictures and numbers mean nothing.")

    @cache
    def probes(self) -> Probes | None:
        """The networks that read the drawn zoo's pictures, found or trained; None where pictures are photos."""
        if self.settings.data.source != "zoo":
            return None
        probes = zoo_probes(self.root / "runs", **self.settings.probes.model_dump(), device=self.method.device)
        self.method.runs.append(probes.run)
        return probes

    @cached_property
    def detector(self) -> Detector | None:
        """What finds the animals in photos; None, said aloud, without its weights or for animals that it does not know,
        and for the drawn zoo."""
        if self.settings.data.source != "photos":
            return None
        if self.method.device == "cpu" and not self.notebook.startswith("11"):
            print("What is detected in the photos is left to notebook 11: a picture takes seconds on a CPU.")
            return None
        try:
            coco_classes(*map(self.method.name, "ab"))
            return load_detector(device=self.method.device)
        except (Unmeasurable, FileNotFoundError) as error:
            print(f"What is detected in the photos is left out ({error}); later, `cdt run 11 --force` tries again.")
            return None

    @cache
    def detected(self, side: str) -> list[Found]:
        """What the detector finds in the held-out photos of a side."""
        test = self.method.domains[side]["test"]
        return self.detector.read(test.batch(range(len(test))))

    def semantics(self, made: torch.Tensor, to: str, label: str = "") -> list[Measure]:
        """Note what translations `made` of the held-out pictures, (N, 3, H, W) in [-1, 1], to side `to` show: as the
        probes read them on the drawn zoo, as the detector does in photos; empty without one. `label` says which of
        several translations this is."""
        if probes := self.probes():
            source, real = (self.method.domains[side]["test"] for side in (OTHER[to], to))
            measures = evaluate(probes, source, made, real)
        elif self.detector:
            source, real = self.detected(OTHER[to])[: len(made)], self.detected(to)
            classes = coco_classes(*map(self.method.name, (OTHER[to], to)))
            measures = detection.evaluate(self.detector.read(made), source, real, classes)
        else:
            return []
        for measure in measures:
            about = measure.as_metric()
            self.metric(self._name(about.pop("name"), label, self.direction(to)), **about)
        return measures

    def described(self, images: torch.Tensor, backbone: Backbone | None = None) -> torch.Tensor:
        """Pictures as conv_5_1 of a backbone (by default the method's) sees them, the mean over space:
        (N, 3, H, W) → (N, C)."""
        backbone, device = backbone or self.method.backbone, self.method.device
        with torch.no_grad(), full_precision():
            return torch.cat([backbone(part.to(device))[5].mean((2, 3)).cpu() for part in images.split(64)])

    @cached_property
    def rivals(self) -> dict[str, Translating]:
        """The rivals of Table 2 by name, in the table's order; each is found or trained when it is first used."""
        rivals = [kind(self.settings, self.method.domains, self.root) for kind in TABLE_2.values()]
        for rival in rivals:
            rival.runs = self.method.runs
        return {rival.name: rival for rival in rivals}

    @cached_property
    def generators(self) -> dict[tuple[str, str], Generating]:
        """The rivals of Table 3 by name and side, in the table's order; each is to be fitted."""
        rivals = {
            (kind.name, side): kind(self.settings, self.method.domains[side], self.root)
            for kind in TABLE_3
            for side in "ab"
        }
        for rival in rivals.values():
            rival.runs = self.method.runs
        return rivals

    @cached_property
    def inception(self) -> int | None:
        """Which of Inception's features photos are compared on: 2048 (FID) or 768; None, said aloud, without weights,
        and for the drawn zoo."""
        if self.settings.data.source != "photos":
            return None
        place = os.environ.get("CDT_WEIGHTS")
        at_hand = [(2048, place), (768, place)] if place else []
        for feature, weights in (*at_hand, (2048, None)):  # None: downloaded, if nothing is at hand
            try:
                inception_weights(feature, weights)
                return feature
            except FileNotFoundError as error:
                reason = error
        print(f"FID is left out: {reason}")
        return None

    def _measured(self, images: torch.Tensor, to: str, second: Backbone | None = None) -> dict[str, float]:
        """All distances of pictures (N, 3, H, W) in [-1, 1] to the held-out ones of side `to`, by name, and "n"."""
        x, y = self.described(images), self._target(to)
        values = backbone_distances(x, y) | {"diversity": spread(x) / spread(y)}
        values["speckle"] = speckle(images) / speckle(self.method.store(to, "test").images())
        if second:
            x, y = self.described(images, second), self._target(to, second)
            of_second = backbone_distances(x, y)
            values |= {f"{kind}_second": of_second[f"{kind}_backbone"] for kind in ("fréchet", "kernel")}
        if self.inception:
            both = (to_uint8(pictures) for pictures in (images, self.method.store(to, "test").images()))
            more = inception_distances(*both, feature=self.inception, device=self.method.device)
            of_backbone = ("n", "precision", "recall")
            values |= {name: value for name, value in more.items() if not name.startswith(of_backbone)}
        return values

    @cache
    def _target(self, to: str, backbone: Backbone | None = None) -> torch.Tensor:
        """The held-out pictures of side `to`, `described`."""
        return self.described(self.method.store(to, "test").images(), backbone)

    @cache
    def _references(self, to: str, second: Backbone | None, n: int) -> tuple[dict[str, float], dict[str, float]]:
        """The same distances of what is not translated to `to`: the source, and the target's training pictures.

        They rest on `n` pictures, as the number that they stand beside: the fewer there are, the larger is a distance.
        Where a source has fewer held-out pictures, some that it trains on are added.
        """
        source, others, train = (self.method.store(OTHER[to], "test"), *map(self.method.store, (OTHER[to], to)))
        more = others.images(others.originals()[: max(0, n - len(source))])
        training = train.images(train.originals()[:n])
        return self._measured(torch.cat([source.images(), more]), to, second), self._measured(training, to, second)

    def distances(
        self,
        made: torch.Tensor,
        to: str,
        label: str = "",
        *,
        cell: tuple[int, str] | None = None,
        second: Backbone | None = None,
        about: str = "",
    ) -> None:
        """Note the distances of pictures `made`, (N, 3, H, W) in [-1, 1], to the held-out pictures of side `to`.

        `lower` is the value of the untouched source, `upper` that of the target's training pictures. Diversity is the
        mean distance between two translations, 1 being that between two held-out target pictures: 0 is a collapse.
        Speckle is that of the held-out target pictures at 1.
        `label` says which of several translations this is; `cell`, which table and column of the paper has its FID.
        `second` is another backbone, on whose features the Fréchet distance is measured, too; `about`, what the numbers
        are of, by default the direction of a translation.
        """
        values = self._measured(made, to, second)
        n = values.pop("n")
        source, training = self._references(to, second, n)
        for name, value in values.items():
            more = {"lower": source[name], "upper": training[name]}
            if (
                name == "FID"
                and cell
                and (fid := published.cell(*cell, self.method.name(OTHER[to]), self.method.name(to)))
            ):
                more |= {"published": fid.value, "source": fid.source}
            better = "higher" if name in ("precision", "recall", "diversity") else "lower"
            better = None if name == "speckle" else better
            self.metric(self._name(name, label, about or self.direction(to)), value, n=n, better=better, **more)

    def inverted(self, to: str, level: int) -> torch.Tensor:
        """Training pictures of side `to`, as many as are held out, made from their own maps of a level: (N, 3, H, W).
        No translation that is inverted from there can be expected to come nearer to the target than these."""
        store, inverter = self.method.store(to, level=level), self.method.inverter(to, level)
        rows = store.originals()[: len(self.method.store(to, "test"))]
        maps = (store.level(level, torch.tensor(rows[i : i + 64]), self.method.device) for i in range(0, len(rows), 64))
        with torch.no_grad():
            return torch.cat([inverter(part).cpu() for part in maps])

    def scores(self, made: torch.Tensor, to: str, second: Backbone) -> dict[str, float]:
        """The two numbers that a curve is drawn of, not noted: the Fréchet distance on a second backbone and, on the
        drawn zoo, the share of translations in which all is right."""
        distances = backbone_distances(self.described(made, second), self._target(to, second))
        scores = {"fréchet_second": distances["fréchet_backbone"]}
        if probes := self.probes():
            source, real = (self.method.domains[side]["test"] for side in (OTHER[to], to))
            right = {m.name: m.value for m in evaluate(probes, source, made, real)}
            scores["all right"] = right["species, silhouette, number and facing all right"]
        return scores

    def direction(self, to: str) -> str:
        """What is translated to side `to`: "zebra → giraffe"."""
        return " → ".join(self.method.name(side) for side in (OTHER[to], to))

    def _name(self, name: str, label: str, about: str) -> str:
        return ", ".join(filter(None, [name, label, about]))

    def compared(self, names: Sequence[str], labels: Sequence[str], to: str, about: str = "") -> pd.DataFrame:
        """Numbers noted for several sets of pictures of side `to`: a row for each label, a column for each name, and
        below them the references. A name that was not noted for the first label is left out, and a number that was not
        noted for another one is NaN. `about` as in `distances`."""
        about = about or self.direction(to)
        noted = {metric["name"]: metric for metric in self.metrics}
        names = [name for name in names if self._name(name, labels[0], about) in noted]
        nothing = {"value": float("nan")}
        rows = {
            label: [noted.get(self._name(name, label, about), nothing)["value"] for name in names] for label in labels
        }
        for key, reference in REFERENCES.items():
            rows[reference] = [noted[self._name(name, labels[0], about)][key] for name in names]
        return pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis(about)

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
        if not math.isfinite(value):
            raise ValueError(f"metric {name} is {value}, which no reader could tell from a measured one")
        self.metrics.append({"name": name, "value": float(value), "n": n} | dict.fromkeys(sorted(known)) | about)

    def finish(self) -> pd.DataFrame:
        """Write metrics/<stem>.json and return it as a table; says which runs were trained here and which found."""
        runs: dict[str, dict] = {}  # by name: one that was asked for twice counts once, as it was the first time
        for run in self.method.runs:
            about = {"run": run.folder.name, "reused": run.reused, "training seconds": round(run.seconds, 1)}
            runs.setdefault(run.folder.name, about | {"trained on": run.trained_on, "trained with": run.trained_with})
        write_json(
            self.root / "metrics" / f"{self.stem}.json",
            {
                "notebook": self.notebook,
                "profile": self.settings.profile,
                "pair": list(self.settings.pair),
                "seed": self.settings.seed,
                "changes": self.changes,
                "settings": self.settings.model_dump(mode="json"),
                "commit": self.commit,
                "device": machine.device(),
                "seconds": round(time.monotonic() - self.started, 1),
                "runs": list(runs.values()),
                "metrics": self.metrics,
            },
        )
        show_whole_tables()
        table = pd.DataFrame(self.metrics).dropna(axis=1, how="all").rename(columns=REFERENCES)
        return table.astype(object).fillna("")

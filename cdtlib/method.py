"""The paper's method for one pair of domains: finds or trains each of its parts, and hands out the cascade."""

import hashlib
import math
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import nn

from cdtlib import processes
from cdtlib.cascade import OTHER, Cascade
from cdtlib.features import store as feature_store
from cdtlib.features.backbones import BACKBONES, Backbone, map_shape
from cdtlib.features.store import FeatureStore
from cdtlib.settings import Settings, Translation
from cdtlib.training.classification import DomainClassifier, fine_tune
from cdtlib.training.inversion import train_inverter
from cdtlib.training.run import Run
from cdtlib.training.translation import Translators, pictures_of, train_translators


class CascadedTranslation:
    """Cross-domain cascaded deep translation between two domains.

    `domains` is {"a": {"train": domain, "test": domain}, "b": …}. Runs and features lie under `root`. Each part is a
    run of its own: it is loaded if it is there, resumed if it was interrupted, and trained if it is new.
    Raises ValueError for batches that several processes cannot share equally.
    """

    def __init__(self, settings: Settings, domains: dict[str, dict], root: Path):
        batches = {f"translation.{i}.batch": settings.translation[i].batch for i in settings.levels}
        processes.check(batches | {"inversion.batch": settings.inversion.batch})
        self.settings = settings
        self.domains = domains
        self.root = Path(root)
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = auto if settings.device == "auto" else settings.device
        self.runs: list[Run] = []  # every run that was asked for, in order
        self.variant = ""  # what the names of the runs end in
        self.deviations = 1.0  # at how many of a channel's standard deviations its values are clamped (§3)

    def with_backbone(self, backbone: Backbone, levels: tuple[int, ...] | None = None) -> "CascadedTranslation":
        """The same method for the same domains on the features of another backbone, its cascade cut to `levels`.

        Its runs bear the backbone's name, and stand in `runs` here, too.
        """
        settings = self.settings.model_copy(update={"levels": levels or self.settings.levels})
        other = CascadedTranslation(settings, self.domains, self.root)
        other.backbone = backbone.to(self.device)
        other.runs, other.variant = self.runs, f"-{backbone.name}"
        return other

    def clamped_at(self, deviations: float) -> "CascadedTranslation":
        """The same method's level 5 on features that are clamped at so many standard deviations, not at one."""
        other = self.with_backbone(self.backbone, levels=(5,))
        other.deviations, other.variant = deviations, f"-clamped-at-{deviations:g}"
        return other

    def name(self, side: str) -> str:
        return self.domains[side]["train"].name

    @cached_property
    def backbone(self) -> Backbone:
        return BACKBONES[self.settings.backbone]().to(self.device)

    def store(self, side: str, split: str = "train", level: int = 5) -> FeatureStore:
        """The features of one domain; a test split is normalised with its training split's statistics.

        The levels of the cascade lie in one store; another `level`, which only Fig. 7 needs, in one of its own.
        """
        return self._store(side, split, self.settings.levels if level in self.settings.levels else (level,))

    @cache
    def _store(self, side: str, split: str, levels: tuple[int, ...]) -> FeatureStore:
        train = split == "train"
        return feature_store.build(
            self.domains[side][split],
            self.backbone,
            self.root / "features",
            levels=levels,
            views=self.settings.data.views if train else 1,
            statistics_of=None if train else self._store(side, "train", levels),
            clamped_at=self.deviations,
            device=self.device,
        )

    def _run(self, name: str, settings: dict, inputs: dict) -> Run:
        settings = settings | {"seed": self.settings.seed}
        run = Run(name + self.variant, settings, inputs, root=self.root / "runs", device=self.device)
        self.runs.append(run)
        return run

    @cache
    def classifier(self) -> DomainClassifier:
        """The backbone fine-tuned to tell the two domains apart, with its head (`Settings.backbones`)."""
        s = self.settings.backbones
        used = s.model_dump(include={"steps", "batch", "learning_rate"})
        stores = {side: self.store(side) for side in "ab"}
        inputs = {f"pictures_{side}": store.id for side, store in stores.items()}
        with self._run(f"classifier-{self.name('a')}-{self.name('b')}", used, inputs) as run:
            return fine_tune(run, self.backbone, stores["a"], stores["b"], s)

    @cache
    def inverter(self, side: str, level: int) -> nn.Module:
        """The inverter of one domain and level."""
        s = self.settings.inversion
        used = s.model_dump(exclude={"noise"})
        used |= {"steps": s.steps[level], "width": s.width[level], "crop": s.crop.get(level, 1)}
        used |= {"learning_rate": s.learning_rate[level]}
        used |= {"noise": s.noise[level]} if s.noise.get(level) else {}
        store = self.store(side, level=level)
        with self._run(f"inverter-{self.name(side)}-level{level}", used, {"features": store.id}) as run:
            store.resident("images", f"level_{level}", device=self.device)
            return train_inverter(run, store, level, self.backbone, s)

    @cache
    def translators(self, level: int) -> Translators:
        """G_A^i and G_B^i of one level, trained after those of all deeper levels."""
        deeper = self.translators(level + 1) if level < 5 else None
        return self._translators(level, self.settings.translation[level], deeper)

    @cache
    def translators_alone(self, level: int, **changes: float | str) -> Translators:
        """G_A^i and G_B^i of one level, trained without a deeper one (Fig. 7).

        `changes` to its settings take a loss away (Fig. 6: lambda_cycle=0.0) or put another in its place. Without any,
        level 5's are the cascade's.
        """
        settings = self.settings.translation[5] if level == 5 else self.settings.alone[level]
        values = {name: value if isinstance(value, str) else f"{value:g}" for name, value in changes.items()}
        suffix = ("" if level == 5 else "-alone") + "".join(f"-{name}-{value}" for name, value in values.items())
        return self._translators(level, Translation.model_validate(settings.model_dump() | changes), None, suffix)

    def _translators(
        self, level: int, settings: Translation, deeper: Translators | None, suffix: str = ""
    ) -> Translators:
        inputs = {f"features_{side}": self.store(side, level=level).id for side in "ab"}
        deeper_channels = deeper_side = None
        if deeper:
            inputs["deeper"] = deeper.run
            deeper_channels, deeper_side, _ = map_shape(self.backbone, level + 1, self.settings.data.size)
        shape = map_shape(self.backbone, level, self.settings.data.size)
        rows = (TrainingRows(self, side, level, deeper is not None) for side in "ab")
        name = f"translator-{self.name('a')}-{self.name('b')}-level{level}{suffix}"
        # Settings that a run's id names only if they are others
        later = {"identity_first": 0, "gan": "wgan-gp", "augment": False}
        used = settings.model_dump(exclude={key for key, value in later.items() if getattr(settings, key) == value})
        with self._run(name, used, inputs) as run:
            return train_translators(run, level, *rows, settings, shape, deeper_channels, deeper_side)

    def translated(self, side: str, level: int) -> torch.Tensor:
        """Level `level` of every training picture of `side`, translated to the other domain: float16 (N, C, h, w).

        The deeper translators stay fixed while a level is trained, so this is computed once for it. On the device if it
        fits there, as `FeatureStore.resident`.
        """
        cascade = self.cascade(level, inverters=())
        stores, made = {i: self.store(side, level=i) for i in range(level, 6)}, []
        size = 2 * len(stores[level]) * math.prod(map_shape(self.backbone, level, self.settings.data.size))
        device = self.device if feature_store.fits(size, self.device) else "cpu"
        for start in range(0, len(stores[level]), 64):
            rows = slice(start, start + 64)
            maps = {i: store.level(i, rows, self.device) for i, store in stores.items()}
            made.append(cascade.translate_maps(maps, OTHER[side])[level].half().to(device))
        return torch.cat(made)

    def cascade(self, shallowest: int | None = None, inverters: tuple[int, ...] | None = None) -> Cascade:
        """The cascade down to level `shallowest` (default: the last of the settings), with inverters of `inverters`
        (default: that level)."""
        shallowest = shallowest or min(self.settings.levels)
        levels = range(5, shallowest - 1, -1)
        inverters = (shallowest,) if inverters is None else inverters
        return self._cascade({i: self.translators(i) for i in levels}, inverters)

    def alone(self, level: int, **changes: float | str) -> Cascade:
        """One level translated by itself and inverted from there: a cascade of `translators_alone`."""
        return self._cascade({level: self.translators_alone(level, **changes)}, (level,))

    def _cascade(self, translators: dict[int, Translators], inverters: tuple[int, ...]) -> Cascade:
        return Cascade(
            backbone=self.backbone,
            statistics={
                side: {i: self.store(side, level=i).statistics[i] for i in {*translators, *inverters}} for side in "ab"
            },
            translators=translators,
            inverters={side: {i: self.inverter(side, i) for i in inverters} for side in "ab"},
            device=self.device,
        )

    # ---- the protocol of Table 2 (see `cdtlib.rivals.common.Translating`) ----------------------------------

    def fit(self) -> "CascadedTranslation":
        """Train what is still to train of the whole cascade; returns itself."""
        self.cascade()
        return self

    def translate(self, images: torch.Tensor, to: str) -> torch.Tensor:
        """Pictures of the other domain, float32 (N, 3, H, W) in [-1, 1] → pictures of domain `to`, "a" or "b"."""
        return self.cascade().translate(images, to)

    def _parts(self) -> dict[int, list[Run]]:
        """By level, deepest first: the runs of its translators and of an inverter for each domain."""
        levels = sorted(self.settings.translation, reverse=True)
        self.cascade(min(levels), inverters=tuple(levels))
        runs = {run.name.removesuffix(self.variant): run for run in self.runs if run.name.endswith(self.variant)}
        a, b = self.name("a"), self.name("b")
        return {
            i: [runs[f"{part}-level{i}"] for part in (f"translator-{a}-{b}", f"inverter-{a}", f"inverter-{b}")]
            for i in levels
        }

    @property
    def trained_on(self) -> set[str]:
        """What the parts that `efforts` counts were trained on (see `Run.trained_on`)."""
        return {run.trained_on for runs in self._parts().values() for run in runs}

    def efforts(self) -> dict[int, tuple[float, int]]:
        """By level, those below the cascade's end (`Settings.further`) included, what a cascade that ends there takes:
        seconds of training, and pictures of each domain seen. Trains what is still to train.

        Its translators, deepest first, and an inverter of the last level for each domain (of which each sees its own).
        """
        efforts, seconds, pictures = {}, 0.0, 0
        for level, (translators, *inverters) in self._parts().items():
            seconds += translators.seconds
            pictures += pictures_of(self.settings.translation[level], int(translators.curve()["step"].iloc[-1]))
            seen = self.settings.inversion.steps[level] * self.settings.inversion.batch
            efforts[level] = (seconds + sum(r.seconds for r in inverters), pictures + seen)
        return efforts

    def save(self) -> Path:
        """Train what is still to train, and keep the whole cascade in one folder that `cdt translate --run` takes."""
        cascade = self.cascade()
        used = (f"translator-{self.name('a')}-", *(f"inverter-{self.name(side)}-" for side in "ab"))
        last = f"-level{min(self.settings.levels)}{self.variant}"
        ids = sorted({run.id for run in self.runs if run.name.startswith(used) and run.name.endswith(last)})
        identity = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:12]
        folder = self.root / "runs" / f"cascade-{self.name('a')}-{self.name('b')}-{identity}"
        return cascade.save(folder, self.settings)


class TrainingRows:
    """One domain's training maps of a level, by rows (see `train_translators`)."""

    def __init__(self, method: CascadedTranslation, side: str, level: int, conditioned: bool):
        self.method, self.side, self.level = method, side, level
        self.store = method.store(side, level=level)
        self.deeper = method.store(side, level=level + 1) if conditioned else None

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def translated(self) -> torch.Tensor | None:
        """Level i+1 of all rows, translated; computed when the first row is asked for, so not for a finished run."""
        self.store.resident(f"level_{self.level}", device=self.method.device)
        if self.deeper is None:
            return None
        self.deeper.resident(f"level_{self.level + 1}", device=self.method.device)
        return self.method.translated(self.side, self.level + 1)

    def __call__(self, rows: torch.Tensor):
        translated, device = self.translated, self.method.device
        x = self.store.level(self.level, rows, device)
        if translated is None:
            return x, None, None
        deeper = translated[rows.to(translated.device)].to(device).float()
        return x, self.deeper.level(self.level + 1, rows, device), deeper

"""What the rivals share: their pictures, their settings, their runs, and the two protocols they answer to.

A rival is one file: its settings with the published values as defaults and, by profile, what differs from them; its
networks; its losses as pure functions; its training loop; and a class that names these, `Translating` for a method of
Table 2 or `Generating` for one of Table 3.

A run is found again by its settings and pictures, not by its code: while writing a method, delete its runs in
results/PROFILE/runs after each change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from cdtlib import saved
from cdtlib.cascade import OTHER
from cdtlib.data import to_float, to_uint8
from cdtlib.features import store
from cdtlib.features.store import FeatureStore
from cdtlib.settings import Settings, Strict, validated
from cdtlib.training.run import Run


class Rival:
    """A method that the paper compares with. `settings` are those of the whole experiment (profile, pair, seed, data);
    `changes` are to the method's own, over those of the profile. Runs and pictures lie under `root`.

    Raises ValueError for a setting that does not exist, an impossible value, or a profile unknown to the method.
    """

    name: ClassVar[str]  # as the paper's tables call it; in lower case what `cdt train --method` takes, so one word
    Options: ClassVar[type[Strict]]  # its settings; the defaults are the published ones
    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {}  # by profile (`paper` may be left out), what differs from them

    def __init__(self, settings: Settings, root: Path, **changes: Any):
        self.settings, self.root = settings, Path(root)
        if settings.profile not in {"paper", *self.PROFILES}:
            raise ValueError(
                f"{self.name} has no settings for profile {settings.profile!r}, and would train at its published size, "
                f"for days: add {settings.profile!r} to PROFILES in {type(self).__module__}"
            )
        self.options = validated(self.Options, self.PROFILES.get(settings.profile, {}) | changes)
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = auto if settings.device == "auto" else settings.device
        self.runs: list[Run] = []  # every run that was asked for, in order

    def pictures(self, domain, views: int = 1) -> FeatureStore:
        """The pictures of a domain and their augmented copies, the same ones that our method sees."""
        return store.build(domain, None, self.root / "features", levels=(), views=views)

    def run(self, what: str, inputs: dict[str, str], **used: Any) -> Run:
        """The run named <method>-<what>; `used` are the settings that determine it, by default all of the method."""
        used = (used or self.options.model_dump()) | {"seed": self.settings.seed}
        name = f"{self.name.lower().replace(' ', '-')}-{what}"
        run = Run(name, used, inputs, root=self.root / "runs", device=self.device)
        self.runs.append(run)
        return run


class Translating(Rival):
    """A rival of Table 2, for a pair of domains {"a": {"train": domain, "test": domain}, "b": …}.

    As our own method does (`CascadedTranslation`), it offers::

        fit()                   find, resume or train it; returns itself
        translate(images, to)   pictures of the other domain, float32 (N, 3, H, W) in [-1, 1] → pictures of domain `to`
        efforts(), trained_on   what its training took, and on which kinds of devices

    A method gives `model`, `train` and `steps`. Its model, an nn.Module of all that translation takes, translates with
    `model(x, to, z)`: z is the picture's random code, (N, model.code); a method without one has code 0.
    """

    def __init__(self, settings: Settings, domains: dict[str, dict], root: Path, **changes: Any):
        super().__init__(settings, root, **changes)
        self.domains = domains

    def model(self) -> nn.Module:
        """All that translation takes, with fresh weights."""
        raise NotImplementedError

    def steps(self, rows: int) -> int:
        """Training steps on a larger domain of `rows` pictures and copies."""
        raise NotImplementedError

    @property
    def seen(self) -> int:
        """Pictures of each domain that a step is drawn of."""
        return self.options.batch

    def train(self, run: Run, model: nn.Module, a: FeatureStore, b: FeatureStore, progress: "Progress") -> None:
        """The method's training loop: `track` `model` and `progress`, and `track_training` what else is trained; log at
        least one value, and look at the progress, in each step."""
        raise NotImplementedError

    @cached_property
    def fitted(self) -> "Fitted":
        """The trained model, found or trained when it is first asked for."""
        data = self.settings.data
        stores = {side: self.pictures(self.domains[side]["train"], data.views) for side in "ab"}
        held_out = {side: self.pictures(self.domains[side]["test"]) for side in "ab"}
        inputs = {f"pictures_{side}": s.id for side, s in stores.items()}
        inputs |= {f"held_out_{side}": s.id for side, s in held_out.items()}
        with self.run("-".join(self.settings.pair), inputs) as run:
            model = self.model().to(run.device)
            steps = self.steps(max(len(s) for s in stores.values()))
            progress = Progress(held_out, steps, self.settings.seed).to(run.device)
            if not run.reused:
                for s in stores.values():
                    s.resident("images", device=run.device)
            self.train(run, model, stores["a"], stores["b"], progress)
            if not run.keeps(model, progress):
                raise TypeError(f"{self.name}: train() must run.track(model=model, progress=progress) to keep them")
            model.zero_grad()  # on a GPU, gradients hold the memory of graphs
        return Fitted(model.eval().requires_grad_(False), progress, run)

    def fit(self) -> "Translating":
        self.fitted  # noqa: B018 (a property that does something)
        return self

    def translate(self, images: torch.Tensor, to: str) -> torch.Tensor:
        """Every picture with a random code of its own, the same whatever the batch (drawn from the settings' seed)."""
        if to not in OTHER:
            raise ValueError(f'to: the domains are "a" and "b", got {to!r}')
        return translate(self.fitted.model, images, to, self.settings.seed)

    @property
    def trained_on(self) -> set[str]:
        """What it was trained on (see `Run.trained_on`)."""
        return {self.fitted.run.trained_on}

    def efforts(self) -> dict[int, tuple[float, int]]:
        """By the steps of each moment of the progress: seconds of training, pictures of each domain seen."""
        log, moments = self.fitted.run.curve(), self.fitted.progress.moments
        seconds = np.interp(moments, [0, *log["step"]], [0.0, *log["seconds"]])
        return {m: (float(s), m * self.seen) for m, s in zip(moments, seconds, strict=True)}

    def save(self) -> Path:
        """Train it if need be, and keep what translation takes in a folder that `cdt translate --run` takes."""
        weights, about = self.fitted.model.state_dict(), {"options": self.options.model_dump_json()}
        # Not in the run's folder: another process may train or find it there and sweep up what is half-written
        folder = self.fitted.run.folder
        folder = folder.with_name(f"translation-{folder.name}")
        return saved.write(folder, weights, self.settings, method=self.name.lower(), **about)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> tuple["Translating", Settings]:
        """Read what `save` wrote: something to translate with. Raises FileNotFoundError or DamagedFile."""
        weights, settings, about = saved.read(folder)
        rival = cls(settings, {}, Path(folder))
        rival.options = cls.Options.model_validate_json(about["options"])
        model = rival.model()
        model.load_state_dict(weights)
        rival.fitted = Fitted(model.to(device).eval().requires_grad_(False))
        return rival, settings


@dataclass
class Fitted:
    """A trained model and, unless it was loaded from a file, how it came to be."""

    model: nn.Module
    progress: "Progress | None" = None
    run: Run | None = None


@torch.no_grad()
def translate(model: nn.Module, images: torch.Tensor, to: str, seed: int = 0, batch: int = 32) -> torch.Tensor:
    """Translate pictures (N, 3, H, W) in [-1, 1] with a rival's model; on the CPU, random codes from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    # One by one: what torch.randn(n, code) begins with depends on n
    codes = torch.stack([torch.randn(model.code, generator=generator) for _ in images])
    device, training = next(model.parameters(), codes).device, model.training
    model.eval()
    pairs = zip(images.split(batch), codes.split(batch), strict=True)
    made = torch.cat([model(x.to(device), to, z.to(device)).float().cpu() for x, z in pairs])
    model.train(training)
    return made


class Progress(nn.Module):
    """Translations of the held-out pictures at some moments of a training: what the method could do by then.

    They are looked at, not learned from. `to_<side>_<k>` is uint8 (N, 3, H, W), made after `moments[k]` steps. A run
    tracks it like a network, so it is kept with the weights.
    """

    SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
    PICTURES = 200  # at most, of each domain

    def __init__(self, held_out: dict[str, FeatureStore], steps: int, seed: int):
        super().__init__()
        self.moments = sorted({max(1, round(share * steps)) for share in self.SHARES})
        self.seed = seed
        self.sources = {side: store.images(slice(0, self.PICTURES)) for side, store in held_out.items()}
        for k in range(len(self.moments)):
            for to, side in OTHER.items():
                self.register_buffer(f"to_{to}_{k}", torch.zeros_like(to_uint8(self.sources[side])))

    def look(self, model: nn.Module, step: int) -> None:
        """To be called at the end of step `step`, counted from 0."""
        if step + 1 in self.moments:
            k = self.moments.index(step + 1)
            for to, side in OTHER.items():
                made = translate(model, self.sources[side], to, self.seed)
                self.get_buffer(f"to_{to}_{k}").copy_(to_uint8(made))

    def made(self, to: str) -> dict[int, torch.Tensor]:
        """By the number of steps, the translations to domain `to`: float32 (N, 3, H, W) in [-1, 1]."""
        return {moment: to_float(self.get_buffer(f"to_{to}_{k}").cpu()) for k, moment in enumerate(self.moments)}


class Generating(Rival):
    """A rival of Table 3, for one domain {"train": domain, "test": domain}.

    As our own method does (`DeepVAE`), it offers::

        fit()                       find, resume or train it; returns itself
        sample(n, seed)             n new pictures, float32 (n, 3, H, W) in [-1, 1]
        reconstruct(images)         pictures (N, 3, H, W) in [-1, 1], encoded and decoded: the same shape and range
        interpolate(x, y, t)        pictures at the share t, 0 … 1, of the way from the codes of x to those of y
    """

    def __init__(self, settings: Settings, domain: dict, root: Path, **changes: Any):
        super().__init__(settings, root, **changes)
        self.domain = domain

    @cached_property
    def training_pictures(self) -> FeatureStore:
        return self.pictures(self.domain["train"], self.settings.data.views)

    def fit(self) -> "Generating":
        raise NotImplementedError

    def sample(self, n: int, seed: int = 0) -> torch.Tensor:
        raise NotImplementedError

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def interpolate(self, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
        raise NotImplementedError


@torch.no_grad()
def batched(function: Callable, x: torch.Tensor, device: torch.device | str, batch: int = 32) -> torch.Tensor:
    """A function of tensors (N, …), applied to `batch` rows at a time on the device: float32 on the CPU."""
    return torch.cat([function(part.to(device)).float().cpu() for part in x.split(batch)])


def draw(pictures: FeatureStore, n: int, device: torch.device) -> torch.Tensor:
    """A batch of training pictures: (n, 3, H, W) in [-1, 1]."""
    return pictures.images(torch.randint(len(pictures), (n,), device=device), device)


def linear_decay(step: int, steps: int, start: float = 0.5) -> float:
    """Factor of a learning rate: 1 until the share `start` of the steps, then linearly to 0 at the end."""
    return min(1.0, (1 - step / steps) / (1 - start))


def parameters(network: nn.Module) -> int:
    """The number of trainable numbers in a network."""
    return sum(p.numel() for p in network.parameters())

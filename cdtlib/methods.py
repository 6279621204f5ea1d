"""All methods of Table 2, ours and its rivals, by the names that the command line knows them by."""

from pathlib import Path

import torch

from cdtlib import saved
from cdtlib.cascade import Cascade
from cdtlib.method import CascadedTranslation
from cdtlib.rivals import TABLE_2
from cdtlib.rivals.common import Translating
from cdtlib.settings import Settings, Translation
from cdtlib.training.common import EAGER

#: Each is made from (settings, domains, root) and offers fit(), translate(images, to) and save().
METHODS = {"cascade": CascadedTranslation, **TABLE_2}


def load(folder: Path, device: str = "cpu") -> tuple[Cascade | Translating, Settings]:
    """Read what a method's `save` wrote into `folder`: something with translate(images, to), and its settings.

    Raises FileNotFoundError, DamagedFile, or ValueError if it cannot be used here.
    """
    name = saved.read(folder)[2]["method"]
    return (Cascade if name == "cascade" else TABLE_2[name]).load(folder, device)


class First:
    """The first `count` pictures of a domain: a training step's memory does not depend on how many there are."""

    def __init__(self, domain, count: int):
        self.domain, self.count = domain, min(count, len(domain))
        self.name, self.split, self.size = domain.name, domain.split, domain.size
        self.fingerprint = f"{domain.fingerprint}-{self.count}"

    def __len__(self) -> int:
        return self.count

    def batch(self, indices):
        return self.domain.batch(indices)


def few_steps(folder: Path, method: str, settings: Settings, domains: dict[str, dict]) -> None:
    """Train a method (its name in `METHODS`) for a few steps on a few pictures, which takes as much memory as all."""
    count = 16
    domains = {s: {split: First(domain, count) for split, domain in own.items()} for s, own in domains.items()}
    gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    steps = EAGER + 2 if gpu else 2  # on a GPU until the updates are graphs, which have memory of their own
    if method == "cascade":

        def short(t: Translation) -> Translation:  # by all losses
            rows = count * settings.data.views
            return t.model_copy(update={"epochs": steps * t.batch / rows, "identity_first": 0})

        every = {i: short(t) for i, t in settings.translation.items()}
        each = dict.fromkeys(settings.inversion.steps, steps)
        inversion = settings.inversion.model_copy(update={"steps": each, "adversarial_start": 0.0})
        settings = settings.model_copy(update={"translation": every, "inversion": inversion})
        METHODS[method](settings, domains, folder).fit()
    else:
        rival = METHODS[method](settings, domains, folder)
        rival.steps = lambda rows: steps
        rival.fit()

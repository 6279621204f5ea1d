"""What training and translating cost, side by side in one run: see README.md beside this file.

Everything runs through the library's own code, on noise for pictures and untrained weights: neither changes the time.
On a CPU seconds are those that its cores computed, on a GPU the clock's.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.models import vgg19

from cdtlib import machine
from cdtlib.features import store
from cdtlib.features.backbones import BACKBONES, Backbone, map_shape
from cdtlib.files import write_json
from cdtlib.method import CascadedTranslation
from cdtlib.metrics.cost import training_memory
from cdtlib.rivals.cyclegan import CycleGAN
from cdtlib.settings import Settings, load
from cdtlib.training.run import Run
from cdtlib.training.translation import steps_of

PAPER_HOURS = 60  # 2.5 days on one RTX 2080 (§4)
PICTURES = 2547  # the paper's giraffes, its largest domain of zebra ↔ giraffe


class Noise:
    """A domain of random pictures."""

    def __init__(self, name: str, split: str, count: int, size: int):
        self.name, self.split, self.count, self.size = name, split, count, size
        self.fingerprint = f"noise-{name}-{split}-{count}-{size}"

    def __len__(self) -> int:
        return self.count

    def batch(self, indices) -> torch.Tensor:
        shape = (len(indices), 3, self.size, self.size)
        return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(len(indices)))


def noise(count: int, size: int) -> dict[str, dict]:
    return {s: {split: Noise(s, split, n, size) for split, n in (("train", count), ("test", 2))} for s in "ab"}


def untrained(settings: Settings) -> Backbone:
    """The profile's backbone; VGG-19 without its weights, which time does not depend on."""
    if settings.backbone != "vgg19":
        return BACKBONES[settings.backbone]()
    state = {f"features.{k}": v for k, v in vgg19(weights=None).features.state_dict().items()}
    return Backbone("vgg19", 1.0, state, "untrained")


def spent(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def step_seconds(train: Callable[[], object], device: str) -> dict[str, float]:
    """By run, the fastest of the steps that `train` makes, but for each run's first one."""
    stamps: dict[str, list[float]] = {}
    steps = Run.steps

    def stamped(run, total):
        own = stamps.setdefault(run.name, [])
        for step in steps(run, total):
            own.append(spent(device))
            yield step
        own.append(spent(device))

    Run.steps = stamped
    try:
        train()
    finally:
        Run.steps = steps
    return {name: min(b - a for a, b in zip(t[1:-1], t[2:], strict=True)) for name, t in stamps.items() if len(t) > 3}


def fastest(call: Callable[[], object], device: str, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = spent(device)
        call()
        times.append(spent(device) - began)
    return min(times)


def training(settings: Settings, steps: int, root: Path, device: str) -> list[dict]:
    """A step of each level's translators and of an inverter, and one of CycleGAN at its own size, for each picture."""
    rows = max(16, settings.translation[5].batch)
    few = {
        i: t.model_copy(update={"epochs": steps * t.batch / (rows * settings.data.views)})
        for i, t in settings.translation.items()
    }
    inversion = settings.inversion.model_copy(update={"steps": dict.fromkeys(settings.inversion.steps, steps)})
    changed = settings.model_copy(update={"translation": few, "inversion": inversion})
    method = CascadedTranslation(changed, noise(rows, settings.data.size), root)
    method.backbone = untrained(settings).to(device)
    seconds = step_seconds(method.fit, device)

    size = 256 if settings.profile == "paper" else settings.data.size
    rival = CycleGAN(load(settings.profile, settings.pair, data={"size": size}), noise(4, size), root)
    rival.steps = lambda _: steps
    seconds |= step_seconds(rival.fit, device)

    found = []
    for name, value in seconds.items():
        level = next((i for i in settings.levels if name.startswith("translator") and name.endswith(f"level{i}")), None)
        batch = few[level].batch if level else rival.options.batch if "cyclegan" in name else inversion.batch
        entry = {"what": f"training step, {name}", "seconds": value, "batch": batch, "seconds a picture": value / batch}
        if level:
            n = PICTURES * settings.data.views
            updates = steps_of(settings.translation[level], n, n)
            entry |= {"updates": updates, "hours in all": updates * value / 3600}
        elif "inverter" in name:
            updates = settings.inversion.steps[int(name[-1])]
            entry |= {"updates": updates, "hours in all": updates * value / 3600}
        found.append(entry)
    return found


def inference(settings: Settings, root: Path, device: str, repeats: int) -> list[dict]:
    """Translating pictures against the backbone's forward pass alone, which is a part of it."""
    method = CascadedTranslation(settings, noise(16, settings.data.size), root)
    method.backbone = untrained(settings).to(device)
    few = {i: t.model_copy(update={"epochs": 1e-9}) for i, t in settings.translation.items()}
    inversion = settings.inversion.model_copy(update={"steps": dict.fromkeys(settings.inversion.steps, 1)})
    method.settings = settings.model_copy(update={"translation": few, "inversion": inversion})
    cascade = method.cascade()
    found = []
    for n in (1, 32):
        images = 2 * torch.rand(n, 3, settings.data.size, settings.data.size, device=device) - 1
        with torch.no_grad():
            alone = fastest(lambda: method.backbone(images), device, repeats)  # noqa: B023 (called at once)
        whole = fastest(lambda: cascade.translate(images, "b"), device, repeats)  # noqa: B023
        found.append(
            {"what": f"translation, batch {n}", "seconds a picture": whole / n, "of the backbone's": whole / alone}
        )
    return found


def extraction(settings: Settings, root: Path, device: str, pictures: int) -> dict:
    """Writing a store against the bare backbone on the same pictures, and its size."""
    backbone = untrained(settings).to(device)
    domain = Noise("extracted", "train", pictures, settings.data.size)
    images = domain.batch(range(min(32, pictures))).to(device).float() / 127.5 - 1
    with torch.no_grad():
        bare = fastest(lambda: backbone(images), device, 2) / len(images)
    began = spent(device)
    store.build(domain, backbone, root / "extracted", levels=settings.levels, device=device)
    whole = (spent(device) - began) / pictures
    size = sum(2 * torch.Size(map_shape(backbone, i, settings.data.size)).numel() for i in settings.levels)
    return {
        "what": "extraction", "seconds a picture": whole, "share of the bare backbone's throughput": bare / whole,
        "bytes a picture": size + 3 * settings.data.size**2,
    }  # fmt: skip


def extract(folder: Path, settings: Settings, count: int) -> None:
    store.build(Noise("many", "train", count, settings.data.size), untrained(settings), folder, levels=settings.levels)


def table(entries: list[dict]) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(key for entry in entries for key in entry))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for entry in entries:
        cells = [entry.get(column, "") for column in columns]
        cells = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo", help="whose sizes are measured: smoke, demo, photos or paper")
    parser.add_argument("--steps", type=int, default=6, help="training steps of each kind; the fastest counts")
    parser.add_argument("--repeats", type=int, default=5, help="of a translation; the fastest counts")
    parser.add_argument("--pictures", type=int, default=64, help="to extract features of")
    parser.add_argument(
        "--memory",
        type=int,
        nargs="*",
        default=[],
        help="also the memory of extracting so many: 1000 20000",
    )
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    if options.steps < 3:
        parser.error("--steps: at least 3, as the first one of each kind does not count")
    settings = load(options.profile)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"profile {options.profile} on {machine.device()}, {torch.get_num_threads()} threads", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = training(settings, options.steps, root, device)
        found += inference(settings, root, device, options.repeats)
        found.append(extraction(settings, root, device, options.pictures))
        for count in options.memory:
            grown = training_memory(extract, settings, count)
            found.append({"what": f"memory that extraction of {count:,} pictures adds", "MB": grown and grown / 1e6})
    steps = {e["what"]: e["seconds a picture"] for e in found if "step" in e["what"]}
    (rival,) = (seconds for what, seconds in steps.items() if "cyclegan" in what)
    for what, seconds in steps.items():
        if "translator" in what:
            found.append({"what": f"CycleGAN's step over level {what[-1]}'s, a picture", "times": rival / seconds})
    hours = sum(entry.get("hours in all", 0.0) for entry in found)
    found.append({"what": "the whole ensemble, hours", "hours in all": hours, "the paper's": PAPER_HOURS})
    print(table(found))
    if options.out:
        about = {"profile": options.profile, "device": machine.device(), "threads": torch.get_num_threads()}
        write_json(options.out, about | {"versions": machine.versions(), "commit": machine.commit(), "found": found})


if __name__ == "__main__":
    main()

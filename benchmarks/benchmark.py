"""What training and translating cost, side by side in one run: see README.md beside this file.

Everything runs through the library's own code, on noise for pictures and untrained weights: neither changes the time.
On a CPU seconds are those that its cores computed, on a GPU the clock's.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torchvision.models import vgg19

from cdtlib import machine, processes
from cdtlib.batch import write_status
from cdtlib.data import to_float
from cdtlib.features import store
from cdtlib.features.backbones import BACKBONES, Backbone, map_shape
from cdtlib.files import write_json, write_text
from cdtlib.method import CascadedTranslation
from cdtlib.metrics.cost import training_memory
from cdtlib.rivals.cyclegan import CycleGAN
from cdtlib.settings import Settings, load
from cdtlib.training import common
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


class Operations(TorchDispatchMode):
    """Counts floating-point operations. (torch's FlopCounterMode refuses the penalty's gradient of a gradient.)"""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def watched(around: Callable[[Run, int, int], AbstractContextManager]):
    """Training where every step is taken inside `around(run, step, of how many)`."""
    steps = Run.steps

    def stepped(run, total):
        for step in steps(run, total):
            with around(run, step, total):
                yield step

    Run.steps = stepped
    try:
        yield
    finally:
        Run.steps = steps


def steps_taken(train: Callable[[], object], clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """By run, the seconds of the fastest of the steps that `train` makes, and the operations of one.

    The first step of a run, in which a level's inputs are translated, does not count; in the second one the operations
    are counted, and not its time. Neither is taken as a graph, whose operations nobody sees.
    """
    eager = common.EAGER
    seconds: dict[str, list[float]] = {}
    operations: dict[str, int] = {}

    @contextmanager
    def around(run, step, _):
        common.EAGER = sys.maxsize if step < 2 else eager
        if step == 1:
            with Operations() as counter:
                yield
            operations[run.name] = counter.total
            return
        began = clock()
        yield
        if step:
            seconds.setdefault(run.name, []).append(clock() - began)

    with watched(around):
        train()
    return {name: {"seconds": min(own), "operations": operations[name]} for name, own in seconds.items()}


def device_use(train: Callable[[], object]) -> dict[str, dict[str, float]]:
    """By run, the share of the time in which the GPU computes, and copies from and to the host in its last step."""
    found = {}

    @contextmanager
    def around(run, step, total):
        if step < total - 1:
            yield
            return
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            began = time.perf_counter()
            yield
            torch.cuda.synchronize()
            whole = 1e6 * (time.perf_counter() - began)
        work = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
        busy, end = 0.0, 0.0  # kernels can overlap
        for start, stop in sorted((e.time_range.start, e.time_range.end) for e in work):
            busy, end = busy + max(0.0, stop - max(start, end)), max(end, stop)
        copies = {way: sum(kind in e.name for e in work) for way, kind in (("from", "HtoD"), ("to", "DtoH"))}
        found[run.name] = {"busy": busy / whole} | {f"copies {way} the host": n for way, n in copies.items()}

    with watched(around):
        train()
    return found


@torch.no_grad()
def peak_of(precision: str, device: str, repeats: int = 5) -> float:
    """Operations a second of a large product of matrices or, where that is more, of a large 3×3 convolution; in
    float32 as the networks compute, so in TF32 on a GPU."""
    n, batch = (8192, 64) if device == "cuda" else (2048, 4)
    about = {"device": device, "dtype": {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]}
    x = torch.randn(n, n, **about)
    maps = torch.randn(batch, 256, 32, 32, **about).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(256, 256, 3, padding=1, **about).to(memory_format=torch.channels_last)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        product = 2 * n**3 / fastest(lambda: x @ x, device, repeats)
        return max(product, 2 * maps.numel() * 256 * 9 / fastest(lambda: convolution(maps), device, repeats))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def fastest(call: Callable[[], object], device: str, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = spent(device)
        call()
        times.append(spent(device) - began)
    return min(times)


def few_steps(settings: Settings, steps: int, rows: int, first: bool = False) -> Settings:
    """The same trainings, of so few steps by all losses, on `rows` pictures of each domain; `first`: of so many of the
    steps that come before, without critics."""
    levels = {}
    for i, t in settings.translation.items():
        before = steps if first and t.identity_first else 0
        passes = (1 if first else steps) * t.batch / (rows * settings.data.views)
        levels[i] = t.model_copy(update={"epochs": passes, "identity_first": before})
    inversion = {"steps": dict.fromkeys(settings.inversion.steps, steps), "adversarial_start": float(first)}
    inversion = settings.inversion.model_copy(update=inversion)
    return settings.model_copy(update={"translation": levels, "inversion": inversion})


def ours(
    settings: Settings, steps: int, root: Path, device: str, rows: int = 16, first: bool = False
) -> CascadedTranslation:
    method = CascadedTranslation(few_steps(settings, steps, rows, first), noise(rows, settings.data.size), root)
    method.backbone = untrained(settings).to(device)
    return method


def training(settings: Settings, steps: int, root: Path, device: str) -> list[dict]:
    """A step of each level's translators and of an inverter, and one of CycleGAN at its own size."""
    size = 256 if settings.profile == "paper" else settings.data.size

    def rival(seed: int = 0) -> CycleGAN:
        made = CycleGAN(load(settings.profile, settings.pair, seed, data={"size": size}), noise(4, size), root)
        made.steps = lambda _: steps
        return made

    def everything(seed: int = 0):
        ours(settings.model_copy(update={"seed": seed}), steps, root, device).fit()
        rival(seed).fit()

    taken = steps_taken(everything, partial(spent, device))
    use = device_use(partial(everything, 1)) if device == "cuda" else {}
    # The steps without critics that come first: of inverters, and of translators by eq. (3).
    some = settings.inversion.adversarial_start or any(t.identity_first for t in settings.translation.values())
    begun = steps_taken(ours(settings, steps, root, device, first=True).fit, partial(spent, device)) if some else {}
    bf16 = "bf16" if common.has_bf16(device) else "fp32"  # what `common.autocast` computes in
    peaks = {"fp32": peak_of("fp32", device), "bf16": peak_of(bf16, device)}
    n = PICTURES * settings.data.views
    found = []
    for name, step in [*taken.items(), *((f"{name}, without critics", step) for name, step in begun.items())]:
        part, updates, early = rival().options, None, "without" in name
        if name.startswith("translator"):
            part = settings.translation[int(name.partition(",")[0][-1])]
            updates = part.identity_first if early else steps_of(part, n, n) - part.identity_first
        elif name.startswith("inverter"):
            part = settings.inversion
            before = round(part.adversarial_start * part.steps[min(settings.levels)])
            updates = before if early else part.steps[min(settings.levels)] - before
        if updates == 0:
            continue
        seconds, operations = step["seconds"], step["operations"]
        entry = {"step of": name, "batch": part.batch, "seconds": seconds, "pictures a second": part.batch / seconds}
        entry |= {"TFLOP": operations / 1e12, "of the peak": operations / seconds / peaks[part.precision]}
        entry |= {"updates": updates, "hours in all": updates * seconds / 3600} if updates else {}
        found.append(entry | use.get(name, {}))
    (rivals,) = (entry["pictures a second"] for entry in found if "cyclegan" in entry["step of"])
    for entry in found:
        if "translator" in entry["step of"] and "without" not in entry["step of"]:
            entry["CycleGAN over it, a picture"] = entry["pictures a second"] / rivals
    return found


def growth(settings: Settings, steps: int, root: Path, device: str, counts: list[int]) -> list[dict]:
    """A step of level 5's translators with more and more pictures in each domain."""
    found = []
    for count in counts:
        method = ours(settings, steps, root / f"of-{count}", device, count)
        (step,) = steps_taken(lambda: method.translators(5), partial(spent, device)).values()  # noqa: B023
        found.append({"pictures a domain": count, "seconds of a step of level 5": step["seconds"]})
    return found


def together(options: argparse.Namespace) -> list[dict]:
    """Steps by the clock of several processes that share a batch, against those of one, and how well they use them."""
    found, alone = [], {}
    for count in options.processes:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), __file__]
        command += ["--profile", options.profile, "--steps", str(options.steps), "--worker"]
        command += ["--precision", options.precision] if options.precision else []
        environment = os.environ | {"CDT_PROGRESS": "none", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        for name, seconds in json.loads(answer).items():
            alone.setdefault(name, seconds * count)
            efficiency = alone[name] / seconds / count
            found.append({"step of": name, "processes": count, "seconds": seconds, "efficiency": efficiency})
    return found


def worker(settings: Settings, steps: int, device: str) -> None:
    """One of the processes of `together`: trains the translators, and prints the seconds of their steps."""
    root = processes.first(tempfile.mkdtemp)
    method = ours(settings, steps, Path(root), device)

    def train():
        for level in settings.levels:
            method.translators(level)

    def clock():
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    taken = steps_taken(train, clock)
    if processes.rank() == 0:
        print(json.dumps({name: step["seconds"] for name, step in taken.items()}))
        shutil.rmtree(root)
    processes.leave()


def inference(settings: Settings, root: Path, device: str, repeats: int) -> list[dict]:
    """Translating pictures against the backbone's forward pass alone, which is a part of it."""
    least = {"batch": 1, "adversarial": 0.0}  # a step each, which here shall only make the networks
    translation = {i: t.model_copy(update=least) for i, t in settings.translation.items()}
    method = ours(settings.model_copy(update={"translation": translation}), 1, root, device)
    cascade = method.cascade()
    found = []
    for n in (1, 32):
        images = 2 * torch.rand(n, 3, settings.data.size, settings.data.size, device=device) - 1
        with torch.no_grad():
            alone = fastest(lambda: method.backbone(images), device, repeats)  # noqa: B023 (called at once)
            with Operations() as of_backbone:
                method.backbone(images)
        whole = fastest(lambda: cascade.translate(images, "b"), device, repeats)  # noqa: B023
        with Operations() as of_all:
            cascade.translate(images, "b")
        entry = {"batch": n, "seconds a picture": whole / n, "of the backbone's": whole / alone}
        found.append(entry | {"operations of the backbone's": of_all.total / of_backbone.total})
    return found


def extraction(settings: Settings, root: Path, device: str, pictures: int) -> dict:
    """Writing a store against the bare backbone on the same pictures, and its size."""
    backbone = untrained(settings).to(device)
    domain = Noise("extracted", "train", pictures, settings.data.size)
    batches = [to_float(domain.batch(range(i, min(i + 32, pictures))).to(device)) for i in range(0, pictures, 32)]
    with torch.no_grad():
        backbone(batches[0])
        began = spent(device)
        for images in batches:
            backbone(images)
        bare = (spent(device) - began) / pictures
    began = spent(device)
    store.build(domain, backbone, root / "extracted", levels=settings.levels, device=device)
    whole = (spent(device) - began) / pictures
    size = sum(2 * torch.Size(map_shape(backbone, i, settings.data.size)).numel() for i in settings.levels)
    bytes_ = size + 3 * settings.data.size**2
    return {"seconds a picture": whole, "of the bare backbone's throughput": bare / whole, "bytes a picture": bytes_}


def extract(folder: Path, settings: Settings, count: int) -> None:
    store.build(Noise("many", "train", count, settings.data.size), untrained(settings), folder, levels=settings.levels)


def memory(settings: Settings, counts: list[int]) -> list[dict]:
    """What extraction of so many pictures adds to the memory of a process."""
    grown = {count: training_memory(extract, settings, count, device="cpu") for count in counts}
    return [{"pictures": count, "MB that extraction adds": size and size / 1e6} for count, size in grown.items()]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(entries: list[dict]) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(key for entry in entries for key in entry))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for entry in entries:
        cells = [entry.get(column, "") for column in columns]
        cells = [c if isinstance(c, str) else number(c) for c in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(record: dict) -> str:
    """A profile's numbers, as a part of the book's status pages."""
    threads = f"{record['threads']} thread" + "s" * (record["threads"] > 1) + f", torch {record['versions']['torch']}"
    title = f"### At the size of `{record['profile']}`" + (f", in {p}" if (p := record.get("precision")) else "")
    text = f"{title}\n\n{record['device']}, {threads}, commit `{record['commit']}`.\n"
    text += f"{note}\n" if (note := record.get("note")) else ""  # by hand, on what has changed since
    for title, entries in record["found"].items():
        text += f"\n{title}:\n\n{table(entries)}\n"
    parts = [entry for entry in record["found"]["Training"] if "updates" in entry]
    hours, operations = sum(e["hours in all"] for e in parts), sum(e["updates"] * e["TFLOP"] for e in parts)
    whole = f"{number(hours)} hours and {number(operations / 1e6)} EFLOP"
    text += f"\nThe whole ensemble, extrapolated to domains of {PICTURES:,} pictures, as its updates above: {whole}.\n"
    return text + f"The paper's: {PAPER_HOURS} hours on an RTX 2080.\n" * (record["profile"] == "paper")


def publish(record: dict) -> None:
    """Write a profile's numbers to results/benchmarks, and enter all that lie there into the status pages."""
    results = machine.results_root()
    (results / "benchmarks").mkdir(parents=True, exist_ok=True)
    gpu = record["device"].replace(" ", "-") if record["device"] != machine.cpu() else None
    name = "-".join(filter(None, (record["profile"], record.get("precision"), gpu)))
    write_json(results / "benchmarks" / f"{name}.json", record)
    pages = [page(json.loads(path.read_text())) for path in sorted((results / "benchmarks").glob("[!.]*.json"))]
    write_text(results / "benchmarks" / "benchmarks.md", INTRODUCTION + "\n".join(pages))
    for status in results.glob("*/status.json"):
        write_status(status)


INTRODUCTION = """## What it costs

Measured by `benchmarks/benchmark.py` with the library's own code. Seconds are those of the fastest of several steps: on
a CPU those that its cores computed, of several processes those of the clock.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"type": int, "nargs": "*", "default": []}
    parser.add_argument("--profile", default="demo", help="whose sizes are measured, such as photos")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="of translators and inverters, if not the profile's"
    )
    least = common.EAGER + 4 if torch.cuda.is_available() else 3
    parser.add_argument(
        "--steps",
        type=int,
        default=2 * least,
        help=f"training steps of each kind, at least {least}; the fastest counts",
    )
    parser.add_argument("--repeats", type=int, default=5, help="of a translation; the fastest counts")
    parser.add_argument("--pictures", type=int, default=256, help="to extract features of")
    parser.add_argument("--memory", **several, help="also the memory of extracting so many: 1000 20000")
    parser.add_argument("--grow", **several, help="also steps with so many pictures a domain: 100 2000")
    parser.add_argument("--processes", **several, help="also steps of so many processes: 1 2")
    parser.add_argument("--publish", action="store_true", help="enter the numbers into the book's status pages")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps < least:
        parser.error(
            f"--steps: at least {least}: the first two of each kind do not count, nor does what precedes a graph"
        )
    settings = load(options.profile)
    if precision := options.precision and {"precision": options.precision}:
        levels = dict.fromkeys(settings.levels, precision)
        settings = load(options.profile, translation=levels, inversion=precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for count in options.processes:  # now, not after an hour of measuring
        if count < 1:
            parser.error("--processes: at least 1")
        if device == "cuda" and count > torch.cuda.device_count():
            parser.error(f"--processes: there are {torch.cuda.device_count()} GPUs for {count} processes")
        for level in settings.levels:
            if (batch := settings.translation[level].batch) % count:
                parser.error(f"--processes: {count} cannot share batches of {batch} equally (level {level})")
    if options.worker:
        return worker(settings, options.steps, device)
    print(f"profile {options.profile} on {machine.device()}, {torch.get_num_threads()} threads", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = {
            "Training": training(settings, options.steps, root, device),
            "Translating, the backbone's forward pass included": inference(settings, root, device, options.repeats),
            "Extracting features to the disk": [extraction(settings, root, device, options.pictures)],
            "Steps with more pictures": growth(settings, options.steps, root, device, options.grow),
            "Memory with more pictures": memory(settings, options.memory),
            "Several processes": together(options),
        }
    about = {"profile": options.profile, "device": machine.device(), "threads": torch.get_num_threads()}
    about |= {"versions": machine.versions(), "commit": machine.commit()}
    about |= precision or {}
    record = about | {"found": {title: entries for title, entries in found.items() if entries}}
    print(page(record))
    if options.publish:
        publish(record)


if __name__ == "__main__":
    main()

"""Two processes train what one trains: the same weights within rounding, the same files, stopped and found together."""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import distributed, nn
from typer.testing import CliRunner

from cdtlib import cli, data, machine, processes
from cdtlib.deepvae import DeepVAE
from cdtlib.features.backbones import BACKBONES
from cdtlib.method import CascadedTranslation
from cdtlib.rivals import TABLE_2
from cdtlib.settings import load
from cdtlib.training import run
from cdtlib.training.run import Run

LEVELS = (5, 4)

# One process adds the gradients of a batch in another order than two do. In single precision that tells nothing apart:
# of a gradient that is rounding alone (a bias before an instance norm has one), Adam makes a step of the full length.
# So these trainings are in double precision.
TOLERANCE = 1e-9  # the learning rate is 1e-3


@contextmanager
def double_precision() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDT_PROGRESS", "none")
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(data, "float32", torch.float64)
        torch.set_default_dtype(torch.float64)
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def double() -> Iterator[None]:
    with double_precision():
        yield


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.delenv("CDT_CHECKPOINT_SECONDS", raising=False)


server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["pytest", "torch._dynamo", "cdtlib.deepvae"])


def together(root: Path, function, *arguments, world: int = 2, killed: int | None = None) -> list:
    """What `function(*arguments)` returns in each of two processes, or the name and text of what it raises.

    Nothing is returned if one of them is to be `killed`.
    """
    meeting = root / f"meeting-{len(list(root.glob('meeting-*')))}"
    meeting.mkdir()
    started = [server.Process(target=_member, args=(meeting, i, world, function, arguments)) for i in range(world)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        if process.exitcode is None:
            process.kill()
            pytest.fail("the processes hang")
    codes = [process.exitcode for process in started]
    if killed is not None:
        assert codes[killed] == -signal.SIGKILL and 0 not in codes
        return []
    assert codes == [0] * world
    return [json.loads((meeting / f"{i}.json").read_text()) for i in range(world)]


def _member(meeting: Path, number: int, world: int, function, arguments) -> None:
    torch.set_num_threads(1)
    # As torchrun says it, but met in a file: a free port may be taken by the time it is used.
    ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    ranks |= {"GROUP_WORLD_SIZE": 1}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"TORCHELASTIC_RUN_ID": "test"}
    distributed.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=number, world_size=world)
    try:
        with double_precision():
            result = function(*arguments)
    except Exception as error:
        result = [type(error).__name__, str(error)]
    (meeting / f"{number}.json").write_text(json.dumps(result))
    distributed.barrier()  # neither leaves while the other still talks to it
    distributed.destroy_process_group()


# ---- the method and DEEP-VAE -------------------------------------------------------------------------------


class Pictures:
    """A domain of coarse random pictures."""

    split, size = "train", 32

    def __init__(self, name: str, seed: int, count: int = 6):
        self.name, self.fingerprint = name, f"{name} {seed} {count}"
        coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        self.pictures = (nn.functional.interpolate(coarse, size=32) * 255).byte()

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices) -> torch.Tensor:
        return self.pictures[list(indices)]


def everything(root: Path, batch: int = 4) -> list[str]:
    """Train all there is; the hashes of the weights as they are in memory."""
    both = dict.fromkeys(LEVELS, 1e-3)
    settings = load(
        "smoke", ("zebra", "giraffe"), device="cpu", levels=LEVELS, data={"size": 32, "views": 2},
        inversion={
            "steps": dict.fromkeys(LEVELS, 4), "batch": 4, "learning_rate": both, "critic_width": 4, "ema": 0.5,
            "noise": {4: 0.5}, "adversarial_weight": 0.5, "precision": "fp32",
        },
        translation=dict.fromkeys(LEVELS, {
            "epochs": 1.0, "batch": batch, "learning_rate": 1e-3, "critic_steps": 2, "width": 8, "halvings": 1,
            "style": 8, "style_width": 8, "critic_width": 8, "ema": 0.5, "precision": "fp32",
        }),
        generation={
            "epochs": dict.fromkeys(LEVELS, 1.0), "batch": 4, "learning_rate": both, "ema": 0.5, "components": 2,
            "width": dict.fromkeys(LEVELS, 8), "latent": 6, "hidden": 16, "latent_below": 4, "style": 8,
            "style_width": 8, "critic_width": {4: 8}, "critic_steps": 2, "reconstruction_first": 1, "precision": "fp32",
        },
        backbones={"steps": 3, "batch": 4, "learning_rate": 1e-3},
    )  # fmt: skip
    names = zip("ab", settings.pair, strict=True)
    domains = {side: {"train": Pictures(name, seed)} for seed, (side, name) in enumerate(names)}
    method = CascadedTranslation(settings, domains, root)
    method.backbone = BACKBONES["embedded"]().to(torch.get_default_dtype())
    vae = DeepVAE(method, "a").fit()
    cascade = method.cascade()
    modules = [method.classifier(), cascade.inverters["a"][4], *(vae._part(i) for i in LEVELS)]
    modules += [cascade.translators[i][side] for i in LEVELS for side in "ab"]
    return [_hash(module) for module in modules]


def _hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.contiguous().numpy())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path, list]:
    """The runs of one process, those of two, and what the two hold in memory."""
    root = tmp_path_factory.mktemp("trained")
    with double_precision():
        everything(root / "one")
    return root / "one" / "runs", root / "two" / "runs", together(root, everything, root / "two")


RUNS = {
    "inverter-zebra-level4": {"image", "feature", "adversarial", "critic"},
    "inverter-giraffe-level4": {"image", "feature", "adversarial", "critic"},
    "translator-zebra-giraffe-level5": {"critic", "penalty", "adversarial", "cycle", "identity"},
    "translator-zebra-giraffe-level4": {"critic", "penalty", "adversarial", "cycle", "identity"},
    "vae-zebra-level5": {"reconstruction", "kl"},
    "generator-zebra-level4": {"critic", "penalty", "adversarial", "reconstruction", "kl"},
    "prior-zebra": {"log_likelihood"},
    "classifier-zebra-giraffe": {"cross_entropy", "accuracy"},
}


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_with_the_weights_and_the_log_of_one(trained, name):
    one, two = (next(runs.glob(f"{name}-*[0-9a-f]/")) for runs in trained[:2])
    assert one.name == two.name  # the same id: how many processes there were is no setting
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    weights, others = load_file(one / "weights.safetensors"), load_file(two / "weights.safetensors")
    assert weights.keys() == others.keys()
    for key, value in weights.items():
        torch.testing.assert_close(others[key], value, atol=TOLERANCE, rtol=1e-7, msg=lambda m, k=key: f"{k}: {m}")
    one, two = (pd.read_json(folder / "log.jsonl", lines=True) for folder in (one, two))
    assert set(one.columns) == {"step", "seconds"} | RUNS[name]
    one, two = one.drop(columns="seconds"), two.drop(columns="seconds")
    pd.testing.assert_frame_equal(one, two, rtol=1e-5, atol=1e-9)  # six digits are logged


def test_all_processes_hold_the_weights_that_are_kept(trained):
    first, second = trained[2]
    assert first == second


def test_what_two_trained_is_found_by_one_and_by_two(trained, tmp_path, monkeypatch, double):
    _, two, held = trained
    monkeypatch.setattr(Run, "_write_checkpoint", lambda *_: pytest.fail("trained again"))
    assert everything(two.parent) == held[0]
    assert together(tmp_path, everything, two.parent) == held
    for folder in two.glob("*/"):
        assert json.loads((folder / "done.json").read_text())["processes"] == 2


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(tmp_path):
    told = together(tmp_path, everything, tmp_path / "none", 5)
    assert told[0][0] == "ValueError" and "translation.5.batch: 5 samples cannot be shared equally by 2" in told[0][1]
    assert told[1][0] == "FirstFailed"
    assert not (tmp_path / "none").exists()


# ---- shares ------------------------------------------------------------------------------------------------


def shares() -> list:
    torch.manual_seed(0)
    rows = torch.arange(8)
    noise = processes.noise_like(torch.zeros(4, 3))
    average = processes.mean(torch.tensor(float(processes.rank())))
    try:
        processes.share(torch.zeros(3))
    except ValueError as error:
        refused = str(error)
    return [processes.share(rows).tolist(), noise.tolist(), average.item(), refused]


def test_shares_are_of_one_batch(tmp_path, double):
    parts = together(tmp_path, shares)
    rows, noise = ([parts[i % 2][which][i // 2] for i in range(8)] for which in (0, 1))
    torch.manual_seed(0)
    assert rows == list(range(8)) and noise == torch.randn(8, 3).tolist()
    for half in (0, 1):  # halves of a share are shares of the halves
        assert {row // 4 for part in parts for row in part[0][2 * half : 2 * half + 2]} == {half}
    assert [part[2] for part in parts] == [0.5, 0.5]
    assert all("batch: 3 samples cannot be shared equally by 2 processes" in part[3] for part in parts)


def test_a_plain_process_shares_nothing():
    x = torch.zeros(3, 2)
    assert processes.world() == 1 and processes.rank() == 0
    assert processes.share(x) is x and processes.mean(x) is x and processes.first(lambda: x) is x
    torch.manual_seed(0)
    noise = processes.noise_like(x)
    torch.manual_seed(0)
    assert torch.equal(noise, torch.randn_like(x))
    assert not distributed.is_initialized()


# ---- runs --------------------------------------------------------------------------------------------------

STEPS = 12


def train(root: Path, stop: int | None = None, spoil: str = "", share: bool = True) -> list:
    """Train a tiny network, with a checkpoint after each step; leave before step `stop`. (reused, steps seen)"""
    seen = []
    with Run("tiny", {"seed": 3, "share": share}, root=root, log_every=5, checkpoint_seconds=0) as run:
        # Normalised by the batch, if every process does the whole of it.
        network = nn.Sequential(nn.Linear(4, 8), nn.Identity() if share else nn.BatchNorm1d(8), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        with torch.no_grad():
            network[2].bias += processes.rank()  # all begin with the weights of the first …
        run.track(network=network, optimizer=optimizer)
        for step in run.steps(STEPS):
            if step == stop:
                break
            seen.append(step)
            x = torch.randn(6, 4)
            loss = network(processes.share(x) if share else x).square().mean()
            if step == 8 and spoil == "loss" and processes.rank() == 1:
                loss = loss * float("nan")
            if step == 8 and spoil == "kill" and processes.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 8 and spoil == "disk":
                os.fsync = _full
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss, rank=processes.rank())
            if step == STEPS - 1:
                with torch.no_grad():
                    network[2].bias += processes.rank()
    if stop is None:
        assert processes.same(network[2].bias.item()) == network[2].bias.item()  # … and end with them
    return [run.reused, seen]


def _full(file):
    raise OSError(errno.ENOSPC, "No space left on device")


def result(root: Path) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    (folder,) = root.glob("tiny-*/")
    assert sorted(p.name for p in folder.iterdir()) == [
        "done.json",
        "log.jsonl",
        "settings.json",
        "weights.safetensors",
    ]
    log = pd.read_json(folder / "log.jsonl", lines=True)
    return load_file(folder / "weights.safetensors"), log.drop(columns="seconds")


def assert_same(one: Path, two: Path, exact: bool = False) -> None:
    (weights, log), (others, other_log) = result(one), result(two)
    tolerance = {"atol": 0, "rtol": 0} if exact else {"atol": TOLERANCE, "rtol": 1e-7}
    torch.testing.assert_close(others, weights, **tolerance)
    pd.testing.assert_frame_equal(log[["step", "loss"]], other_log[["step", "loss"]], atol=0, rtol=1e-5)  # six digits


def test_stopped_and_resumed_by_any_number_of_processes(tmp_path, double):
    train(tmp_path / "one")
    together(tmp_path, train, tmp_path / "two")
    assert_same(tmp_path / "one", tmp_path / "two")
    assert result(tmp_path / "two")[1]["rank"].tolist() == [0.5] * 3  # means over the processes

    together(tmp_path, train, tmp_path / "resumed", 7)
    assert together(tmp_path, train, tmp_path / "resumed") == [[False, list(range(7, STEPS))]] * 2
    assert_same(tmp_path / "two", tmp_path / "resumed", exact=True)
    assert together(tmp_path, train, tmp_path / "resumed") == [[True, []]] * 2

    together(tmp_path, train, tmp_path / "2-3-1", 3)
    together(tmp_path, train, tmp_path / "2-3-1", 8, world=3)
    assert train(tmp_path / "2-3-1") == [False, list(range(8, STEPS))]
    assert_same(tmp_path / "one", tmp_path / "2-3-1")


def test_a_killed_process_ends_all_and_one_resumes(tmp_path, double):
    together(tmp_path, train, tmp_path / "killed", None, "kill", killed=1)
    assert train(tmp_path / "killed") == [False, list(range(8, STEPS))]
    train(tmp_path / "one")
    assert_same(tmp_path / "one", tmp_path / "killed")


def test_a_loop_that_shares_nothing_has_the_same_result(tmp_path, double):
    train(tmp_path / "one", share=False)
    together(tmp_path, train, tmp_path / "two", None, "", False)
    assert_same(tmp_path / "one", tmp_path / "two", exact=True)


@pytest.mark.parametrize(
    "spoil, error, message",
    [("loss", "NonFiniteLoss", "'loss' became nan in steps 9 to 9"), ("disk", "OSError", "No space left")],
)
def test_what_stops_one_process_stops_all(tmp_path, spoil, error, message, double):
    told = together(tmp_path, train, tmp_path / "runs", None, spoil)
    assert [name for name, _ in told] == [error, "FirstFailed"] and message in told[0][1]
    (folder,) = (tmp_path / "runs").glob("tiny-*/")
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-8.pt"]  # the last good one
    together(tmp_path, train, tmp_path / "runs")
    train(tmp_path / "one")
    assert_same(tmp_path / "one", tmp_path / "runs")


def train_apart(root: Path) -> list:
    run.SEEN_SECONDS = 0.0
    try:
        return train(root / str(processes.rank()))
    finally:
        if processes.rank() == 0:
            assert not [lock for lock in (root / "0").glob("tiny-*.lock") if _is_locked(lock)]


def _is_locked(path: Path) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_folder_that_is_not_shared_is_refused_at_once(tmp_path, double):
    told = together(tmp_path, train_apart, tmp_path)
    assert [name for name, _ in told] == ["ValueError", "FirstFailed"] and "do not see there" in told[0][1]
    assert not list(tmp_path.glob("*/tiny-*/log.jsonl"))  # nothing was trained
    assert train(tmp_path / "0") == [False, list(range(STEPS))]


def rival(root: Path, name: str) -> list[str]:
    """Train three steps of a rival: the hash of its weights."""
    domains = {side: dict.fromkeys(("train", "test"), Pictures(side, seed)) for seed, side in enumerate("ab")}
    method = TABLE_2[name](load("smoke", device="cpu"), domains, root)
    method.steps = lambda rows: 3
    return [_hash(method.fit().fitted.model)]


@pytest.mark.parametrize("name", TABLE_2)
def test_a_rival_trained_by_two_processes_is_that_of_one(name, tmp_path, double):
    assert together(tmp_path, rival, tmp_path / "two", name) == 2 * [rival(tmp_path / "one", name)]


# ---- torchrun ----------------------------------------------------------------------------------------------


def torchrun(*command, **environment) -> subprocess.CompletedProcess:
    return start(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command], **environment)


def start(command, **environment) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    folders = [tmp_path / "zebra", tmp_path / "giraffe"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        for i, picture in enumerate(Pictures(folder.name, seed, 5).pictures):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((64, 64)).save(folder / f"{i}.png")
    return folders


def test_torchrun_trains_and_says_so_once(photos, tmp_path):
    command = ["train", *photos, "--profile", "smoke", "--results", tmp_path / "out"]
    done = torchrun("-m", "cdtlib.cli", *command, CDT_PROGRESS="lines")
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "out" / "smoke" / "runs"
    (cascade,) = runs.glob("cascade-*/")
    *counts, last = done.stdout.splitlines()
    assert counts == [f"{name}: 4 pictures to train on, 1 held out" for name in ("zebra", "giraffe")]
    assert last == f"Trained. Translate with: cdt translate PHOTO --run {cascade} --to b --out FOLDER"
    for folder in runs.glob("*[0-9a-f]/done.json"):
        assert json.loads(folder.read_text())["processes"] == 2
        assert done.stderr.count(folder.parent.name.rpartition("-")[0] + ":") == 1  # "…: 4 steps in 0:01"

    before = load_file(cascade / "translation.safetensors")
    again = CliRunner().invoke(cli.app, [str(c) for c in command])
    assert again.exit_code == 0 and again.stdout == done.stdout  # one process finds what two have trained
    after = load_file(cascade / "translation.safetensors")
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_two_machines_meet(tmp_path):
    script = tmp_path / "meet.py"
    script.write_text(
        "import torch\nfrom cdtlib import machine, processes\n"
        "print(*machine.processes(), processes.mean(torch.tensor(float(processes.rank()))).item())\nprocesses.leave()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    one = ["-m", "torch.distributed.run", "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, script]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(start, [one, one]))
    assert [process.stdout for process in done] == ["2 1 0.5\n"] * 2, done[0].stderr


def test_other_commands_are_refused_under_torchrun(monkeypatch, tmp_path):
    launched(monkeypatch, 2, 2, 1)
    done = CliRunner().invoke(cli.app, ["run", "03", "--profile", "smoke", "--results", str(tmp_path)])
    assert done.exit_code == 2 and "torchrun: only `cdt train` shares" in done.stderr
    assert list(tmp_path.iterdir()) == []


def launched(monkeypatch, total: int, here: int, machines: int) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name, value in {"WORLD_SIZE": total, "LOCAL_WORLD_SIZE": here, "GROUP_WORLD_SIZE": machines}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("here", [1, 2])
def test_machines_with_unequally_many_processes_are_refused_by_each(monkeypatch, here):
    launched(monkeypatch, 3, here, 2)
    with pytest.raises(ValueError, match="torchrun started 3 processes on 2 machines: start as many on each"):
        machine.processes()

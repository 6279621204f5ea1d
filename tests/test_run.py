"""A run is found, resumed or trained; whatever interrupts it, the result is the same, bit for bit."""

import errno
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file
from torch import nn

from cdtlib import files
from cdtlib.files import DamagedFile
from cdtlib.training import run as run_module
from cdtlib.training.run import NonFiniteLoss, Run

STEPS = 23
SETTINGS = {"seed": 3, "steps": STEPS, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.delenv("CDT_CHECKPOINT_SECONDS", raising=False)
    # Only a power cut needs it, which no test can make; and on a busy disk it takes most of the time.
    monkeypatch.setattr(os, "fsync", lambda file: None)


class Network(nn.Module):
    """Some of all that has a state: channels_last convolutions, batch norm's buffers, dropout, tied weights."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.second(self.first(self.body(x).mean((2, 3))))


def train(root, *, stop=None, settings=SETTINGS, steps=STEPS, every=0.0, spoil=None, pause=0.0, inputs=None):
    """Train a tiny network as the real loops do; leave before step `stop`. Returns the run and the network."""
    with Run("tiny", settings, inputs, root=root, log_every=4, checkpoint_seconds=every) as run:
        network = Network()
        optimizer = torch.optim.Adam(network.parameters(), lr=settings["learning_rate"], fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        run.track(network=network, optimizer=optimizer)
        run.track(schedule=schedule)
        for step in run.steps(steps):
            if step == stop:
                break
            x = torch.randn(4, 3, 6, 6) * random.random() + float(np.random.rand())
            loss = network(x).square().mean()
            if spoil:
                loss = spoil(step, loss, network)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            run.log(loss=loss, number=step)
            if step % 3 == 0:
                run.log(sometimes=loss * 2)
            time.sleep(pause)
    return run, network


def result(run):
    """What must not depend on interruptions: the weights' bytes, and the log but for its seconds."""
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "done.json",
        "log.jsonl",
        "settings.json",
        "weights.safetensors",
    ]
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    for line in log:
        del line["seconds"]
    return (run.folder / "weights.safetensors").read_bytes(), log


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDT_PROGRESS", "none")
        run, _ = train(tmp_path_factory.mktemp("undisturbed"), every=1e9)
    return result(run)


# ---- identity ----------------------------------------------------------------------------------------------


class Model(BaseModel):
    seed: int = 3
    steps: int = STEPS
    learning_rate: float = 1e-3


def test_the_id_is_of_name_settings_and_inputs(tmp_path):
    run = Run("a", SETTINGS, {"features": "1f"}, root=tmp_path)
    assert run.folder == tmp_path / f"a-{run.id}"
    assert len(run.id) == 12 and set(run.id) <= set("0123456789abcdef")
    same = [
        Run("a", dict(reversed(SETTINGS.items())), {"features": "1f"}, root=tmp_path / "elsewhere"),
        Run("a", Model(), {"features": "1f"}, device="meta", log_every=1, checkpoint_seconds=1),
    ]
    assert {other.id for other in same} == {run.id}
    others = [
        Run("b", SETTINGS, {"features": "1f"}),
        Run("a", SETTINGS, {"features": "2f"}),
        Run("a", SETTINGS, {"feature": "1f"}),
        Run("a", SETTINGS),
        Run("a", SETTINGS | {"seed": 4}, {"features": "1f"}),
        Run("a", SETTINGS | {"new": None}, {"features": "1f"}),
    ]
    assert len({other.id for other in [run, *others]}) == 7
    assert not run.folder.exists()


def test_the_id_stays_what_it_is():
    """Another id would orphan every stored run; change this number only knowingly."""
    run = Run("translator-5-zebra-giraffe", {"seed": 0, "rate": 1e-4, "b": [0.5, 0.9], "ü": None}, {"a": "0f"})
    assert run.id == "20daad4092db"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"a": {"b": [1, Path("x")]}}, r"settings\.a\.b\[1\] is a PosixPath"),
        ({"a": torch.tensor(1.0)}, r"settings\.a is a Tensor"),
        ({"a": np.float64(1.0)}, r"settings\.a is a float64"),
        ({"a": {1.5: 2}}, r"settings\.a: the key 1\.5 is a float"),
        ({"a": {1, 2}}, r"settings\.a is a set"),
    ],
)
def test_settings_that_json_cannot_hold_are_refused_by_name(settings, message):
    with pytest.raises(TypeError, match=message):
        Run("a", settings)


def test_settings_and_names_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"settings\.rate is nan"):
        Run("a", {"rate": float("nan")})
    for name in ("", "a/b", "..", ".hidden"):
        with pytest.raises(ValueError, match="a run's name"):
            Run(name, {})
    with pytest.raises(ValueError, match="log_every"):
        Run("a", {}, log_every=0)
    with pytest.raises(ValueError, match="between checkpoints"):
        Run("a", {}, checkpoint_seconds=-1)


def test_bad_environment_is_refused(monkeypatch):
    monkeypatch.setenv("CDT_CHECKPOINT_SECONDS", "often")
    with pytest.raises(ValueError, match="CDT_CHECKPOINT_SECONDS .* 'often'"):
        Run("a", {})
    monkeypatch.delenv("CDT_CHECKPOINT_SECONDS")
    monkeypatch.setenv("CDT_PROGRESS", "loud")
    with pytest.raises(ValueError, match="CDT_PROGRESS .* 'loud'"):
        Run("a", {})


def test_levels_as_keys_are_read_back_as_they_were_written(tmp_path):
    for _ in range(2):
        with Run("a", {"weights": {5: 1.0, 4: 0.1}, "betas": (0.5, 0.9)}, root=tmp_path) as run:
            pass
    record = json.loads((run.folder / "settings.json").read_text())
    assert record["settings"] == {"weights": {"5": 1.0, "4": 0.1}, "betas": [0.5, 0.9]}


# ---- found, resumed, trained -------------------------------------------------------------------------------


def test_a_finished_run_is_found(tmp_path, undisturbed):
    first, trained = train(tmp_path)
    assert not first.reused and first.seconds > 0
    assert result(first) == undisturbed
    second, loaded = train(tmp_path, spoil=lambda *_: pytest.fail("trained again"))
    assert second.reused and second.id == first.id
    assert second.seconds == pytest.approx(first.seconds, abs=1e-3)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    done = json.loads((first.folder / "done.json").read_text())
    assert done["steps"] == STEPS and done["sha256"] == files.sha256(first.folder / "weights.safetensors")
    assert done["device"].startswith("cpu") and done["torch"] == torch.__version__


def test_a_run_knows_the_devices_of_all_its_attempts(tmp_path, monkeypatch):
    for device, stop in (("NVIDIA H200", 7), ("cpu (x86_64, 1 threads)", 12), ("cpu (x86_64, 2 threads)", None)):
        monkeypatch.setattr(run_module, "_device_name", lambda _, device=device: device)
        run, _ = train(tmp_path, stop=stop)
        assert run.trained_on == (None if stop else "NVIDIA H200 + CPU")
    assert train(tmp_path)[0].trained_on == "NVIDIA H200 + CPU"


def test_some_of_a_finished_runs_modules_can_be_loaded_alone(tmp_path):
    _, trained = train(tmp_path)
    with Run("tiny", SETTINGS, root=tmp_path) as run:
        network = Network()
        run.track(network=network)
    assert torch.equal(network.first.weight, trained.first.weight)


@pytest.mark.parametrize("stop", range(0, STEPS, 3))
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, undisturbed, stop):
    stopped, _ = train(tmp_path, stop=stop)
    assert not (stopped.folder / "done.json").exists()
    seen = []
    run, _ = train(tmp_path, spoil=lambda step, loss, _: seen.append(step) or loss)
    assert seen == list(range(stop, STEPS))
    assert not run.reused
    assert result(run) == undisturbed


def test_stopped_again_and_again(tmp_path, undisturbed):
    for stop in (2, 3, 10, 10, 11, 22):
        train(tmp_path, stop=stop)
    run, _ = train(tmp_path)
    assert result(run) == undisturbed
    assert run.seconds > 0


def test_seconds_and_sources_are_those_of_all_attempts(tmp_path, monkeypatch):
    clock, commits = iter(range(100)), iter(("one", "one", "two"))
    monkeypatch.setattr(Run, "_spent", lambda run: float(next(clock)))  # a second passes for each step
    monkeypatch.setattr(run_module.machine, "commit", lambda: next(commits))
    for stop in (7, 13, None):
        run, _ = train(tmp_path, stop=stop)
    assert run.seconds == STEPS
    assert run.curve()["seconds"].tolist() == run.curve()["step"].tolist()
    assert run.trained_with.startswith("one + two, ")


def test_seconds_are_those_that_the_cpu_computed(tmp_path):
    def spoil(step, loss, _):
        if step == 2:
            time.sleep(0.3)  # as if another process had the core
        if step == 5:
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass
        return loss

    run, _ = train(tmp_path, spoil=spoil)
    log = run.curve().set_index("step")["seconds"]
    assert log[4] < 0.25 and log[8] - log[4] >= 0.09


def test_work_since_the_last_checkpoint_is_done_again(tmp_path, undisturbed):
    train(tmp_path, stop=9)  # a checkpoint after every step: the last after step 9
    train(tmp_path, stop=18, every=1e9)  # none: the lines of steps 12 and 16 are in the log, but not the checkpoint
    seen = []
    run, _ = train(tmp_path, spoil=lambda step, loss, _: seen.append(step) or loss)
    assert seen[0] == 9
    assert result(run) == undisturbed


def test_an_error_in_the_loop_keeps_the_checkpoint(tmp_path, undisturbed):
    def fail(step, loss, _):
        if step == 11:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, spoil=fail)
    run, _ = train(tmp_path)
    assert result(run) == undisturbed


def test_initial_weights_and_what_follows_are_the_same_every_time(tmp_path):
    def draws():
        return torch.rand(()).item(), np.random.rand(), random.random()

    seen = []
    for stop in (0, 5, None, None):  # left at once, interrupted, finished, found
        with Run("tiny", SETTINGS, root=tmp_path, checkpoint_seconds=0) as run:
            network = Network()
            start = network.first.weight.clone()
            run.track(network=network)
            for step in run.steps(10):
                if step == stop:
                    break
            seen.append((start, draws()))
    assert run.reused
    assert all(torch.equal(start, seen[0][0]) for start, _ in seen)
    assert seen[2][1] == seen[3][1]
    with Run("tiny", SETTINGS | {"seed": 4}, root=tmp_path):
        assert not torch.equal(Network().first.weight, seen[0][0])


def test_checkpoints_come_as_often_as_asked(tmp_path, monkeypatch):
    written = []
    write = Run._write_checkpoint
    monkeypatch.setattr(Run, "_write_checkpoint", lambda run, done: written.append(done) or write(run, done))
    train(tmp_path / "never", every=1e9)
    assert written == [STEPS]
    written.clear()
    monkeypatch.setenv("CDT_CHECKPOINT_SECONDS", "0")
    train(tmp_path / "always", every=1e9)
    assert written == list(range(1, STEPS + 1))


def test_only_the_last_checkpoint_is_kept(tmp_path):
    run, _ = train(tmp_path, stop=7)
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "checkpoint-7.pt",
        "log.jsonl",
        "settings.json",
        "state.json",
    ]


# ---- kill -9 -----------------------------------------------------------------------------------------------

# A server process that has imported everything and trained nothing, from which children fork in no time.
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["pytest", "torch._dynamo", "cdtlib.training.run"])  # Adam needs torch._dynamo


def _child(root, *, die_at_call=None, count=None, pause=0.0, every=0.0):
    """Train in a process of its own; kill it (SIGKILL) just before its `die_at_call`th change of the disk."""
    torch.set_num_threads(1)
    os.environ["CDT_PROGRESS"] = "none"
    calls = 0

    def dying(change):
        def call(*arguments, **options):
            nonlocal calls
            if calls == die_at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return change(*arguments, **options)

        return call

    os.fsync = lambda file: None
    for name in ("replace", "fsync", "unlink", "truncate"):
        setattr(os, name, dying(getattr(os, name)))
    train(root, pause=pause, every=every)
    if count is not None:
        count.value = calls


def child(root, **options):
    process = server.Process(target=_child, args=(root,), kwargs=options)
    process.start()
    return process


def finish(process):
    process.join(120)
    if process.exitcode is None:
        process.kill()
        pytest.fail("the process hangs")
    return process.exitcode


def test_killed_at_random_moments(tmp_path, undisturbed):
    chance = random.Random()  # another choice each time the tests run: over time, every moment
    kills = 0
    for _ in range(6):
        process = child(tmp_path, pause=0.05)
        time.sleep(chance.uniform(0.0, 0.6))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        kills += finish(process) == -signal.SIGKILL
    assert finish(child(tmp_path)) == 0
    run, _ = train(tmp_path, spoil=lambda *_: pytest.fail("trained again"))
    assert kills > 0
    assert result(run) == undisturbed


def test_killed_before_every_change_of_the_disk(tmp_path, undisturbed):
    """Walks through a whole run, dying two changes further on each time; and a few runs from the start."""
    count = server.Value("i", 0)
    assert finish(child(tmp_path / "whole", count=count, every=1e9)) == 0
    assert count.value > 10
    for moment in range(count.value):
        root = tmp_path / str(moment)
        assert finish(child(root, die_at_call=moment, every=1e9)) == -signal.SIGKILL
        run, _ = train(root)
        assert result(run) == undisturbed

    root = tmp_path / "walk"
    kills = 0
    while finish(child(root, die_at_call=13)) == -signal.SIGKILL:
        kills += 1
        assert kills < 100, "makes no headway"
    assert kills > 5
    run, _ = train(root, spoil=lambda *_: pytest.fail("trained again"))
    assert result(run) == undisturbed


def test_two_processes_train_it_once(tmp_path, undisturbed):
    """Both want it; one gets it; the other waits and finds it."""
    both = [server.Process(target=_contender, args=(tmp_path, number)) for number in range(2)]
    for process in both:
        process.start()
    assert [finish(process) for process in both] == [0, 0]
    reports = [json.loads((tmp_path / f"report-{number}.json").read_text()) for number in range(2)]
    assert sorted(report["trained"] for report in reports) == [0, STEPS]
    assert sorted(report["reused"] for report in reports) == [False, True]
    run, _ = train(tmp_path / "runs")
    assert result(run) == undisturbed
    said = [(tmp_path / f"stderr-{number}").read_text() for number in range(2)]
    assert sorted(text.count("another process is training this run; waiting for it") for text in said) == [0, 1]


def _contender(root, number):
    torch.set_num_threads(1)
    os.environ["CDT_PROGRESS"] = "lines"
    sys.stderr = open(root / f"stderr-{number}", "w")
    os.fsync = lambda file: None
    files.write_text(root / f"ready-{number}", "")
    while len(list(root.glob("ready-*"))) < 2:
        time.sleep(0.01)
    trained = []
    run, _ = train(root / "runs", pause=0.02, spoil=lambda step, loss, _: trained.append(step) or loss)
    files.write_json(root / f"report-{number}.json", {"trained": len(trained), "reused": run.reused})


# ---- damage ------------------------------------------------------------------------------------------------


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def tamper(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_refused(tmp_path, folder, name):
    before = snapshot(folder)
    with pytest.raises(DamagedFile) as caught:
        train(tmp_path)
    assert str(folder / name) in str(caught.value)
    assert f"Delete the folder {folder} to train" in str(caught.value)
    assert snapshot(folder) == before
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    run, _ = train(tmp_path)  # the lock was released, and the advice works
    assert not run.reused


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((name, harm) for name in ("checkpoint-7.pt", "log.jsonl") for harm in (truncate, tamper, Path.unlink)),
        ("state.json", truncate),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, name, harm):
    run, _ = train(tmp_path, stop=7)
    harm(run.folder / name)
    assert_refused(tmp_path, run.folder, name)


@pytest.mark.parametrize("altered", ['"step": 8', '"stop": 7'])
def test_an_altered_state_is_refused_by_name(tmp_path, altered):
    run, _ = train(tmp_path, stop=7)
    path = run.folder / "state.json"
    path.write_text(path.read_text().replace('"step": 7', altered))
    assert_refused(tmp_path, run.folder, "state.json")


@pytest.mark.parametrize("harm", [truncate, tamper, Path.unlink])
def test_damaged_weights_are_refused_by_name(tmp_path, harm):
    run, _ = train(tmp_path)
    harm(run.folder / "weights.safetensors")
    assert_refused(tmp_path, run.folder, "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "harm"), [("done.json", truncate), ("done.json", Path.unlink), ("settings.json", truncate)]
)
def test_a_damaged_record_is_refused_by_name(tmp_path, name, harm):
    run, _ = train(tmp_path)
    harm(run.folder / name)
    assert_refused(tmp_path, run.folder, name)


def test_settings_that_are_not_the_runs_own_are_refused(tmp_path):
    run, _ = train(tmp_path)
    path = run.folder / "settings.json"
    path.write_text(path.read_text().replace("0.001", "0.002"))
    assert_refused(tmp_path, run.folder, "settings.json")


@pytest.mark.parametrize("harm", [truncate, tamper, Path.unlink])
def test_a_damaged_log_is_refused_by_name(tmp_path, harm):
    run, _ = train(tmp_path)
    harm(run.folder / "log.jsonl")
    with pytest.raises(DamagedFile, match=r"log\.jsonl"):
        run.curve()


def test_what_only_training_needs_is_in_checkpoints_and_not_in_the_weights(tmp_path):
    def ask(stop):
        with Run("tiny", SETTINGS, root=tmp_path, checkpoint_seconds=0) as run:
            result, critic = nn.Linear(1, 1), nn.Linear(1, 1)
            run.track(result=result)
            run.track_training(critic=critic)
            started = critic.weight.item()
            for step in run.steps(STEPS):
                with torch.no_grad():
                    result.weight.fill_(step)
                    critic.weight.fill_(-step)
                if step == stop:
                    break
            return run, result.weight.item(), started

    _, _, fresh = ask(7)
    _, result, resumed = ask(None)
    assert (result, resumed) == (STEPS - 1, -6)  # step 7 was broken off, so the checkpoint is of the one before
    run, result, found = ask(None)
    assert run.reused and (result, found) == (STEPS - 1, fresh)
    assert set(load_file(run.folder / "weights.safetensors")) == {"result.weight", "result.bias"}


def test_a_pickle_in_a_checkpoint_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    run, _ = train(tmp_path, stop=7)
    path, state = run.folder / "checkpoint-7.pt", run.folder / "state.json"
    torch.save({"tracked": Evil(), "sums": {}, "counts": {}}, path)
    state.write_text(json.dumps(json.loads(state.read_text()) | {"sha256": files.sha256(path)}))
    with pytest.raises(Exception, match="(?i)weights.only"):
        train(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_code_that_does_not_fit_what_is_stored_is_told_so(tmp_path):
    def ask(stop, **things):
        with Run("tiny", SETTINGS, root=tmp_path, checkpoint_seconds=0) as run:
            run.track(**things)
            for step in run.steps(STEPS):
                if step == stop:
                    break

    ask(7, network=nn.Linear(2, 2), other=nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"'network' cannot take .* Delete the folder"):
        ask(None, network=nn.Linear(3, 2), other=nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"nothing named 'new'"):
        ask(None, network=nn.Linear(2, 2), other=nn.Linear(1, 1), new=nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"also holds other, not tracked"):
        ask(None, network=nn.Linear(2, 2))
    ask(None, network=nn.Linear(2, 2), other=nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"'network' cannot take .* Delete the folder"):
        ask(None, network=nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'new' cannot take"):
        ask(None, new=nn.Linear(3, 2))


def test_other_numbers_of_steps_are_refused(tmp_path):
    train(tmp_path, stop=9)
    with pytest.raises(ValueError, match="at step 9, past the 8 steps"):
        train(tmp_path, steps=8)
    train(tmp_path)
    with pytest.raises(ValueError, match=f"finished with {STEPS} steps, not 30"):
        train(tmp_path, steps=30)


# ---- non-finite losses -------------------------------------------------------------------------------------


def nan_at(moment):
    return lambda step, loss, _: loss * float("nan") if step == moment else loss


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_non_finite_loss_stops_the_run(tmp_path, undisturbed, every):
    train(tmp_path, stop=6)
    with pytest.raises(NonFiniteLoss) as caught:
        train(tmp_path, every=every, spoil=nan_at(9))
    last, end = (9, 10) if every == 0.0 else (6, 12)  # seen at the next checkpoint, or when the line is due
    message = str(caught.value)
    assert "run tiny: 'loss' became nan" in message
    assert f"The last good checkpoint (step {last}) is kept" in message and f"to {end}." in message
    assert (tmp_path / f"tiny-{Run('tiny', SETTINGS).id}" / f"checkpoint-{last}.pt").exists()
    run, _ = train(tmp_path)  # the checkpoint is from before it: without what spoilt it, all goes well
    assert result(run) == undisturbed


def test_the_steps_named_are_those_since_the_last_look(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"'loss' became nan in steps 9 to 12\. There was no checkpoint"):
        train(tmp_path, every=1e9, spoil=nan_at(10))


def test_a_non_finite_number_that_is_no_tensor(tmp_path):
    with Run("tiny", SETTINGS, root=tmp_path, log_every=1) as run:
        run.track(network=nn.Linear(1, 1))
        with pytest.raises(NonFiniteLoss, match="'rate' became inf in steps 1 to 1"):
            for _ in run.steps(3):
                run.log(rate=float("inf"))


def test_a_parameter_that_is_not_finite_is_never_saved(tmp_path, undisturbed):
    def spoil(step, loss, network):
        if step == 13:
            with torch.no_grad():
                network.body[0].bias[2] = float("inf")
            return loss.detach().requires_grad_()  # the loss itself is still fine
        return loss

    with pytest.raises(NonFiniteLoss, match=r"the parameter 'network\.body\.0\.bias' .* in steps 14 to 14.*step 13"):
        train(tmp_path, spoil=spoil)
    run, _ = train(tmp_path)
    assert result(run) == undisturbed


# ---- a full disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [*range(12), 46, 47, 48, 115, 116, 117, 118, 119])
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, undisturbed, call):
    calls = 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError) as caught:
            train(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value) and "MB free" in str(caught.value)
    folder = tmp_path / f"tiny-{Run('tiny', SETTINGS).id}"
    assert not [path for path in folder.iterdir() if path.name.startswith(files.TEMPORARY)]
    run, _ = train(tmp_path)
    assert result(run) == undisturbed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_while_logging(tmp_path):
    with Run("tiny", SETTINGS, root=tmp_path, log_every=1) as run:
        run.track(network=nn.Linear(1, 1))
        with pytest.raises(OSError, match="MB needed, .* MB free") as caught:
            for step in run.steps(3):
                if step == 0:
                    (run.folder / "log.jsonl").symlink_to("/dev/full")
                run.log(loss=1.0)
    assert caught.value.filename == str(run.folder / "log.jsonl")


# ---- the log and the progress ------------------------------------------------------------------------------


def test_the_log_holds_means_since_the_last_line(tmp_path):
    with Run("tiny", SETTINGS, root=tmp_path, log_every=4) as run:
        run.track(network=nn.Linear(1, 1))
        for step in run.steps(10):
            run.log(a=torch.tensor(float(step), requires_grad=True), b=1)
            if step % 3 == 0:
                run.log(c=torch.tensor([float(step)]), a=2 * step)
            if step == 4:
                assert list(run.curve()["step"]) == [4]
    curve = run.curve()
    assert list(curve.columns) == ["step", "seconds", "a", "b", "c"]
    assert list(curve["step"]) == [4, 8, 10]
    means = [(0 + 1 + 2 + 3 + 0 + 6) / 6, (4 + 5 + 6 + 7 + 12) / 5, (8 + 9 + 18) / 3]
    assert list(curve["a"]) == pytest.approx(means, abs=1e-4)
    assert list(curve["b"]) == [1.0, 1.0, 1.0]
    assert list(curve["c"]) == [1.5, 6.0, 9.0]
    assert curve["seconds"].is_monotonic_increasing


def test_the_log_has_about_two_hundred_lines(tmp_path):
    for steps, lines, first in ((25, 3, 10), (2200, 200, 11)):
        with Run("tiny", {"steps": steps}, root=tmp_path) as run:
            run.track(network=nn.Linear(1, 1))
            for _ in run.steps(steps):
                run.log(a=1.0)
        assert len(run.curve()) == lines and run.curve()["step"][0] == first


def test_a_value_is_noted_as_it_is_when_logged(tmp_path):
    with Run("tiny", SETTINGS, root=tmp_path) as run:
        run.track(network=nn.Linear(1, 1))
        for _ in run.steps(2):
            value = torch.ones((), dtype=torch.float64)
            run.log(a=value)
            value.zero_()
    assert list(run.curve()["a"]) == [1.0]


def test_a_log_that_is_being_written_can_be_read(tmp_path):
    run, _ = train(tmp_path, stop=9)
    with open(run.folder / "log.jsonl", "a") as log:
        log.write('{"step": 12, "sec')
    assert list(run.curve()["step"]) == [4, 8]
    assert list(Run("nothing", SETTINGS, root=tmp_path).curve().columns) == ["step", "seconds"]


def test_misuse_is_refused(tmp_path):
    with Run("tiny", SETTINGS, root=tmp_path) as run:
        with pytest.raises(TypeError, match="'x', a int, has no state_dict"):
            run.track(x=3)
        with pytest.raises(RuntimeError, match="inside the loop"):
            run.log(a=1.0)
        network = nn.Linear(1, 1)
        run.track(network=network)
        with pytest.raises(ValueError, match="'network' is tracked already"):
            run.track(network=network)
        for _ in run.steps(2):
            with pytest.raises(ValueError, match=r"'a' has shape \(2,\)"):
                run.log(a=torch.zeros(2))
            with pytest.raises(ValueError, match="'step' is a column"):
                run.log(step=1)
            with pytest.raises(RuntimeError, match="before steps"):
                run.track(late=network)
        with pytest.raises(RuntimeError, match="works once"):
            next(run.steps(2))
    with pytest.raises(RuntimeError, match="inside `with"):
        next(Run("other", SETTINGS, root=tmp_path).steps(2))
    with Run("other", SETTINGS, root=tmp_path) as run, pytest.raises(RuntimeError, match="nothing to train"):
        next(run.steps(2))
    with Run("other", SETTINGS, root=tmp_path) as run, pytest.raises(ValueError, match="at least 1"):
        next(run.steps(0))


def test_progress_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CDT_PROGRESS", "lines")
    monkeypatch.setattr(run_module, "PROGRESS_SECONDS", 0.0)
    train(tmp_path, stop=9)
    train(tmp_path)
    train(tmp_path)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("tiny 1/23 4% 0:0") and lines[0].endswith(" left")
    assert lines[3].startswith("tiny 4/23 17% ") and " left loss=" in lines[3] and " number=1.5" in lines[3]
    assert lines[9] == "tiny: resumes after step 9 of 23"
    assert lines[-2].startswith("tiny: 23 steps in 0:0")
    assert lines[-1].startswith("tiny: found finished (23 steps, 0:0")


def test_a_run_says_what_trained_it(tmp_path, monkeypatch):
    commits = iter(("at the start", "at the end"))
    monkeypatch.setattr(run_module.machine, "commit", lambda: next(commits))
    train(tmp_path)
    (folder,) = tmp_path.glob("*/")
    assert json.loads((folder / "done.json").read_text())["commit"] == "at the start"
    found = Run("tiny", SETTINGS, root=tmp_path)
    assert found.trained_with == f"at the start, torch {torch.__version__}"
    (folder / "done.json").unlink()
    assert found.trained_with is None


def test_progress_bar_and_silence(tmp_path, monkeypatch, capsys):
    train(tmp_path / "none")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("CDT_PROGRESS", "bar")
    train(tmp_path / "bar")
    assert "tiny: 100%" in capsys.readouterr().err
    monkeypatch.delenv("CDT_PROGRESS")
    assert run_module._Progress("tiny").kind == "lines"  # pytest's stderr is no terminal


def test_clock():
    assert [run_module._clock(s) for s in (0, 59.6, 130, 3599, 3600, 36610)] == [
        "0:00", "1:00", "2:10", "59:59", "1:00:00", "10:10:10",
    ]  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path):
    for stop in (7, None, None):
        with Run("tiny", SETTINGS, root=tmp_path, device="cuda", checkpoint_seconds=0) as run:
            network = nn.Linear(3, 3).to(run.device)
            optimizer = torch.optim.Adam(network.parameters(), fused=True)
            run.track(network=network, optimizer=optimizer)
            for step in run.steps(12):
                if step == stop:
                    break
                loss = network(torch.randn(4, 3, device=run.device)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss, step_number=step)
        assert network.weight.device.type == "cuda"
    assert run.reused and list(run.curve()["step_number"]) == [4.5, 10.5]
    assert json.loads((run.folder / "done.json").read_text())["device"] == torch.cuda.get_device_name()


def test_gradients_of_weights_that_have_changed_meanwhile_are_refused(tmp_path):
    with Run("stale", {}, root=tmp_path) as run:
        network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        optimizer = torch.optim.Adam(network.parameters(), fused=True)  # says nothing itself
        run.track(network=network, optimizer=optimizer)
        for _ in run.steps(1):
            before = network(torch.ones(1, 2)).sum()
            network(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                before.backward()

"""What a method costs: time a picture, memory in a process of its own, and the tiny training that it is measured on."""

import pytest
import torch

from cdtlib.data.zoo import ZooDomain
from cdtlib.methods import METHODS, First, few_steps
from cdtlib.metrics.cost import seconds_a_picture, training_memory
from cdtlib.settings import load

MB = 1_000_000


def hold(folder, megabytes):
    """Stands for a training: takes memory, gives most of it back."""
    (folder / "something").touch()
    torch.ones(megabytes * MB // 4).sum()


def fail(folder):
    raise ValueError("no")


def test_memory_is_the_most_that_was_held_and_not_what_is_left():
    assert 100 * MB < training_memory(hold, 100) < 150 * MB
    assert 300 * MB < training_memory(hold, 300) < 350 * MB


def test_a_failed_training_is_named(capfd):
    with pytest.raises(RuntimeError, match="fail failed"):
        training_memory(fail)


def test_seconds_are_of_a_picture_undisturbed_and_without_the_first_call(monkeypatch):
    now, seconds = [0.0], iter([100.0, 6.0, 4.0, 5.0])  # warming up, then three times

    def translate(images, to):
        now[0] += next(seconds)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    assert seconds_a_picture(translate, torch.zeros(8, 3, 4, 4)) == pytest.approx(0.5)


def test_first_is_another_domain():
    whole = ZooDomain("zebra", "train", 5, size=32)
    first = First(whole, 2)
    assert len(first) == 2 and first.fingerprint != whole.fingerprint
    assert torch.equal(first.batch([1]), whole.batch([1]))
    assert len(First(whole, 9)) == 5


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_few_steps(method, tmp_path, monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    counts = {"train": 8, "test": 2}
    names = {"a": "zebra", "b": "giraffe"}
    domains = {s: {k: ZooDomain(name, k, n, size=64) for k, n in counts.items()} for s, name in names.items()}
    slow = {i: {"identity_first": 1000} for i in (5, 4, 3)}
    few_steps(tmp_path, method, load("smoke", translation=slow), domains)
    logs = [(run / "log.jsonl").read_text().splitlines() for run in (tmp_path / "runs").glob("*/")]
    assert logs and all(0 < len(log) < 10 for log in logs)

"""One thread for each test process, and no way for a test to write into the project's own results."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; several test processes share the cores
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def results(tmp_path_factory, monkeypatch):
    """A fresh folder for results. Photos and weights of the surrounding shell do not reach the tests."""
    folder = tmp_path_factory.mktemp("results")
    monkeypatch.setenv("CDT_RESULTS", str(folder))
    for name in ("CDT_PHOTOS", "CDT_WEIGHTS", "CDT_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    return folder

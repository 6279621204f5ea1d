"""One thread for each test process, and no way for a test to write into the project's own results."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; several test processes share the cores
os.environ.setdefault("MPLBACKEND", "Agg")

import jupytext
import pytest
import torch

from cdtlib.batch import NOTEBOOKS

torch.set_num_threads(1)


def execute(notebook: str, profile: str) -> None:
    """Run the cells of a notebook of the project here, where tests can change what it finds."""
    names: dict = {}
    for cell in jupytext.read(NOTEBOOKS / f"{notebook}.py").cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            names["profile"] = profile  # after the cell tagged parameters


@pytest.fixture(autouse=True)
def results(tmp_path_factory, monkeypatch):
    """A fresh folder for results. Photos, weights and settings of the surrounding shell do not reach the tests."""
    folder = tmp_path_factory.mktemp("results")
    monkeypatch.setenv("CDT_RESULTS", str(folder))
    for name in [name for name in os.environ if name.startswith("CDT_") and name != "CDT_RESULTS"]:
        monkeypatch.delenv(name)
    return folder

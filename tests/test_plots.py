"""Figures show the right pictures, numbers and names in the right places."""

import numpy as np
import pandas as pd
import pytest
import torch

from cdtlib import plots


def shown(axis) -> np.ndarray:
    return np.asarray(axis.images[0].get_array())


def test_a_grid_has_a_labelled_row_for_each_set():
    dark = torch.arange(2 * 3, dtype=torch.uint8).view(2, 3, 1, 1).expand(-1, -1, 4, 4)
    light = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    axes = plots.grid({"source": dark, "translated": light}).axes
    assert [axis.get_ylabel() for axis in axes] == ["source", "", "translated", ""]
    assert [shown(axis)[0, 0].tolist() for axis in axes] == [[0, 1, 2], [3, 4, 5], [0] * 3, [255] * 3]
    with pytest.raises(ValueError, match="rows of equal length.*'translated': 1"):
        plots.grid({"source": dark, "translated": light[:1]})


def test_progress_has_a_panel_for_each_measure_effort_and_direction():
    ways, efforts, measures = (
        ("a → b", "b → a"),
        {"seconds": "seconds on a GPU", "pictures": "pictures seen"},
        ("all right", "fid"),
    )
    rows = [
        {"method": method, "direction": way, "seconds": i, "pictures": 10 * i, "all right": 100 * m + 10 * w + i}
        for m, method in enumerate(("ours", "theirs"))
        for w, way in enumerate(ways)
        for i in (1, 2)
    ]
    axes = np.array(plots.progress(pd.DataFrame(rows).assign(fid=1.0), efforts, list(measures)).axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["a → b", "b → a"] * 2
    assert [axis.get_xlabel() for axis in axes[1]] == ["seconds on a GPU"] * 2 + ["pictures seen"] * 2
    assert [axis.get_ylabel() for axis in axes[:, 0]] == list(measures)
    for column, (way, xs) in enumerate(((0, [1, 2]), (1, [1, 2]), (0, [10, 20]), (1, [10, 20]))):
        for m, line in enumerate(axes[0, column].lines[:2]):
            assert list(line.get_xdata()) == xs
            assert list(line.get_ydata()) == [100 * m + 10 * way + i for i in (1, 2)]


def test_the_maps_that_vary_the_most_come_first():
    flat = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    maps = torch.stack([0.1 * flat, 5 * flat.T + 7, flat])
    axes = np.array(plots.channel_maps(torch.ones(3, 2, 2), {4: maps, 5: -maps}, channels=2).axes).reshape(2, 3)
    unit = (flat - 1.5) / flat.std()
    assert (shown(axes[0, 0]) == 255).all() and not axes[1, 0].images
    for row, sign in zip(axes, (1, -1), strict=True):
        np.testing.assert_allclose(shown(row[1]), sign * unit.T, rtol=1e-5)
        np.testing.assert_allclose(shown(row[2]), sign * unit, rtol=1e-5)
    assert [row[0].get_ylabel() for row in axes] == ["conv_4_1\n2×2", "conv_5_1\n2×2"]


def test_a_confusion_has_the_truth_in_its_rows():
    axis = plots.confusion(np.array([[5, 1], [2, 8]]), ("zebra", "giraffe"), title="VGG-19").axes[0]
    assert (axis.get_ylabel(), axis.get_xlabel(), axis.get_title()) == ("is", "taken for", "VGG-19")
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [text.get_text() for text in labels] == ["zebra", "giraffe"]
    there = {text.get_text(): text.get_position() for text in axis.texts}
    assert there == {"5": (0.5, 0.5), "1": (1.5, 0.5), "2": (0.5, 1.5), "8": (1.5, 1.5)} and axis.yaxis_inverted()


def test_masks_are_dark_animals():
    drawn = plots.masks(np.array([[[True, False]]]))
    assert drawn.shape == (1, 3, 1, 2) and drawn[0, :, 0].tolist() == [[40, 235]] * 3

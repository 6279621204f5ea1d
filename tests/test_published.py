"""The paper's tables agree with each other and with what its text says of them."""

import pytest

from cdtlib import published
from cdtlib.published import Published
from cdtlib.rivals import TABLE_2, TABLE_3


def test_cells_by_direction():
    cell = published.translation(2, "zebra", "giraffe", "MUNIT")
    assert cell == Published(238.06, "Table 2, zebra → giraffe, MUNIT")
    assert published.translation(2, "giraffe", "zebra", "MUNIT").value == 60.78
    assert published.translation(1, "dog", "cat", "Layer 3").value == 91.71
    assert published.generation("giraffe", "DEEP-VAE") == Published(108.02, "Table 3, giraffe, DEEP-VAE")


def test_pairs_the_paper_does_not_have():
    assert published.translation(2, "zebra", "horse", "Ours") is None
    assert published.translation(1, "giraffe", "elephant", "Layer 5") is None
    assert published.generation("horse", "DEEP-VAE") is None


def test_methods_that_the_paper_does_not_compare_with_have_no_cell():
    assert published.cell(2, "MUNIT", "zebra", "giraffe").value == 238.06
    assert published.cell(3, "DEEP-VAE", "zebra", "giraffe").value == 108.02
    assert published.cell(2, "UNIT", "zebra", "giraffe") is published.cell(3, "VAE", "zebra", "giraffe") is None
    for columns, methods in ((published.TABLE_2, TABLE_2.values()), (published.TABLE_3, TABLE_3)):
        assert {method.name for method in methods} < set(next(iter(columns.values())))


def test_unknown_tables_and_columns_are_named():
    with pytest.raises(ValueError, match="not in Table 3"):
        published.translation(3, "zebra", "giraffe", "Ours")
    with pytest.raises(ValueError, match="no column 'UNIT'.*MUNIT"):
        published.translation(2, "zebra", "giraffe", "UNIT")
    with pytest.raises(ValueError, match="no column 'VAE'.*DEEP-VAE"):
        published.generation("zebra", "VAE")


def test_the_cascade_of_table_1_is_ours_of_table_2():
    for pair, row in published.TABLE_1.items():
        assert row["Cascaded (ours)"] == published.TABLE_2[pair]["Ours"]


def test_ours_is_best_in_five_of_six_as_section_4_2_says():
    best = [
        min(row, key=lambda method: row[method][way]) == "Ours" for row in published.TABLE_2.values() for way in (0, 1)
    ]
    assert (sum(best), len(best)) == (5, 6)


def test_a_row_of_the_paper_stands_above_none_of_ours():
    ours = {"b": {"Layer 5": 9.0, "Layer 2": 12.345}, "a": {"Layer 5": 47.04, "Layer 2": 1.0}}
    table = published.beside(1, ("giraffe", "zebra"), "KID", ours)
    assert table.to_dict("index") == {
        "giraffe ↔ zebra, KID here": {"Layer 5": "9 / 47", "Layer 2": "12.3 / 1"},
        "giraffe ↔ zebra, the paper's FID (photos)": {"Layer 5": "184.37 / 167.62", "Layer 2": ""},
    }
    assert list(published.beside(1, ("zebra", "horse"), "KID", ours).index) == ["zebra ↔ horse, KID here"]

"""The paper's numbers, by table and cell. They appear only beside ours, never in place of ours.

The tables are FID, lower is better. Katzir, Lischinski and Cohen-Or 2020, Tables 1, 2 and 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Published:
    """A number as printed, and the cell it stands in, such as "Table 2, zebra → giraffe, MUNIT"."""

    value: float
    source: str


# Table 1: each level translated alone, and the cascade. (first → second, second → first)
TABLE_1 = {
    ("cat", "dog"): {
        "Layer 5": (126.93, 127.53),
        "Layer 4": (181.90, 164.42),
        "Layer 3": (178.13, 91.71),
        "Cascaded (ours)": (67.58, 46.02),
    },
    ("zebra", "giraffe"): {
        "Layer 5": (167.62, 184.37),
        "Layer 4": (103.41, 53.36),
        "Layer 3": (112.43, 68.62),
        "Cascaded (ours)": (67.41, 39.38),
    },
    ("zebra", "elephant"): {
        "Layer 5": (101.26, 76.0),
        "Layer 4": (105.58, 57.34),
        "Layer 3": (166.32, 113.28),
        "Cascaded (ours)": (68.45, 47.86),
    },
}

# Table 2: other methods. (first → second, second → first)
TABLE_2 = {
    ("cat", "dog"): {
        "CycleGAN": (125.75, 94.27),
        "MUNIT": (159.57, 108.51),
        "DRIT": (153.94, 139.17),
        "GANimorph": (139.17, 134.14),
        "Ours": (67.58, 46.02),
    },
    ("zebra", "giraffe"): {
        "CycleGAN": (55.65, 58.93),
        "MUNIT": (238.06, 60.78),
        "DRIT": (59.75, 54.06),
        "GANimorph": (98.25, 120.05),
        "Ours": (67.41, 39.38),
    },
    ("zebra", "elephant"): {
        "CycleGAN": (86.55, 68.44),
        "MUNIT": (109.56, 80.1),
        "DRIT": (78.01, 56.39),
        "GANimorph": (99.98, 89.74),
        "Ours": (68.45, 47.86),
    },
}

# Table 3: generation without a source picture.
TABLE_3 = {
    "zebra": {"DFC-VAE": 324.0, "VQ-VAE-2": 154.41, "DEEP-VAE": 57.66},
    "elephant": {"DFC-VAE": 347.93, "VQ-VAE-2": 267.32, "DEEP-VAE": 80.2},
    "giraffe": {"DFC-VAE": 346.47, "VQ-VAE-2": 254.0, "DEEP-VAE": 108.02},
}

# How many pictures of each class; §4.
PICTURES = {
    "coco": {"zebra": 1917, "giraffe": 2547, "elephant": 2144},
    "cat2dog": {"cat": 871, "dog": 1364},
    "kaggle-cats-dogs": {"cat": 12_500, "dog": 12_500},  # "over 12,500 images in each domain"
}

TABLES = {1: TABLE_1, 2: TABLE_2, 3: TABLE_3}


def translation(table: int, source: str, target: str, column: str) -> Published | None:
    """The FID of Table 1 or 2 for translating domain `source` into `target`; None if the paper has no such pair.

    Raises ValueError for another table or a column that it does not have.
    """
    if table not in (1, 2):
        raise ValueError(f"Translations are in Tables 1 and 2, not in Table {table}.")
    for pair, row in TABLES[table].items():
        if {source, target} == set(pair):
            value = _cell(row, column, table)[pair.index(source)]
            return Published(value, f"Table {table}, {source} → {target}, {column}")
    return None


def generation(domain: str, column: str) -> Published | None:
    """The FID of Table 3 for generated pictures of `domain`; None if the paper has no such row.

    Raises ValueError for a column that the table does not have.
    """
    if domain not in TABLE_3:
        return None
    return Published(_cell(TABLE_3[domain], column, 3), f"Table 3, {domain}, {column}")


def cell(table: int, column: str, source: str, target: str) -> Published | None:
    """The FID of any table for pictures of domain `target`, in Tables 1 and 2 translated from `source`.

    None if the paper has none, as of a method that it does not compare with. Raises ValueError for a table that does
    not exist.
    """
    if table in TABLES and column not in next(iter(TABLES[table].values())):
        return None
    return generation(target, column) if table == 3 else translation(table, source, target, column)


def beside(table: int, pair: Sequence[str], distance: str, ours: dict[str, dict[str, float | str]]) -> pd.DataFrame:
    """The paper's row of Table 1 or 2 for `pair` below what was measured here, →/← in each cell as the paper has it.

    `distance`: the name of what was measured. `ours`: {"b": {column: distance of a → b, or what to show of it}, "a":
    {column: that of b → a}}; its columns that the paper does not have stay empty in the paper's row, which is missing
    if it has no such pair.
    """
    a, b = pair
    rows = {
        f"{a} ↔ {b}, {distance} here": {
            column: " / ".join(_text(ours[to][column]) for to in "ba") for column in ours["b"]
        }
    }
    columns = next(iter(TABLES[table].values()))
    there, back = ([translation(table, *way, column) for column in columns] for way in ((a, b), (b, a)))
    if all(there):
        row = f"{a} ↔ {b}, the paper's FID (photos)"
        cells = zip(columns, there, back, strict=True)
        rows |= {row: {column: f"{one.value:g} / {other.value:g}" for column, one, other in cells}}
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(ours["b"])).fillna("")


def beside_domain(domain: str, distance: str, ours: dict[str, float | str]) -> pd.DataFrame:
    """The paper's row of Table 3 for `domain` below what was measured here, {column: `distance`, or what to show}."""
    rows = {f"{domain}, {distance} here": {column: _text(value) for column, value in ours.items()}}
    if domain in TABLE_3:
        rows[f"{domain}, the paper's FID (photos)"] = {column: f"{v:g}" for column, v in TABLE_3[domain].items()}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _cell(row: dict, column: str, table: int):
    if column not in row:
        raise ValueError(f"Table {table} has no column {column!r}. It has: {', '.join(row)}.")
    return row[column]

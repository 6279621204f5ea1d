"""What notebook 12 shows: every number of a profile, read from results/<profile>/metrics/, and the claims they bear on."""

import json

import pandas as pd

from cdtlib.experiment import results_root

NUMBERS = ["value", "lower", "upper", "published"]


def read(profile: str) -> pd.DataFrame:
    """All numbers of a profile, a row each, with the notebook, pair and device they come from.

    Raises FileNotFoundError if there are none.
    """
    files = sorted((results_root() / profile / "metrics").glob("*.json"))
    if not files:
        raise FileNotFoundError(
            f"no numbers in {results_root() / profile / 'metrics'}: run the notebooks before the summary"
        )
    rows = []
    for file in files:
        record = json.loads(file.read_text())
        about = {"notebook": record["notebook"], "pair": " ↔ ".join(record["pair"]), "seed": record["seed"]}
        rows += [about | metric for metric in record["metrics"]]
    return pd.DataFrame(rows)


def every(metrics: pd.DataFrame) -> pd.DataFrame:
    """All numbers as a table to show."""
    shown = metrics[["notebook", "pair", "name", *NUMBERS, "unit", "better", "n"]]
    return shown.rename(columns={"lower": "reference, low", "upper": "reference, ideal"}).fillna("")


def distances(metrics: pd.DataFrame, table_2: dict) -> pd.DataFrame:
    """Our distances of the whole cascade, and the paper's FID for the same pair and direction in its own column."""
    ours = metrics[metrics["notebook"].eq("04_cascade") & metrics["name"].str.contains("→")]
    rows = []
    for _, row in ours.iterrows():
        name, _, direction = row["name"].rpartition(", ")
        source, _, target = direction.partition(" → ")
        rows.append(
            {"direction": direction, "distance": name, "translated": row["value"], "untouched": row["lower"],
             "ideal": row["upper"], "n": row["n"], "paper's FID (Table 2, photos)": _fid(table_2, source, target)}
        )  # fmt: skip
    return pd.DataFrame(rows).fillna("")


def _fid(table_2: dict, source: str, target: str) -> float | None:
    for (a, b), methods in table_2.items():
        if {a, b} == {source, target}:
            return methods["Ours"][0 if source == a else 1]
    return None


def claims(metrics: pd.DataFrame) -> pd.DataFrame:
    """The claims that this profile's numbers bear on, judged by rules that stand beside them."""
    rows = []
    for pair, own in metrics.groupby("pair"):
        values = own.set_index("name")
        a, b = pair.split(" ↔ ")

        def judge(claim, where, names, holds, shown, rule, values=values, pair=pair):
            if all(n in values.index for n in names):
                found = [values.loc[n] for n in names]
                rows.append(
                    {"claim": claim, "where": where, "pair": pair, "measured": "; ".join(shown(f) for f in found),
                     "holds": "yes" if all(holds(f) for f in found) else "no", "rule": rule}
                )  # fmt: skip

        def both(text):
            return [f"{text}, {a} → {b}", f"{text}, {b} → {a}"]

        def against(f):
            return f"{f['value']:.2f} (untouched {f['lower']:.2f}, ideal {f['upper']:.2f})"

        def nearer(f):
            return abs(f["value"] - f["upper"]) < abs(f["value"] - f["lower"])

        judge(
            "Inverting conv_3_1 loses little", "§4", [f"inversion error, {n}, level 3" for n in (a, b)],
            lambda f: f["value"] < 0.25 * f["lower"], lambda f: f"{f['value']:.3f} (mean picture {f['lower']:.3f})",
            "error below a quarter of the mean picture's",
        )  # fmt: skip
        judge(
            "The cascade brings pictures to the target domain", "Table 2", both("fréchet_embedded"), nearer, against,
            "distance nearer to the ideal than to the untouched source's",
        )  # fmt: skip
        for claim, name in (
            ("The animal becomes the other one", "recognised as the target species"),
            ("Its shape changes, not only its coat", "silhouette alone recognised as the target species"),
            ("The number of animals is mostly preserved", "number of animals kept"),
            ("The pose is preserved: facing", "facing kept"),
            ("The place is preserved", "place: overlap of the columns taken up"),
        ):
            judge(claim, "§4, Fig. 5", both(name), nearer, against, "nearer to the ideal than to the low reference")
    return pd.DataFrame(rows)

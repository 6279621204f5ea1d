"""What notebook 12 shows: every number of a profile, and the claims they bear on, read from results/ only."""

import json

import pandas as pd

from cdtlib import published
from cdtlib.batch import duration
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


def distances(metrics: pd.DataFrame) -> pd.DataFrame:
    """Our distances of the whole cascade, and the paper's FID for the same pair and direction in its own column."""
    ours = metrics[metrics["notebook"].eq("04_cascade") & metrics["name"].str.contains("→")]
    rows = []
    for _, row in ours.iterrows():
        name, _, direction = row["name"].rpartition(", ")
        source, _, target = direction.partition(" → ")
        fid = published.translation(2, source, target, "Ours") if name.startswith("fréchet") else None
        rows.append(
            {"direction": direction, "distance": name, "translated": row["value"], "untouched": row["lower"],
             "ideal": row["upper"], "n": row["n"], "paper's FID (Table 2, photos)": fid and fid.value}
        )  # fmt: skip
    return pd.DataFrame(rows).fillna("")


def claims(metrics: pd.DataFrame) -> pd.DataFrame:
    """The claims that this profile's numbers bear on, judged by rules that stand beside them."""
    rows = []
    for pair, own in metrics.groupby("pair"):
        values = own.set_index("name")
        a, b = pair.split(" ↔ ")
        inverted = [f"inversion error, {name}, level 3" for name in (a, b)]
        rows.append(
            _judged("Inverting conv_3_1 loses little", "§4", pair, values, inverted, _quarter,
                    "error below a quarter of the mean picture's")
        )  # fmt: skip
        for claim, where, name in (
            ("The cascade brings pictures to the target domain", "Table 2", "fréchet_backbone"),
            ("The animal becomes the other one", "Fig. 5", "recognised as the target species"),
            ("Its shape changes, not only its coat", "§4, Fig. 5", "silhouette alone recognised as the target species"),
            ("The number of animals is mostly preserved", "§4, Fig. 5", "number of animals kept"),
            ("The pose is preserved: facing", "§4, Fig. 5", "facing kept"),
            ("The place is preserved", "§4, Fig. 5", "place: overlap of the columns taken up"),
        ):
            names = [f"{name}, {a} → {b}", f"{name}, {b} → {a}"]
            rows.append(
                _judged(claim, where, pair, values, names, _nearer, "nearer to the ideal than to the low reference")
            )
    return pd.DataFrame([row for row in rows if row])


def _quarter(number: pd.Series) -> bool:
    return number["value"] < 0.25 * number["lower"]


def _nearer(number: pd.Series) -> bool:
    return abs(number["value"] - number["upper"]) < abs(number["value"] - number["lower"])


def _judged(claim: str, where: str, pair: str, values: pd.DataFrame, names: list[str], holds, rule: str) -> dict | None:
    """One row of `claims`; None if its numbers were not measured."""
    if not all(name in values.index for name in names):
        return None
    found = [values.loc[name] for name in names]
    shown = [f"{f['value']:.3g} (low reference {f['lower']:.3g}, ideal {f['upper']:.3g})" for f in found]
    verdict = "yes" if all(map(holds, found)) else "in one direction" if any(map(holds, found)) else "no"
    return {"claim": claim, "where": where, "pair": pair, "measured": "; ".join(shown), "holds": verdict, "rule": rule}


# What the README says of each notebook: the item in the paper, and the metric whose two values it shows.
_README = {
    "01_data_and_backbone": ("§3, pre-processing", "share of clamped values, {}, level 5"),
    "02_feature_inversion": ("Fig. 1, inner pictures", "inversion error, {}, level 3"),
    "03_deepest_translation": ("§3, level 5", "cycle error, {}, level 5"),
    "04_cascade": ("Figs. 2–5", "fréchet_backbone, {}"),
    "11_semantics": ("beyond the paper", "species, silhouette, number and facing all right, {}"),
}


def readme_table(profile: str = "demo") -> str:
    """The README's table of results in Markdown, from results/<profile>/ only; "training" is the time on one core of
    all trainings that a notebook rests on."""
    metrics = read(profile)
    status = json.loads((results_root() / profile / "status.json").read_text())["notebooks"]
    lines = ["| in the paper | notebook | command | training | number |", "|---|---|---|--:|---|"]
    for notebook, (item, metric) in _README.items():
        own = metrics[metrics["notebook"] == notebook]
        a, b = own["pair"].iloc[0].split(" ↔ ")
        domains = (f"{a} → {b}", f"{b} → {a}") if metric.endswith(", {}") else (a, b)
        names = dict.fromkeys(metric.format(domain) for domain in domains)
        values = [own.loc[own["name"] == name].iloc[0] for name in names]
        shown = "; ".join(f"{v['name']}: {v['value']:.3g}" for v in values)
        seconds = status[f"{notebook}-{a}-{b}"]["training_seconds"]
        title = notebook.replace("_", " ")
        lines.append(
            f"| {item} | [{title}](notebooks/{notebook}.py) | `cdt run {notebook[:2]}` "
            f"| {duration(seconds)} | {shown} |"
        )
    return "\n".join(lines)

"""What notebook 12 shows: every number of a profile, and the claims they bear on, read from results/ only.

Where a notebook was run with several seeds (other trainings, and on the drawn zoo other pictures), a number is their
mean ± their standard deviation, and each seed is judged for itself.
"""

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pydantic import ValidationError

from cdtlib import published
from cdtlib.batch import duration
from cdtlib.experiment import REFERENCES
from cdtlib.machine import results_root
from cdtlib.metrics.semantics import BACKGROUND, HEAD, LEGS, STILL_CUT, clearly_more
from cdtlib.settings import Settings, load, stem

NUMBERS = ["value", "sd", "lower", "upper", "published"]


def read(profile: str) -> pd.DataFrame:
    """All numbers of a profile, a row for each and each seed, with the notebook, pair and seed they come from.

    Of seeds that were run with different settings, those of the profile as it is now are kept (if it is none, those
    like the first), and the others said to be left out. Raises FileNotFoundError if there are no numbers.
    """
    rows = []
    for record in _records(profile, say=True):
        about = {"notebook": record["notebook"], "pair": " ↔ ".join(record["pair"]), "seed": record["seed"]}
        about["photos"] = record["settings"]["data"]["source"] == "photos"
        rows += [about | metric for metric in record["metrics"]]
    return pd.DataFrame(rows)


def _records(profile: str, say: bool = False) -> list[dict]:
    """What the notebooks left, ordered by seed; of each notebook and pair only seeds with the same settings, and none
    for which the profile's were changed.

    `say`: tell what is left out, what was run with other settings than the rest, and what was withdrawn.
    """
    folder = results_root() / profile / "metrics"
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("[!.]*.json"))]
    records = [record for record in records if not record.get("changes")]
    if not records:
        raise FileNotFoundError(f"no numbers in {folder}: run the notebooks before the summary")
    records.sort(key=lambda record: record["seed"])
    now = _general(load(profile).model_dump(mode="json"))
    wanted: dict[tuple, dict] = {}
    for record in records:
        settings = _general(record["settings"])
        first = wanted.setdefault(_experiment(record), settings)
        wanted[_experiment(record)] = now if _alike(settings, now) else first
    kept = [record for record in records if _alike(_general(record["settings"]), wanted[_experiment(record)])]
    for record in records if say else []:
        name = stem(record["notebook"], record["pair"], record["seed"])
        if withdrawn := record.get("withdrawn"):
            print(f"{name}: {withdrawn}")
        if record not in kept:
            print(f"{name} was run with other settings than another seed and is left out; run it again.")
        elif now in wanted.values() and wanted[_experiment(record)] != now:
            print(f"{name} was run with other settings than other notebooks; run it again.")
    return kept


def _experiment(record: dict) -> tuple[str, ...]:
    return record["notebook"], *record["pair"]


def _general(settings: dict) -> dict:
    """What is the same for all pairs and seeds, with the defaults of settings that came later."""
    with suppress(ValidationError):  # of settings that are no more
        settings = Settings.model_validate_json(json.dumps(settings)).model_dump(mode="json")
    return settings | {"pair": None, "seed": None}


def _alike(one: dict, other: dict) -> bool:
    """Whether settings are the same. A level below the cascade's end that only one of them has is no difference: it
    adds numbers (see `Settings.further`) and changes none."""
    end = min(one.get("levels", [5]))

    def same(a: Any, b: Any) -> bool:
        if not isinstance(a, dict) or not isinstance(b, dict):
            return a == b
        below = (key.isdecimal() and int(key) < end for key in a.keys() ^ b.keys())
        return all(below) and all(same(a[key], b[key]) for key in a.keys() & b.keys())

    return same(one, other)


def over_seeds(metrics: pd.DataFrame) -> pd.DataFrame:
    """A row for each number: `value`, `lower` and `upper` are means over the seeds, `sd` is the standard deviation of
    `value` (NaN for one seed), `seeds` their number; the rest is the first seed's."""
    averaged = ["value", "lower", "upper"]
    groups = metrics.astype(dict.fromkeys(averaged, float)).groupby(["notebook", "pair", "name"], sort=False)
    means = groups[averaged].mean().reset_index(drop=True)
    return (
        groups.head(1)
        .reset_index(drop=True)
        .assign(**means, sd=groups["value"].std().values, seeds=groups.size().values)
    )


def _number(value: float, sd: float) -> str:
    return f"{value:.3g}" if math.isnan(sd) else f"{value:.3g} ± {sd:.2g}"


def trainings(profile: str) -> pd.DataFrame:
    """Every training that the profile's notebooks rest on, a row each: its seconds, on what, and which use it.

    Of several seeds of a notebook and pair the first one's.
    """
    rows: dict[str, dict] = {}
    first: dict[tuple, dict] = {}
    for record in _records(profile):
        first.setdefault(_experiment(record), record)
    for record in first.values():
        for run in record["runs"]:
            about = {"seconds": run["training seconds"], "trained on": run.get("trained on", ""), "used in": set()}
            rows.setdefault(run["run"], about)["used in"].add(record["notebook"][:2])
    for row in rows.values():
        row["used in"] = ", ".join(sorted(row["used in"]))
    columns = ["seconds", "trained on", "used in"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("training").sort_index()


def every(metrics: pd.DataFrame) -> pd.DataFrame:
    """All numbers as a table to show."""
    shown = over_seeds(metrics)[["notebook", "pair", "name", *NUMBERS, "unit", "better", "n", "seeds"]]
    return _shown_table(shown.rename(columns=REFERENCES | {"sd": "±"}))


def _shown_table(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with blanks where there is nothing, and without the deviations where there is one seed only."""
    single = "±" in table and table["±"].isna().all()
    return table.drop(columns="±" if single else []).fillna("")


def distances(metrics: pd.DataFrame) -> pd.DataFrame:
    """Our distances of the whole cascade, and the paper's FID for the same pair and direction in its own column."""
    ours = over_seeds(metrics[metrics["notebook"].eq("04_cascade") & metrics["name"].str.contains("→")])
    # The paper's stand beside ours in FID or, where that was not measured, beside what takes its place.
    beside = "FID" if ours["name"].str.startswith("FID, ").any() else "fréchet_backbone"
    rows = []
    for _, row in ours.iterrows():
        name, _, direction = row["name"].rpartition(", ")
        source, _, target = direction.partition(" → ")
        fid = published.translation(2, source, target, "Ours") if name == beside else None
        rows.append(
            {"direction": direction, "distance": name, "translated": row["value"], "±": row["sd"],
             "baseline": row["lower"], "ideal": row["upper"], "n": row["n"],
             "paper's FID (Table 2, photos)": fid and fid.value}
        )  # fmt: skip
    return _shown_table(pd.DataFrame(rows))


# A table of the paper: its notebook, how that labels a column, and what fills it: the first distance that was measured.
_TABLES = {
    1: ("06_depth_ablation", "{}", ("FID", "fréchet_backbone")),
    2: ("08_comparison", "{}", ("FID", "fréchet_second")),
    3: ("10_deep_vae", "samples, {}", ("FID", "fréchet_second")),
}


def table(number: int, metrics: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 1, 2 or 3 with our numbers, for each pair (Table 3: each domain) ours and the paper's; empty if
    nothing of it was measured. A cell of Tables 1 and 2 has both directions, →/←."""
    notebook, label, distances = _TABLES[number]
    tables = []
    for pair, own in over_seeds(metrics[metrics["notebook"] == notebook]).groupby("pair", sort=False):
        values = pd.Series(map(_number, own["value"], own["sd"]), own["name"])
        distance = next((d for d in distances if values.index.str.startswith(f"{d}, ").any()), None)
        if distance is None:
            continue
        a, b = pair.split(" ↔ ")
        ways = (a, b) if number == 3 else (f"{b} → {a}", f"{a} → {b}")
        names = {c: f"{distance}, {label.format(c)}" for c in next(iter(published.TABLES[number].values()))}
        ours = [{c: values[f"{n}, {way}"] for c, n in names.items() if f"{n}, {way}" in values} for way in ways]
        if number == 3:
            tables += [
                published.beside_domain(domain, distance, cells) for domain, cells in zip(ways, ours, strict=True)
            ]
        else:
            tables.append(published.beside(number, (a, b), distance, dict(zip("ab", ours, strict=True))))
    return pd.concat(tables) if tables else pd.DataFrame()


def claims(metrics: pd.DataFrame) -> pd.DataFrame:
    """The claims that this profile's numbers bear on, judged by rules that stand beside them."""
    rows = []
    for pair, own in metrics.groupby("pair"):
        a, b = pair.split(" ↔ ")
        for claim in CLAIMS:
            seeds = [part.set_index("name") for _, part in own[own["notebook"] == claim.notebook].groupby("seed")]
            rows.append(claim.judge(seeds, [f"{a} → {b}", f"{b} → {a}"], [a, b], own["photos"].iloc[0]))
    columns = ["claim", "where", "holds", "number", "measured", "the other way", "rule"]
    return pd.DataFrame([row for row in rows if row], columns=columns)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the rule by which a notebook's numbers (of one seed) say, by direction, if it holds.

    Of photos fewer are held out than a layer has channels, and then a Fréchet distance falls as pictures become more
    alike. The kernel distance, which is unbiased, takes its place there; for what the paper's tables say in FID, KID
    does, where it was measured.
    """

    text: str
    where: str  # in the paper
    notebook: str
    names: tuple[str, ...]  # of the numbers, {} standing for the direction (for the domain, if `by_domain`)
    rule: str  # what `holds` says, in words
    holds: Callable[..., bool | None]  # of those numbers' rows, in that order
    by_domain: bool = False
    on_photos: bool = True  # whether its numbers can tell there

    def judge(self, seeds: list[pd.DataFrame], directions: list[str], domains: list[str], photos: bool) -> dict | None:
        """One row of the table, of all `seeds` for which its numbers were measured; None if there is none."""
        ways = domains if self.by_domain else directions

        def by(distance: str) -> list[str]:
            return [re.sub("fréchet_(backbone|second)", distance, name) for name in self.names]

        choices = [by("KID")] if photos and "Table" in self.where else []
        choices += [by(r"kernel_\1"), self.names] if photos else [self.names]
        for names in choices:
            found = [[name.format(way) for name in names] for way in ways]
            seeds_with = [values for values in seeds if all(name in values.index for row in found for name in row)]
            if seeds_with:
                break
        else:
            return None
        # By direction, by seed: the numbers of the claim
        numbers = [[[values.loc[name] for name in row] for values in seeds_with] for row in found]
        # Of names' parts, those that are the same say what was measured, the others tell the numbers apart.
        parts = [name.rsplit(", ", 2) for name in names]
        differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
        labels = [" ".join(part for part, d in zip(own, differ, strict=True) if d) for own in parts]
        told = not photos or (self.on_photos and not any(name.startswith("fréchet_") for name in names))
        verdicts = [[self.holds(*row) if told else None for row in of_seeds] for of_seeds in numbers]
        shown = [f"{way}: {_shown(labels, of_seeds)}" for way, of_seeds in zip(ways, numbers, strict=True)]
        of = f"{len(seeds_with)} seed{'s' * (len(seeds_with) > 1)}"
        fewer = f" (of {of})" if len(seeds_with) < len(seeds) else ""
        if len(seeds) > 1:
            of += ", not measured with the others" * bool(fewer)
            shown = [
                text if None in own else f"{text}; holds with {own.count(True)} of {of}"
                for text, own in zip(shown, verdicts, strict=True)
            ]
        return {
            "claim": self.text,
            "where": self.where,
            "holds": _verdict(verdicts) + fewer,
            "number": ", ".join(p for p, d in zip(parts[0], differ, strict=True) if not d and p != "{}"),
            "measured": shown[0],
            "the other way": shown[1],
            "rule": self.rule,
        }


def _verdict(verdicts: list[list[bool | None]]) -> str:
    """Of whether a claim holds: by direction, by seed; None where it cannot be told."""
    if any(holds is None for own in verdicts for holds in own):
        return "cannot be told"
    if all(map(all, verdicts)):
        return "yes"
    if not any(map(any, verdicts)):
        return "no"
    return "in one direction" if all(len(set(own)) == 1 for own in verdicts) else "depends on the seed"


def _shown(labels: list[str], of_seeds: list[list[pd.Series]]) -> str:
    """The numbers of a direction, of all seeds."""
    rows = [pd.DataFrame(number)[["value", "lower", "upper"]].astype(float) for number in zip(*of_seeds, strict=True)]
    texts = [_number(row["value"].mean(), row["value"].std()) for row in rows]
    if len(rows) == 1:
        lower, upper = rows[0][["lower", "upper"]].mean()
        return f"{texts[0]} (baseline {lower:.3g}, ideal {upper:.3g})"
    return ", ".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True))


def _nearer(number: pd.Series) -> bool | None:
    """None if the ideal is no better than the baseline: then the number does not measure what it is meant to."""
    value, low, ideal = number[["value", "lower", "upper"]]
    if low <= ideal if number["better"] == "lower" else number["better"] == "higher" and ideal <= low:
        return None
    return abs(value - ideal) < abs(value - low)


_NOT = {True: False, False: True, None: None}


def _first_is_smallest(first: pd.Series, *others: pd.Series) -> bool:
    return first["value"] < min(other["value"] for other in others)


def _first_is_largest(first: pd.Series, *others: pd.Series) -> bool:
    return first["value"] > max(other["value"] for other in others)


def _falls(*shares: pd.Series) -> bool:
    steps = zip(shares, shares[1:], strict=False)
    return clearly_more(shares[0], shares[-1]) and not any(clearly_more(y, x) for x, y in steps)


_NEARER = "nearer to the ideal than to the baseline (which must be the worse of the two)", _nearer
_SILHOUETTE = "silhouette alone recognised as the target species"
_ALL_RIGHT = "species, silhouette, number and facing all right"

CLAMPED = "clamped at 3 deviations"  # notebook 05's label

_TABLE_2 = ("Ours", "CycleGAN", "MUNIT", "DRIT", "GANimorph")

CLAIMS = (
    Claim(
        "Inverting conv_3_1 loses little (beyond the paper, whose cascade ends there)", "–", "02_feature_inversion",
        ("inversion error, {}, level 3",),
        "error below a quarter of the mean picture's", lambda number: number["value"] < 0.25 * number["lower"],
        by_domain=True,
    ),
    Claim(
        "The cascade brings pictures to the target domain", "Table 2", "04_cascade", ("fréchet_backbone, {}",), *_NEARER
    ),
    Claim(
        "Level 5 is translated best with all losses", "§4.1, Fig. 6", "05_loss_ablation",
        tuple(f"fréchet_backbone, {label}, {{}}" for label in
              ("all losses", "without cycle", "without identity", "without adversarial")),
        "the first, with all losses, is the smallest distance to the target", _first_is_smallest,
    ),
    Claim(
        "Each loss is needed for right translations of level 5", "§4.1, Fig. 6", "05_loss_ablation",
        tuple(f"{_ALL_RIGHT}, {label}, {{}}" for label in
              ("all losses", "without cycle", "without identity", "without adversarial")),
        "the first, with all losses, is larger than each other share by two standard errors",
        lambda first, *others: all(clearly_more(first, other) for other in others),
    ),
    Claim(
        "With LSGAN, not WGAN-GP, translations collapse or fail (tested in short trainings from near the identity)",
        "§3", "05_loss_ablation",
        tuple(f"{name}, {label}, {{}}" for name in (_ALL_RIGHT, "diversity") for label in ("all losses", "LSGAN")),
        "with LSGAN fewer translations are right (the first two numbers), by two standard errors, or their diversity "
        "(the last two) is less than half as large",
        lambda right, ls_right, diverse, ls_diverse: (
            clearly_more(right, ls_right) or ls_diverse["value"] < 0.5 * diverse["value"]
        ),
    ),
    Claim(
        "Clamping at one standard deviation does no harm (tested at level 5)", "§3", "05_loss_ablation",
        (f"{_ALL_RIGHT}, all losses, {{}}", f"{_ALL_RIGHT}, {CLAMPED}, {{}}"),
        "the second, the share of right translations of maps clamped at three, is not larger by two standard errors",
        lambda at_1, at_3: not clearly_more(at_3, at_1),
    ),
    Claim(
        "The cascade translates better than any level alone", "§4.1, Table 1", "06_depth_ablation",
        tuple(f"fréchet_backbone, {label}, {{}}" for label in ("Cascaded (ours)", "Layer 5", "Layer 4", "Layer 3")),
        "the first, the cascade's, is the smallest distance to the target", _first_is_smallest,
    ),
    Claim(
        "Inverting from level 3, not going on to shallower levels, costs next to nothing (tested with level 2)", "§4",
        "06_depth_ablation", ("fréchet_backbone, Cascaded (ours), {}", "fréchet_backbone, cascaded to level 2, {}"),
        "the first, the cascade's distance, is at most a tenth larger than that of one that goes on to level 2",
        lambda ours, further: ours["value"] <= 1.1 * further["value"],
    ),
    Claim(
        "Shallower levels change the shape less", "§4.1, Fig. 7", "06_depth_ablation",
        tuple(f"{_SILHOUETTE}, Layer {i}, {{}}" for i in (5, 4, 3, 2, 1)),
        "fewer silhouettes are the target's at level 1 than at level 5, and from no level to the next more, by two "
        "standard errors", _falls,
    ),
    Claim(
        "The shallowest level can hardly change the shape", "§4.1, Fig. 7", "06_depth_ablation",
        (f"{_SILHOUETTE}, Layer 1, {{}}", "recognised as the target species, Layer 1, {}"),
        "where most pictures (the second number) are recognised, by their coats, fewer than a tenth of the silhouettes "
        "(the first) are the target's", lambda shape, coat: None if coat["value"] < 0.5 else shape["value"] < 0.1,
    ),
    Claim(
        "Fine-tuning VGG-19 does not improve the translations", "§4.1, Fig. 8", "07_backbones",
        (f"{_ALL_RIGHT}, fine-tuned, {{}}", f"{_ALL_RIGHT}, VGG-19, {{}}"),
        "the first, the share of right translations when fine-tuned, is not larger by two standard errors",
        lambda tuned, plain: not clearly_more(tuned, plain),
    ),
    Claim(
        "With fine-tuned VGG-19 translations are inferior", "§4.1", "07_backbones",
        (f"{_ALL_RIGHT}, fine-tuned, {{}}", f"{_ALL_RIGHT}, VGG-19, {{}}"),
        "the first, the share of right translations when fine-tuned, is smaller by two standard errors",
        lambda tuned, plain: clearly_more(plain, tuned),
    ),
    Claim(
        "A fine-tuned network fixates on what is unrelated to the translation, such as background (the paper's guess)",
        "§4.1", "07_backbones",
        ("activation on the animals, fine-tuned, {}", "activation on the animals, VGG-19, {}",
         "occlusion on the animals, fine-tuned, {}", "occlusion on the animals, VGG-19, {}"),
        "not judged: the drawn zoo's backgrounds say nothing of the species", lambda *_: None, by_domain=True,
    ),
    Claim(
        "AlexNet's deepest level is not translated to valid shapes", "§4.1, Fig. 8", "07_backbones",
        (f"{_SILHOUETTE}, AlexNet, {{}}", f"{_SILHOUETTE}, VGG-19, {{}}"),
        "the first, AlexNet's, is below a half and below VGG-19's", lambda a, v: a["value"] < min(0.5, v["value"]),
    ),
    Claim(
        "AlexNet's features are harder to invert", "§4.1", "07_backbones",
        ("inversion error, AlexNet, {}", "inversion error, VGG-19, {}"),
        "the first, AlexNet's, is larger", lambda a, v: a["value"] > v["value"], by_domain=True,
    ),
    *(
        Claim(text, where, "10_deep_vae", (name,), *rule, by_domain=True, on_photos="detail" not in name)
        for text, where, name, rule in (
            ("DEEP-VAE's samples are near to the class", "§4.3, Table 3",
             "fréchet_backbone, samples, DEEP-VAE, {}", _NEARER),
            ("Its samples are not blurry", "§4.3, Fig. 11", "detail of samples, DEEP-VAE, {}", _NEARER),
            ("DFC-VAE's samples are not sharp", "§4.3, Fig. 11", "detail of samples, DFC-VAE, {}",
             ("nearer to the baseline (blurred pictures) than to the ideal",
              lambda detail: _NOT[_nearer(detail)])),
            ("The animal's structure is evident in almost all", "§4.3, Fig. 11",
             "silhouette of samples recognised, DEEP-VAE, {}", ("at least 90 %", lambda share: share["value"] >= 0.9)),
            ("Its samples are no copies (beyond the paper)", "–",
             "nearest training picture in pixels, DEEP-VAE, {}", _NEARER),
            ("Halfway between two pictures there are no ghosts", "§4.3, Fig. 12",
             "fréchet_backbone, halfway, DEEP-VAE, {}", _NEARER),
        )
    ),
    *(
        Claim(
            f"{text} than with DFC-VAE and VQ-VAE-2", where, "10_deep_vae",
            tuple(f"{name}, {model}, {{}}" for model in ("DEEP-VAE", "DFC-VAE", "VQ-VAE-2")), *rule, by_domain=True,
        )
        for text, where, name, rule in (
            ("DEEP-VAE's samples are nearer to the class", "§4.3, Table 3", "fréchet_second, samples",
             ("the first, DEEP-VAE's, is the smallest distance to the class", _first_is_smallest)),
            ("More of DEEP-VAE's samples show the animal", "§4.3, Fig. 11", "silhouette of samples recognised",
             ("the first, DEEP-VAE's, is the largest share", _first_is_largest)),
        )
    ),
    Claim(
        "DEEP-VAE competes with VQ-VAE-2 in reconstruction", "§4.3, Fig. 12", "10_deep_vae",
        tuple(f"fréchet_second, reconstructions, {model}, {{}}" for model in ("DEEP-VAE", "VQ-VAE-2")),
        "the first, DEEP-VAE's, is the smaller distance to the class", _first_is_smallest, by_domain=True,
    ),
    Claim(
        "Ours is nearer to the target than its rivals (in the paper in all directions but zebra → giraffe)",
        "§4.2, Table 2", "08_comparison",
        tuple(f"fréchet_second, {name}, {{}}" for name in _TABLE_2),
        "the first, ours, is the smallest distance to the target", _first_is_smallest,
    ),
    Claim(
        "Ours is nearer to the target than its rivals if it goes on to level 2 (beyond the paper)", "–",
        "08_comparison", tuple(f"fréchet_second, {name}, {{}}" for name in ("Ours to level 2", *_TABLE_2[1:])),
        "the first, ours, is the smallest distance to the target", _first_is_smallest,
    ),
    Claim(
        "Traditional methods struggle to change the shape", "§4.2, Fig. 9", "08_comparison",
        tuple(f"{_SILHOUETTE}, {name}, {{}}" for name in _TABLE_2),
        "of each rival (all but the first) fewer than half of the silhouettes are the target's",
        lambda _, *rivals: all(share["value"] < 0.5 for share in rivals),
    ),
    Claim(
        "Translations lie where the target's pictures lie", "§4.2, Fig. 10", "09_embedding",
        ("fc7: precision, ours, {}",), *_NEARER,
    ),
    Claim(
        "Ours lie closest to the target", "§4.2, Fig. 10", "09_embedding",
        tuple(f"fc7: two-sample accuracy, {name}, {{}}" for name in ("ours", *_TABLE_2[1:])),
        "the first, ours, is told from the target's pictures least often by a classifier", _first_is_smallest,
    ),
    Claim(
        "The background is not preserved (a limitation)", "§4.2", "11_semantics", (f"{BACKGROUND}, {{}}",),
        "nearer to the baseline (the median of all source pictures) than to the ideal (the source)",
        lambda number: _NOT[_nearer(number)],
    ),
    Claim(
        "Cropping by the frame is reproduced", "§4, Fig. 5", "11_semantics", (f"{STILL_CUT}, {{}}",),
        "at least nine tenths of the ideal, the perfect translation's share",
        lambda share: share["value"] >= 0.9 * share["upper"],
    ),
    *(
        Claim(text, where, "11_semantics", (f"{name}, {{}}",), *_NEARER)
        for text, where, name in (
            ("The animal becomes the other one", "Fig. 5", "recognised as the target species"),
            ("Its shape changes, not only its coat", "§4, Fig. 5", _SILHOUETTE),
            ("The number of animals is mostly preserved", "§4, Fig. 5", "number of animals kept"),
            ("The pose is preserved: facing", "§4, Fig. 5", "facing kept"),
            ("The pose is preserved: height of the head", "§4, Fig. 5", HEAD),
            ("The pose is preserved: legs", "§4, Fig. 5", LEGS),
            ("The place is preserved", "§4.2, Fig. 9", "place: overlap of the columns taken up"),
        )
    ),
)  # fmt: skip


# What the README says of each notebook: the item in the paper, and the metric whose two values it shows.
_README = {
    "01_data_and_backbone": ("§3, pre-processing", "share of clamped values, {}, level 5"),
    "02_feature_inversion": ("Fig. 1, inner pictures", "inversion error, {}, level 3"),
    "03_deepest_translation": ("§3, level 5", "cycle error, {}, level 5"),
    "04_cascade": ("Figs. 2–5", "fréchet_backbone, {}"),
    "05_loss_ablation": ("Fig. 6", "fréchet_backbone, all losses, {}"),
    "06_depth_ablation": ("Fig. 7, Table 1", "fréchet_backbone, Cascaded (ours), {}"),
    "07_backbones": ("Fig. 8", "silhouette alone recognised as the target species, AlexNet, {}"),
    "08_comparison": ("Table 2, Fig. 9", "fréchet_second, Ours, {}"),
    "09_embedding": ("Fig. 10", "fc7: two-sample accuracy, ours, {}"),
    "10_deep_vae": ("Table 3, Figs. 11–12", "fréchet_backbone, samples, DEEP-VAE, {}"),
    "11_semantics": ("beyond the paper", "species, silhouette, number and facing all right, {}"),
}


def readme_table(profile: str = "demo") -> str:
    """The README's table of results in Markdown, from results/<profile>/ only; "training" is the time on one core of
    all trainings that a notebook rests on, of the first seed of which nothing was withdrawn."""
    metrics = over_seeds(read(profile))
    whole = [record for record in _records(profile) if not record.get("withdrawn")]
    stems = {r["notebook"]: stem(r["notebook"], r["pair"], r["seed"]) for r in reversed(whole)}
    status = json.loads((results_root() / profile / "status.json").read_text())["notebooks"]
    lines = ["| in the paper | notebook | command | training | number |", "|---|---|---|--:|---|"]
    for notebook, (item, metric) in _README.items():
        own = metrics[metrics["notebook"] == notebook]
        if own.empty:
            continue
        a, b = own["pair"].iloc[0].split(" ↔ ")
        ways = (f"{a} → {b}", f"{b} → {a}") if metric.format(f"{a} → {b}") in set(own["name"]) else (a, b)
        names = [metric.format(way) for way in ways]
        if not set(names) <= set(own["name"]):
            continue  # measured on the drawn zoo only
        values = [own.loc[own["name"] == name].iloc[0] for name in names]
        shown = "; ".join(f"{v['name']}: {_number(v['value'], v['sd'])}" for v in values)
        seconds = status[stems[notebook]]["training_seconds"]
        title = notebook.replace("_", " ")
        lines.append(
            f"| {item} | [{title}](results/{profile}/notebooks/{stems[notebook]}.ipynb) | `cdt run {notebook[:2]}` "
            f"| {duration(seconds)} | {shown} |"
        )
    return "\n".join(lines)


_RIGHT = "species, silhouette, number and facing all right"

# What the page on the findings sets side by side: of each notebook the rows, and for each column what fills it.
_FINDINGS = {
    "05_loss_ablation": (
        ("all losses", "without cycle", "without identity", "without adversarial", "LSGAN"),
        {"distance": "fréchet_backbone", "all right": _RIGHT, "silhouette": _SILHOUETTE, "diversity": "diversity"},
    ),
    "06_depth_ablation": (
        (*(f"Layer {level}" for level in (5, 4, 3, 2, 1)), "Cascaded (ours)", "cascaded to level 2"),
        {"distance": "fréchet_backbone", "recall": "recall", "all right": _RIGHT, "silhouette": _SILHOUETTE},
    ),
    "08_comparison": (
        ("Ours", "Ours to level 2", *_TABLE_2[1:]),
        {
            "distance": "fréchet_second", "recall": "recall", "all right": _RIGHT, "silhouette": _SILHOUETTE,
            "head": HEAD, "background": BACKGROUND, "speckle": "speckle",
        },
    ),
    "10_deep_vae": (
        ("DEEP-VAE", "DFC-VAE", "VQ-VAE-2"),
        {
            "distance": "fréchet_second, samples", "recall": "recall, samples",
            "silhouette": "silhouette of samples recognised",
            "distance of reconstructions": "fréchet_second, reconstructions",
        },
    ),
}  # fmt: skip


def findings_table(notebook: str, profile: str = "demo") -> str:
    """What a notebook compares, side by side, in Markdown, from results/<profile>/ only: means over the seeds, in each
    cell both directions, →/← (notebook 10: both classes). A row of fewer seeds than others says so; the last two are
    what the first row is to be seen beside.

    Raises KeyError for a notebook that the page on the findings has no table of, or whose numbers are missing.
    """
    labels, columns = _FINDINGS[notebook]
    metrics = over_seeds(read(profile))
    own = metrics[metrics["notebook"] == notebook].set_index("name")
    a, b = own["pair"].iloc[0].split(" ↔ ")
    ways = (a, b) if notebook == "10_deep_vae" else (f"{a} → {b}", f"{b} → {a}")

    def row(head: str, label: str, column: str) -> str:
        cells = [own.loc[[f"{metric}, {label}, {way}" for way in ways], column] for metric in columns.values()]
        shown = (" / ".join(f"{value:.{2 if value < 10 else 1}f}" for value in cell) for cell in cells)
        return f"| {head} | {' | '.join(shown)} |".replace("nan", "–")

    head = " / ".join(way if way in (a, b) else f"→ {way.rpartition(' ')[2]}" for way in ways)
    lines = [f"| {head} | {' | '.join(columns)} |", "|---" + "|--:" * len(columns) + "|"]
    for label in labels:
        seeds = own.loc[f"{next(iter(columns.values()))}, {label}, {ways[0]}", "seeds"]
        few = "" if seeds == own["seeds"].max() else f" ({seeds} of {own['seeds'].max()} seeds)"
        lines.append(row(label + few, label, "value"))
    return "\n".join(lines + [row(f"*{head}*", labels[0], which) for which, head in REFERENCES.items()])

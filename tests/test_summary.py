"""The summary reads results/ only, judges by its rules, and the README says what results/demo says."""

import json
import statistics
import subprocess

import pytest

from cdtlib import summary
from cdtlib.machine import ROOT
from cdtlib.settings import load, stem


def write(folder, notebook, metrics, pair=("zebra", "giraffe"), runs=(), seed=0, settings=None):
    folder.mkdir(parents=True, exist_ok=True)
    record = {"notebook": notebook, "profile": "demo", "pair": list(pair), "seed": seed, "metrics": metrics}
    record["settings"] = {"seed": seed, "data": {"source": "zoo"}} | (settings or {})
    about = {"training seconds": 60.0, "trained on": "CPU"}
    record["runs"] = [{"run": run, "reused": reused} | about for run, reused in runs]
    (folder / f"{stem(notebook, pair, seed)}.json").write_text(json.dumps(record))


def metric(name, value, lower=None, upper=None, n=10):
    about = {"published": None, "unit": None, "better": None, "source": None}
    return {"name": name, "value": value, "n": n, "lower": lower, "upper": upper} | about


WAYS = ("zebra → giraffe", "giraffe → zebra")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("CDT_RESULTS", str(tmp_path))
    return tmp_path / "demo" / "metrics"


def test_no_numbers_is_refused_by_name(results):
    with pytest.raises(FileNotFoundError, match="run the notebooks before the summary"):
        summary.read("demo")


@pytest.mark.parametrize(
    "there, back, verdict", [(0.9, 0.8, "yes"), (0.9, 0.2, "in one direction"), (0.1, 0.2, "no"), (0.9, 1.4, "yes")]
)
def test_a_claim_holds_where_the_value_is_nearer_to_the_ideal(results, there, back, verdict):
    name = "number of animals kept"
    write(
        results,
        "11_semantics",
        [metric(f"{name}, zebra → giraffe", there, 0.4, 1.0), metric(f"{name}, giraffe → zebra", back, 0.4, 1.0)],
    )
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["claim"] == "The number of animals is mostly preserved"
    assert row["holds"] == verdict
    assert row["measured"] == f"zebra → giraffe: {there:.3g} (baseline 0.4, ideal 1)"
    assert row["the other way"] == f"giraffe → zebra: {back:.3g} (baseline 0.4, ideal 1)"


def test_inversion_is_judged_against_the_mean_picture(results):
    names = [f"inversion error, {name}, level 3" for name in ("zebra", "giraffe")]
    write(results, "02_feature_inversion", [metric(names[0], 0.02, 0.1, 0.0), metric(names[1], 0.03, 0.1, 0.0)])
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["holds"] == "in one direction"


def test_the_best_of_several_is_judged_in_each_direction(results):
    values = {"Cascaded (ours)": (3.0, 9.0), "Layer 5": (4.0, 8.0), "Layer 4": (5.0, 10.0), "Layer 3": (6.0, 11.0)}
    directions = ("zebra → giraffe", "giraffe → zebra")
    write(
        results,
        "06_depth_ablation",
        [
            metric(f"fréchet_backbone, {label}, {way}", value, 90.0, 1.0)
            for label, both in values.items()
            for way, value in zip(directions, both, strict=True)
        ],
    )
    metrics = summary.read("demo")
    (row,) = summary.claims(metrics).to_dict("records")
    assert row["claim"] == "The cascade translates better than any level alone"
    assert row["holds"] == "in one direction"
    assert row["measured"] == "zebra → giraffe: Cascaded (ours) 3, Layer 5 4, Layer 4 5, Layer 3 6"
    assert row["the other way"] == "giraffe → zebra: Cascaded (ours) 9, Layer 5 8, Layer 4 10, Layer 3 11"
    ours, paper = summary.table(1, metrics).to_dict("records")
    assert ours == {label: f"{there:g} / {back:g}" for label, (there, back) in values.items()}
    assert paper["Layer 5"] == "167.62 / 184.37"


@pytest.mark.parametrize(
    "layer_5, verdict, counts",
    [
        ({"→": (4.0, 5.0, 6.0), "←": (4.0, 4.0, 4.0)}, "yes", (3, 3)),
        ({"→": (4.0, 5.0, 6.0), "←": (1.0, 1.0, 2.0)}, "in one direction", (3, 0)),
        ({"→": (4.0, 5.0, 6.0), "←": (4.0, 1.0, 4.0)}, "depends on the seed", (3, 2)),
        ({"→": (1.0, 1.0, 1.0), "←": (1.0, 2.0, 3.0)}, "no", (0, 0)),
    ],
)
def test_each_seed_is_judged_for_itself(results, layer_5, verdict, counts):
    """The cascade is at 3 with each seed, levels 4 and 3 are at 9."""
    ways = {"→": "zebra → giraffe", "←": "giraffe → zebra"}
    for seed in (2, 0, 1):
        others = {"Cascaded (ours)": 3.0, "Layer 4": 9.0, "Layer 3": 9.0}
        values = {(label, arrow): value for label, value in others.items() for arrow in ways}
        values |= {("Layer 5", arrow): of_seeds[seed] for arrow, of_seeds in layer_5.items()}
        numbers = [metric(f"fréchet_backbone, {label}, {ways[to]}", value) for (label, to), value in values.items()]
        write(results, "06_depth_ablation", numbers, seed=seed, runs=[(f"run-{seed}", False)])
    metrics = summary.read("demo")
    (row,) = summary.claims(metrics).to_dict("records")
    assert row["holds"] == verdict
    shown = {"→": row["measured"], "←": row["the other way"]}
    for (arrow, own), count in zip(layer_5.items(), counts, strict=True):
        text = f"Layer 5 {sum(own) / 3:.3g} ± {statistics.stdev(own):.2g}, Layer 4 9 ± 0, Layer 3 9 ± 0"
        assert shown[arrow] == f"{ways[arrow]}: Cascaded (ours) 3 ± 0, {text}; holds with {count} of 3 seeds"
    table = summary.over_seeds(metrics).set_index("name")
    assert (len(table), set(table["seeds"])) == (8, {3})
    assert table.loc["fréchet_backbone, Layer 5, zebra → giraffe", "value"] == pytest.approx(sum(layer_5["→"]) / 3)
    assert "± " in summary.table(1, metrics).iloc[0]["Layer 5"]
    assert list(summary.trainings("demo").index) == ["run-0"]
    write(results, "06_depth_ablation", [], pair=("cat", "dog"), seed=1, runs=[("of another pair", False)])
    assert list(summary.trainings("demo").index) == ["of another pair", "run-0"]


def test_a_claim_measured_with_one_seed_alone_says_so(results):
    for seed, names in ((0, ("facing kept", "number of animals kept")), (1, ("number of animals kept",))):
        write(results, "11_semantics", [metric(f"{n}, {way}", 0.9, 0.2 * seed, 1.0) for n in names for way in WAYS],
              seed=seed)  # fmt: skip
    number, facing = summary.claims(summary.read("demo")).to_dict("records")
    alone = "holds with 1 of 1 seed, not measured with the others"
    assert facing["measured"] == f"zebra → giraffe: 0.9 (baseline 0, ideal 1); {alone}"
    assert (facing["holds"], number["holds"]) == ("yes (of 1 seed)", "yes")
    ending = "0.9 ± 0 (baseline 0.1, ideal 1); holds with 2 of 2 seeds"
    assert number["measured"] == f"zebra → giraffe: {ending}"


def test_a_seed_with_other_settings_is_left_out(results, capsys):
    for seed, value, steps in ((0, 0.9, 100), (1, 0.7, 100), (2, 0.1, 999)):
        numbers = [metric(f"facing kept, {way}", value, 0.0, 1.0) for way in WAYS]
        write(results, "11_semantics", numbers, seed=seed, settings={"steps": steps})
    metrics = summary.over_seeds(summary.read("demo"))
    assert capsys.readouterr().out.startswith("11_semantics-zebra-giraffe-seed2 was run with other settings")
    assert list(metrics["value"]) == pytest.approx([0.8, 0.8]) and list(metrics["seeds"]) == [2, 2]


def test_what_was_withdrawn_is_said(results, capsys):
    write(results, "08_comparison", [metric("speckle, Ours, zebra → giraffe", 1.0)])
    (file,) = results.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"withdrawn": "A was trained wrongly."}))
    assert list(summary.read("demo")["value"]) == [1.0]
    assert capsys.readouterr().out == "08_comparison-zebra-giraffe: A was trained wrongly.\n"


def test_seeds_of_the_present_settings_take_the_place_of_an_older_first_one(results, capsys):
    now = load("demo").model_dump(mode="json")
    for seed, value in ((0, 0.1), (1, 0.7), (2, 0.9)):
        numbers = [metric(f"facing kept, {way}", value, 0.0, 1.0) for way in ("zebra → giraffe", "giraffe → zebra")]
        settings = now | {"seed": seed} | ({"levels": [5]} if not seed else {})
        write(results, "11_semantics", numbers, seed=seed, settings=settings)
    metrics = summary.over_seeds(summary.read("demo"))
    assert capsys.readouterr().out.startswith("11_semantics-zebra-giraffe was run with other settings")
    assert list(metrics["value"]) == pytest.approx([0.8, 0.8])


def test_a_notebook_of_older_settings_than_others_is_named(results, capsys):
    now = load("demo").model_dump(mode="json")
    write(results, "04_cascade", [metric(f"precision, {way}", 0.5) for way in WAYS], settings=now | {"levels": [5]})
    summary.read("demo")
    assert capsys.readouterr().out == ""  # there is nothing that it could be unlike
    write(results, "11_semantics", [metric(f"facing kept, {way}", 0.9) for way in WAYS], settings=now)
    assert len(summary.read("demo")) == 4
    told = "04_cascade-zebra-giraffe was run with other settings than other notebooks; run it again.\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("better, low, ideal, verdict", [
    ("lower", 9.0, 1.0, "yes"), ("lower", 1.0, 1.2, "cannot be told"), ("lower", 1.0, 1.0, "cannot be told"),
    ("higher", 0.0, 1.0, "no"), ("higher", 1.0, 0.5, "cannot be told"),
])  # fmt: skip
def test_where_the_ideal_is_no_better_than_the_low_reference_nothing_is_told(results, better, low, ideal, verdict):
    value = {"lower": 1.1, "higher": 0.3}[better]
    numbers = [metric(f"fréchet_backbone, {way}", value, low, ideal) | {"better": better} for way in WAYS]
    write(results, "04_cascade", numbers)
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["holds"] == verdict


def test_what_was_run_with_changed_settings_stands_beside_the_profile(results):
    write(results, "06_depth_ablation", [metric("n", 1.0)])
    changed = json.loads((results / "06_depth_ablation-zebra-giraffe.json").read_text()) | {"changes": ["data.test=8"]}
    (results / "06_depth_ablation-zebra-giraffe-data.test=8.json").write_text(json.dumps(changed))
    (results / ".tmp-06_depth_ablation-zebra-giraffe.json").write_text('{"left by a kill": ')
    assert len(summary.read("demo")) == 1


def test_a_setting_that_came_later_does_not_part_the_seeds(results):
    now = load("demo").model_dump(mode="json")
    before = json.loads(json.dumps(now))
    del before["translation"]["5"]["augment"]
    number = [metric("share of clamped values, zebra, level 5", 0.3)]
    write(results, "01_data_and_backbone", number, settings=now)
    write(results, "01_data_and_backbone", number, seed=1, settings=before)
    assert sorted(summary.read("demo")["seed"]) == [0, 1]
    before["translation"]["5"]["batch"] += 1
    write(results, "01_data_and_backbone", number, seed=1, settings=before)
    assert sorted(summary.read("demo")["seed"]) == [0]


def test_a_level_to_which_a_seed_does_not_go_on_does_not_part_the_seeds(results):
    settings = load("demo").model_dump(mode="json")
    for of_levels in (settings["translation"], settings["alone"], settings["inversion"]["steps"]):
        del of_levels["2"]
    number = metric("fréchet_backbone, Cascaded (ours), zebra → giraffe", 1.0)
    further = metric("fréchet_backbone, cascaded to level 2, zebra → giraffe", 0.5)
    write(results, "06_depth_ablation", [number, further], settings=load("demo").model_dump(mode="json"))
    write(results, "06_depth_ablation", [number], seed=1, settings=settings)
    assert list(summary.over_seeds(summary.read("demo"))["seeds"]) == [2, 1]
    of_the_cascade = json.loads(json.dumps(settings))
    del of_the_cascade["inversion"]["noise"]["3"]
    write(results, "06_depth_ablation", [number], seed=1, settings=of_the_cascade)
    assert list(summary.over_seeds(summary.read("demo"))["seeds"]) == [1, 1]
    settings["translation"]["3"]["batch"] += 1
    write(results, "06_depth_ablation", [number], seed=1, settings=settings)
    assert list(summary.over_seeds(summary.read("demo"))["seeds"]) == [1, 1]


def test_without_claims_or_trainings_there_are_empty_tables(results):
    write(results, "01_data_and_backbone", [metric("share of clamped values, zebra, level 5", 0.3)])
    assert summary.claims(summary.read("demo")).set_index("claim").empty
    assert summary.trainings("demo")["used in"].empty


@pytest.fixture
def published_results(monkeypatch):
    """The project's own results as they are committed; after `make demo` they are the user's, and say other times."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "results/demo"], cwd=ROOT, capture_output=True)
    if changed.returncode:
        pytest.skip("results/demo is not as it was published")
    monkeypatch.setenv("CDT_RESULTS", str(ROOT / "results"))


def test_every_claim_is_judged_by_the_published_numbers(published_results):
    judged = set(summary.claims(summary.read("demo"))["claim"])
    assert judged == {claim.text for claim in summary.CLAIMS}


def test_tables_2_and_3_stand_beside_the_papers(results):
    columns = ("CycleGAN", "MUNIT", "DRIT", "GANimorph", "Ours")
    numbers = [
        metric(f"fréchet_second, {column}, {way}", 10.0 + i + back)
        for i, column in enumerate(columns)
        for back, way in ((0, "zebra → giraffe"), (0.5, "giraffe → zebra"))
    ]
    write(results, "08_comparison", numbers)
    generated = {"zebra": (4.0, 5.0, 3.0), "giraffe": (1.0, 2.0, 0.5)}
    models = ("DFC-VAE", "VQ-VAE-2", "DEEP-VAE")
    numbers = [
        metric(f"fréchet_second, samples, {model}, {domain}", value)
        for domain, values in generated.items()
        for model, value in zip(models, values, strict=True)
    ]
    write(results, "10_deep_vae", numbers)
    metrics = summary.read("demo")
    ours, paper = summary.table(2, metrics).to_dict("records")
    assert ours == {column: f"{10 + i} / {10.5 + i}" for i, column in enumerate(columns)}
    assert paper["MUNIT"] == "238.06 / 60.78"
    assert summary.table(3, metrics).loc["zebra, fréchet_second here"].to_dict() == dict(
        zip(models, "453", strict=True)
    )
    assert summary.table(3, metrics).loc["giraffe, the paper's FID (photos)", "DEEP-VAE"] == "108.02"
    assert summary.table(1, metrics).empty and summary.distances(metrics).empty
    claims = {claim["claim"].split(" than ")[0]: claim["holds"] for claim in summary.claims(metrics).to_dict("records")}
    assert claims == {"Ours is nearer to the target": "no", "DEEP-VAE's samples are nearer to the class": "yes"}


@pytest.mark.parametrize("to_2, verdict", [(1.2, "yes"), (0.95, "yes"), (0.9, "no")])
def test_level_2_is_not_needed_if_it_gains_less_than_a_tenth(results, to_2, verdict):
    values = {"Cascaded (ours)": 1.0, "cascaded to level 2": to_2}
    names = {f"fréchet_backbone, {k}, {way}": v for k, v in values.items() for way in WAYS}
    write(results, "06_depth_ablation", [metric(name, value) for name, value in names.items()])
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["where"] == "§4" and row["holds"] == verdict


@pytest.mark.parametrize(
    "shares, verdicts",
    [
        ((0.9, 0.5, 0.4, 0.3, 0.05, 0.8), ["yes", "yes"]),
        ((0.96, 0.97, 0.96, 0.3, 0.05, 0.8), ["yes", "yes"]),  # a hundredth more of 200 pictures is chance
        ((0.9, 0.1, 0.5, 0.3, 0.2, 0.8), ["no", "no"]),
        ((0.9, 0.9, 0.9, 0.9, 0.89, 0.8), ["no", "no"]),
        ((0.9, 0.5, 0.4, 0.3, 0.05, 0.3), ["yes", "cannot be told"]),  # where not even the coat has changed
    ],
)
def test_shallower_levels_change_the_shape_less(results, shares, verdicts):
    coat = "recognised as the target species"
    names = [f"silhouette alone {coat}, Layer {i}" for i in (5, 4, 3, 2, 1)] + [f"{coat}, Layer 1"]
    numbers = [
        metric(f"{name}, {way}", share, 0.0, 1.0, n=200)
        for name, share in zip(names, shares, strict=True)
        for way in ("zebra → giraffe", "giraffe → zebra")
    ]
    write(results, "06_depth_ablation", numbers)
    assert list(summary.claims(summary.read("demo"))["holds"]) == verdicts


@pytest.mark.parametrize(
    "shares, verdict",
    [((0.95, 0.88, 0.5, 0.2), "yes"), ((0.95, 0.92, 0.5, 0.2), "no")],  # ± 0.05 are two standard errors
)
def test_a_loss_is_needed_if_its_lack_is_more_than_chance(results, shares, verdict):
    labels = ("all losses", "without identity", "without cycle", "without adversarial")
    name = "species, silhouette, number and facing all right"
    numbers = [
        metric(f"{name}, {label}, {way}", share, n=200)
        for label, share in zip(labels, shares, strict=True)
        for way in ("zebra → giraffe", "giraffe → zebra")
    ]
    write(results, "05_loss_ablation", numbers)
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["holds"] == verdict


@pytest.mark.parametrize("share, diversity, verdict", [(0.9, 0.9, "no"), (0.8, 0.9, "yes"), (0.9, 0.4, "yes")])
def test_lsgan_fails_by_wrong_translations_or_by_a_collapse(results, share, diversity, verdict):
    values = {"species, silhouette, number and facing all right": (0.92, share), "diversity": (1.0, diversity)}
    numbers = [
        metric(f"{name}, {label}, {way}", value, n=200)
        for name, both in values.items()
        for label, value in zip(("all losses", "LSGAN"), both, strict=True)
        for way in ("zebra → giraffe", "giraffe → zebra")
    ]
    write(results, "05_loss_ablation", numbers)
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["holds"] == verdict


def test_cropping_is_judged_by_what_a_perfect_translation_keeps(results):
    name = "cut by the frame: on the same side"
    numbers = [metric(f"{name}, zebra → giraffe", 0.9, 0.1, 0.98), metric(f"{name}, giraffe → zebra", 0.87, 0.1, 0.98)]
    write(results, "11_semantics", numbers)
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["holds"] == "in one direction"


def test_few_photos_are_judged_by_the_unbiased_distance(results):
    """On photos a set of pictures that are all alike can have the smaller Fréchet distance."""
    photos = {"data": {"source": "photos"}}

    def verdict(*kinds, **about):
        values = {"fréchet": (0.5, 1.0, 0.4), "kernel": (4.7, 4.3, 0.0)}
        numbers = [
            metric(f"{kind}_backbone, {way}", *values[kind]) | {"better": "lower"} for kind in kinds for way in WAYS
        ]
        write(results, "04_cascade", numbers, settings=about)
        (row,) = summary.claims(summary.read("demo")).to_dict("records")
        return row["holds"], row["number"]

    assert verdict("fréchet", "kernel") == ("yes", "fréchet_backbone")
    assert verdict("fréchet", "kernel", **photos) == ("no", "kernel_backbone")
    assert verdict("fréchet", **photos) == ("cannot be told", "fréchet_backbone")


def test_detail_does_not_tell_what_is_sharp_in_photos(results):
    names = [
        f"detail of samples, {model}, {domain}" for model in ("DEEP-VAE", "DFC-VAE") for domain in ("zebra", "giraffe")
    ]
    for source, verdicts in (("zoo", {"yes", "no"}), ("photos", {"cannot be told"})):
        numbers = [metric(name, 0.9, 0.1, 1.0) | {"better": "higher"} for name in names]
        write(results, "10_deep_vae", numbers, settings={"data": {"source": source}})
        assert set(summary.claims(summary.read("demo"))["holds"]) == verdicts
    numbers = [metric(name, 0.2, 0.5, 0.3) | {"better": "higher"} for name in names]  # where blurred ones have more
    write(results, "10_deep_vae", numbers)
    assert set(summary.claims(summary.read("demo"))["holds"]) == {"cannot be told"}


def test_which_notebooks_use_a_training(results):
    write(results, "03_deepest_translation", [], runs=[("level5-1", False), ("level5-1", True), ("inverter-2", True)])
    write(results, "05_loss_ablation", [], runs=[("level5-1", True), ("level5-3", False)])
    assert summary.trainings("demo").to_dict("index") == {
        "inverter-2": {"seconds": 60.0, "trained on": "CPU", "used in": "03"},
        "level5-1": {"seconds": 60.0, "trained on": "CPU", "used in": "03, 05"},
        "level5-3": {"seconds": 60.0, "trained on": "CPU", "used in": "05"},
    }


def test_the_claims_of_a_table_are_judged_by_kid_on_photos(results):
    labels = {"Cascaded (ours)": (1.0, 60.0), "Layer 5": (2.0, 50.0), "Layer 4": (3.0, 40.0), "Layer 3": (4.0, 30.0)}
    numbers = [
        metric(f"{distance}, {label}, {way}", value)
        for label, both in labels.items()
        for distance, value in zip(("kernel_backbone", "KID"), both, strict=True)
        for way in ("zebra → giraffe", "giraffe → zebra")
    ]
    photos = {"data": {"source": "photos"}}
    without = [number for number in numbers if not number["name"].startswith("KID")]
    write(results, "06_depth_ablation", without, settings=photos)
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["holds"] == "yes" and row["number"] == "kernel_backbone"
    write(results, "06_depth_ablation", numbers, settings=photos)
    (row,) = summary.claims(summary.read("demo")).to_dict("records")
    assert row["holds"] == "no" and row["number"] == "KID" and "Layer 3 30" in row["measured"]


def test_published_numbers_stand_in_a_column_of_their_own(results):
    write(results, "04_cascade", [metric("fréchet_backbone, giraffe → zebra", 3.0, 9.0, 1.0)])
    (row,) = summary.distances(summary.read("demo")).to_dict("records")
    assert (row["direction"], row["distance"], row["n"]) == ("giraffe → zebra", "fréchet_backbone", 10)
    assert (row["translated"], row["baseline"], row["ideal"]) == (3.0, 9.0, 1.0)
    assert row["paper's FID (Table 2, photos)"] == 39.38
    both = [metric(f"{name}, giraffe → zebra", 50.0, 90.0, 1.0) for name in ("fréchet_backbone", "FID", "KID")]
    write(results, "04_cascade", both)
    beside = summary.distances(summary.read("demo"))["paper's FID (Table 2, photos)"]
    assert list(beside) == ["", 39.38, ""]


def test_all_numbers_stand_in_one_table(results):
    number = metric("FID, zebra → giraffe", 50.0, 90.0, 20.0) | {"published": 67.41, "better": "lower"}
    for seed in (0, 1):
        write(results, "04_cascade", [number | {"value": 50.0 + 2 * seed}], seed=seed)
    (row,) = summary.every(summary.read("demo")).to_dict("records")
    expected = {"notebook": "04_cascade", "pair": "zebra ↔ giraffe", "name": "FID, zebra → giraffe", "value": 51.0}
    expected |= {"±": pytest.approx(2**0.5), "baseline": 90.0, "ideal": 20.0, "published": 67.41}
    assert row == expected | {"unit": "", "better": "lower", "n": 10, "seeds": 2}


RIGHT, SILHOUETTE = (f"{name}, {{}}" for name in (summary._ALL_RIGHT, summary._SILHOUETTE))
LOSSES = ("all losses", "without cycle", "without identity", "without adversarial")
MODELS, RIVALS = ("DEEP-VAE", "DFC-VAE", "VQ-VAE-2"), ("CycleGAN", "MUNIT", "DRIT", "GANimorph")


@pytest.mark.parametrize("notebook, claim, name, labels, cases", [
    ("05_loss_ablation", "Level 5 is translated best", "fréchet_backbone, {}", LOSSES,
     {(1.0, 2.0, 2.0, 2.0): "yes", (1.0, 2.0, 2.0, 0.5): "no"}),
    ("05_loss_ablation", "Clamping at one", RIGHT, ("all losses", "clamped at 3 deviations"),
     {(0.95, 0.8): "yes", (0.95, 0.97): "yes", (0.8, 0.95): "no"}),
    ("07_backbones", "Fine-tuning VGG-19 does not improve", RIGHT, ("fine-tuned", "VGG-19"),
     {(0.8, 0.95): "yes", (0.97, 0.95): "yes", (0.95, 0.8): "no"}),
    ("07_backbones", "With fine-tuned VGG-19 translations are inferior", RIGHT, ("fine-tuned", "VGG-19"),
     {(0.8, 0.95): "yes", (0.93, 0.95): "no", (0.95, 0.8): "no"}),
    ("07_backbones", "AlexNet's deepest level", SILHOUETTE, ("AlexNet", "VGG-19"),
     {(0.4, 0.9): "yes", (0.6, 0.9): "no", (0.4, 0.3): "no"}),
    ("07_backbones", "AlexNet's features are harder", "inversion error, {}", ("AlexNet", "VGG-19"),
     {(0.3, 0.2): "yes", (0.2, 0.3): "no"}),
    ("08_comparison", "Traditional methods", SILHOUETTE, ("Ours", *RIVALS),
     {(0.9, 0.4, 0.4, 0.4, 0.4): "yes", (0.3, 0.4, 0.4, 0.4, 0.6): "no"}),
    ("08_comparison", "Ours is nearer to the target than its rivals if", "fréchet_second, {}",
     ("Ours to level 2", *RIVALS), {(1.0, 2.0, 2.0, 2.0, 2.0): "yes", (1.0, 0.5, 2.0, 2.0, 2.0): "no"}),
    ("09_embedding", "Ours lie closest", "fc7: two-sample accuracy, {}", ("ours", *RIVALS),
     {(0.6, 0.7, 0.7, 0.7, 0.7): "yes", (0.6, 0.7, 0.7, 0.7, 0.5): "no"}),
    ("10_deep_vae", "The animal's structure", "silhouette of samples recognised, {}", MODELS[:1],
     {(0.9,): "yes", (0.89,): "no"}),
    ("10_deep_vae", "More of DEEP-VAE's samples", "silhouette of samples recognised, {}", MODELS,
     {(0.9, 0.8, 0.7): "yes", (0.9, 0.8, 0.95): "no"}),
    ("10_deep_vae", "DEEP-VAE competes", "fréchet_second, reconstructions, {}", ("DEEP-VAE", "VQ-VAE-2"),
     {(1.0, 2.0): "yes", (2.0, 1.0): "no"}),
])  # fmt: skip
def test_a_claim_is_judged_by_its_rule(results, notebook, claim, name, labels, cases):
    for values, verdict in cases.items():
        numbers = [
            metric(f"{name.format(label)}, {way}", value, n=200)
            for label, value in zip(labels, values, strict=True)
            for way in (*WAYS, "zebra", "giraffe")
        ]
        write(results, notebook, numbers)
        rows = summary.claims(summary.read("demo")).to_dict("records")
        assert [row["holds"] for row in rows if row["claim"].startswith(claim)] == [verdict], values


@pytest.mark.parametrize(
    "notebook, name, verdicts",  # of a value near to the ideal, and of one near to the baseline
    [
        ("10_deep_vae", "detail of samples, DEEP-VAE", ["yes", "no"]),
        ("10_deep_vae", "detail of samples, DFC-VAE", ["no", "yes"]),
        ("11_semantics", "background: difference from the source's", ["no", "yes"]),
    ],
)
def test_a_fault_is_there_where_the_value_is_nearer_to_the_baseline(results, notebook, name, verdicts):
    for value, verdict in zip((0.9, 0.2), verdicts, strict=True):
        numbers = [metric(f"{name}, {way}", value, 0.1, 1.0) for way in (*WAYS, "zebra", "giraffe")]
        write(results, notebook, [number | {"better": "higher"} for number in numbers])
        assert list(summary.claims(summary.read("demo"))["holds"]) == [verdict]


def test_the_readme_says_what_the_results_say(published_results):
    assert summary.readme_table("demo") in (ROOT / "README.md").read_text()


def test_the_findings_say_what_the_results_say(published_results):
    page = (ROOT / "book" / "findings.md").read_text()
    for notebook in ("05_loss_ablation", "06_depth_ablation", "08_comparison", "10_deep_vae"):
        assert summary.findings_table(notebook, "demo") in page


def test_methods_side_by_side(results):
    """Means over the seeds, both directions in a cell; who was measured with fewer seeds says so."""
    columns = ("fréchet_backbone", "diversity", "silhouette alone recognised as the target species",
               "species, silhouette, number and facing all right")  # fmt: skip
    labels = ("all losses", "without cycle", "without identity", "without adversarial", "LSGAN")
    for seed, value in ((0, 1.0), (1, 2.0)):
        numbers = [
            metric(f"{column}, {label}, {way}", value + i, 10.0, None if column == "diversity" else 0.25)
            for column in columns
            for label in labels[: 5 - seed]  # LSGAN with one seed only
            for i, way in enumerate(WAYS)
        ]
        write(results, "05_loss_ablation", numbers, seed=seed)
    head, rule, *rows = summary.findings_table("05_loss_ablation").splitlines()
    assert head == "| → giraffe / → zebra | distance | all right | silhouette | diversity |"
    assert rule == "|---|--:|--:|--:|--:|"
    assert rows[0] == "| all losses | 1.50 / 2.50 | 1.50 / 2.50 | 1.50 / 2.50 | 1.50 / 2.50 |"
    assert rows[4] == "| LSGAN (1 of 2 seeds) | 1.00 / 2.00 | 1.00 / 2.00 | 1.00 / 2.00 | 1.00 / 2.00 |"
    assert rows[5] == "| *baseline* | 10.0 / 10.0 | 10.0 / 10.0 | 10.0 / 10.0 | 10.0 / 10.0 |"
    assert rows[6] == "| *ideal* | 0.25 / 0.25 | 0.25 / 0.25 | 0.25 / 0.25 | – / – |"
    with pytest.raises(KeyError, match="01_data"):
        summary.findings_table("01_data_and_backbone")

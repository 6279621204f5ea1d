"""What every comparison of translations notes: distances and semantics with their references, and the table of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import execute
from PIL import Image

from cdtlib import batch, settings
from cdtlib import experiment as experiment_module
from cdtlib.data import to_float, zoo
from cdtlib.experiment import Experiment
from cdtlib.features.backbones import embedded_alexnet
from cdtlib.metrics.distances import speckle


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDT_RESULTS", str(tmp_path_factory.mktemp("results")))
        patch.setenv("CDT_PROGRESS", "none")
        yield Experiment("03_deepest_translation", "smoke", ["zebra", "giraffe"], 0)


def noted(experiment: Experiment) -> dict[str, dict]:
    return {metric["name"]: metric for metric in experiment.metrics}


def test_the_references_are_the_source_and_the_targets_training_pictures(experiment):
    source = experiment.method.store("a", "test").images()
    experiment.distances(source, "b", "nothing done")
    for name in ("fréchet_backbone", "kernel_backbone", "precision", "recall", "diversity"):
        metric = noted(experiment)[f"{name}, nothing done, zebra → giraffe"]
        assert metric["value"] == metric["lower"] and metric["n"] == 16
    distance = noted(experiment)["fréchet_backbone, nothing done, zebra → giraffe"]
    assert distance["upper"] < distance["lower"]  # other giraffes are nearer to giraffes than zebras are
    experiment.distances(experiment.method.store("b", "test").images(), "b", "the target itself")
    found = noted(experiment)
    assert found["fréchet_backbone, the target itself, zebra → giraffe"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["diversity, the target itself, zebra → giraffe"]["value"] == pytest.approx(1)
    assert found["speckle, the target itself, zebra → giraffe"]["value"] == pytest.approx(1)


def test_pictures_are_described_by_the_mean_of_their_deepest_maps(experiment):
    x = torch.rand(70, 3, 4, 4)
    assert torch.equal(experiment.described(x, lambda part: {4: -part, 5: part}), x.mean((2, 3)))


def test_the_ideal_of_an_inversion_is_made_of_the_targets_own_maps(experiment, monkeypatch):
    asked = []
    monkeypatch.setattr(experiment.method, "inverter", lambda *which: asked.append(which) or (lambda maps: maps[:, :3]))
    store = experiment.method.store("b", level=5)
    assert torch.equal(experiment.inverted("b", 5), store.level(5, torch.tensor(store.originals()[:16]))[:, :3])
    assert asked == [("b", 5)]


@pytest.mark.parametrize("n", [8, 16])
def test_the_references_rest_on_as_many_pictures_as_the_number(experiment, n, monkeypatch):
    """Of sources that are fewer, some that are trained on are added."""
    asked = []
    measured = Experiment._measured

    def noting(self, images, *about):
        asked.append(images)
        return measured(self, images, *about)

    monkeypatch.setattr(Experiment, "_measured", noting)
    experiment._references.cache_clear()
    train = experiment.method.store("a")
    source = experiment.method.store("a", "test").images()
    store = experiment.method.store

    class Few:
        images = staticmethod(lambda: source[:5])

        def __len__(self):
            return 5

    few = {("a", "test"): Few()}
    monkeypatch.setattr(experiment.method, "store", lambda *which: few.get(which) or store(*which))
    experiment.distances(store("b", "test").images()[:n], "b", f"of {n}")
    experiment._references.cache_clear()
    _, low, ideal = asked
    assert len(low) == len(ideal) == n
    assert torch.equal(low[:5], source[:5]) and torch.equal(low[5:], train.images(train.originals()[: n - 5]))
    assert torch.equal(ideal, store("b").images(store("b").originals()[:n]))
    assert noted(experiment)[f"fréchet_backbone, of {n}, zebra → giraffe"]["n"] == n


@pytest.mark.parametrize("feature", [2048, 768])
def test_of_inception_only_distances_are_taken(experiment, monkeypatch, feature):
    suffix, names = ("", ("FID", "KID")) if feature == 2048 else (" (Inception 768-d)", ("Fréchet", "Kernel"))
    values = dict.fromkeys((f"{name}{suffix}" for name in (*names, "precision", "recall")), 0.5)
    monkeypatch.setattr(experiment_module, "inception_distances", lambda *_, **asked: values | {"n": asked["feature"]})
    monkeypatch.setitem(vars(experiment), "inception", feature)
    experiment._references.cache_clear()
    experiment.distances(experiment.method.store("a", "test").images(), "b", str(feature), cell=(2, "MUNIT"))
    experiment._references.cache_clear()
    direction = f", {feature}, zebra → giraffe"
    found = {name.removesuffix(direction): m for name, m in noted(experiment).items() if name.endswith(direction)}
    own = {"fréchet_backbone", "kernel_backbone", "precision", "recall", "diversity", "speckle"}
    assert found.keys() == own | {f"{name}{suffix}" for name in names}
    assert all(found[f"{name}{suffix}"]["better"] == "lower" for name in names)
    published = {name: (m["published"], m["source"]) for name, m in found.items() if m["published"]}
    assert published == ({"FID": (238.06, "Table 2, zebra → giraffe, MUNIT")} if feature == 2048 else {})
    assert found["speckle"]["better"] is None and found["recall"]["better"] == "higher" and found["recall"]["n"] == 16


@pytest.mark.parametrize("there, feature", [
    ({(2048, "here"), (768, "here"), (2048, None)}, 2048), ({(768, "here"), (2048, None)}, 768),
    ({(2048, None)}, 2048), ({(768, None)}, None),
])  # fmt: skip
def test_fid_is_measured_where_its_weights_are(there, feature, monkeypatch, capsys):
    def weights(feature, place):
        if (feature, place) not in there:
            raise FileNotFoundError(f"no {feature} in {place}")

    monkeypatch.setattr(experiment_module, "inception_weights", weights)
    monkeypatch.setenv("CDT_WEIGHTS", "here")
    for source, found in (("photos", feature), ("zoo", None)):
        about = SimpleNamespace(settings=SimpleNamespace(data=SimpleNamespace(source=source)))
        assert Experiment.inception.func(about) == found
    assert capsys.readouterr().out == ("" if feature else "FID is left out: no 2048 in None\n")


def test_a_collapse_has_no_diversity(experiment):
    one = experiment.method.store("b", "test").images(slice(0, 1))
    experiment.distances(one.expand(16, -1, -1, -1), "b", "one picture")
    found = {
        name: noted(experiment)[f"{name}, one picture, zebra → giraffe"]["value"] for name in ("diversity", "speckle")
    }
    target = experiment.method.store("b", "test").images()
    assert found == {"diversity": pytest.approx(0, abs=1e-5), "speckle": pytest.approx(speckle(one) / speckle(target))}


def test_a_table_has_a_row_for_each_label_and_the_references_below(experiment):
    twins = experiment.method.domains["b"]["test"].counterpart("zebra").batch(range(16))
    sources = experiment.method.store("b", "test").images()
    for label, made in (("perfect", to_float(twins)), ("untouched", sources)):
        experiment.distances(made, "a", label)
        assert experiment.semantics(made, "a", label)
    names = ["fréchet_backbone", "FID", "number of animals kept"]
    table = experiment.compared(names, ["perfect", "untouched"], "a")
    assert list(table.index) == ["perfect", "untouched", "baseline", "ideal"]
    assert list(table) == ["fréchet_backbone", "number of animals kept"]  # no FID on the drawn zoo
    assert table.index.name == experiment.direction("a") == "giraffe → zebra"
    assert table.loc["perfect", "fréchet_backbone"] < table.loc["untouched", "fréchet_backbone"]
    assert table.loc["untouched", "fréchet_backbone"] == table.loc["baseline", "fréchet_backbone"]
    assert table.loc["perfect", "number of animals kept"] == table.loc["ideal", "number of animals kept"]


def test_scores_on_a_second_backbone_know_a_perfect_translation(experiment):
    second = embedded_alexnet()
    twins = experiment.method.domains["b"]["test"].counterpart("zebra").batch(range(16))
    perfect = experiment.scores(to_float(twins), "a", second)
    untouched = experiment.scores(experiment.method.store("b", "test").images(), "a", second)
    assert perfect["fréchet_second"] < untouched["fréchet_second"]
    assert 0 <= untouched["all right"] <= perfect["all right"] <= 1
    experiment.distances(to_float(twins), "a", "twins", second=second)
    noted_second = noted(experiment)["fréchet_second, twins, giraffe → zebra"]
    assert noted_second["value"] == pytest.approx(perfect["fréchet_second"])
    assert noted_second["lower"] == pytest.approx(untouched["fréchet_second"])


def test_what_is_generated_is_compared_with_its_class(experiment):
    made = experiment.method.store("b", "test").images()
    experiment.distances(made, "b", "samples, nobody", cell=(3, "DEEP-VAE"), about="giraffe")
    assert noted(experiment)["fréchet_backbone, samples, nobody, giraffe"]["value"] == pytest.approx(0, abs=1e-3)
    table = experiment.compared(["fréchet_backbone"], ["samples, nobody"], "b", "giraffe")
    assert table.index.name == "giraffe" and len(table) == 3


def test_unknown_facts_of_a_number_are_refused(experiment):
    with pytest.raises(ValueError, match="unknown.*unti"):
        experiment.metric("speed", 1.0, n=1, unti="m/s")
    with pytest.raises(ValueError, match="metric speed is nan"):
        experiment.metric("speed", float("nan"), n=1)


def test_a_training_that_was_asked_for_twice_counts_once(experiment, monkeypatch):
    facts = {"folder": Path("translator-1"), "seconds": 60.0, "trained_on": "CPU", "trained_with": "0123, torch 2"}
    run, found = (SimpleNamespace(**facts, reused=reused) for reused in (False, True))
    monkeypatch.setattr(experiment.method, "runs", [run, found])
    experiment.finish()
    written = json.loads((experiment.root / "metrics" / f"{experiment.stem}.json").read_text())
    expected = {"run": "translator-1", "reused": False, "training seconds": 60.0, "trained on": "CPU"}
    expected["trained with"] = "0123, torch 2"
    assert written["runs"] == [expected]


def test_changed_settings_stand_in_the_names_and_beside_the_numbers():
    experiment = Experiment("03_deepest_translation", "smoke", ["zebra", "giraffe"], 0, ["data.test=8"])
    assert experiment.settings.data.test == len(experiment.method.domains["a"]["test"]) == 8
    experiment.finish()
    path = experiment.root / "metrics" / "03_deepest_translation-zebra-giraffe-data.test=8.json"
    written = json.loads(path.read_text())
    assert written["changes"] == ["data.test=8"] and written["settings"]["data"]["test"] == 8


def test_the_table_at_the_end_shows_all_there_is(experiment, monkeypatch):
    monkeypatch.setattr(experiment, "metrics", [])
    name = "a name that is longer than what pandas shows of a text, if nobody tells it to show more of it than that, {}"
    for i in range(70):
        experiment.metric(name.format(i), 1 / 3, n=1, lower=2 / 3 if i else None)
    table = experiment.finish()
    shown = table._repr_html_()
    pd.reset_option("display")
    assert list(table) == ["name", "value", "n", "baseline"]
    assert all(f"<td>{name.format(i)}</td>" in shown for i in range(70)) and "..." not in shown
    assert shown.count("<td>0.3333</td>") == 70 and shown.count("<td>0.6667</td>") == 69


@pytest.mark.parametrize(
    "notebook, counts", [("04_cascade", (14, 12)), ("04_cascade", (6, 7)), ("09_embedding", (7, 6))]
)
def test_notebooks_take_folders_with_few_held_out_photos(notebook, counts, results, tmp_path, monkeypatch):
    """As many of both kinds, or so few, as drawn pictures never are."""
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.setitem(settings.PROFILES["smoke"], "data", {"source": "photos", "size": 64})
    for name, held_out in zip(("zebra", "giraffe"), counts, strict=True):
        for split, n in (("train", 16), ("test", held_out)):
            (tmp_path / name / split).mkdir(parents=True)
            for i in range(n):
                zoo.draw(name, i, size=64, seed=len(split))[0].save(tmp_path / name / split / f"{i}.png")
    monkeypatch.setenv("CDT_PHOTOS", str(tmp_path))
    execute(notebook, "smoke")
    numbers = json.loads((results / "smoke" / "metrics" / f"{notebook}-zebra-giraffe.json").read_text())["metrics"]
    assert {metric["n"] for metric in numbers} == {min(counts)}
    plt.close("all")


def test_too_few_held_out_photos_are_refused_before_the_start(tmp_path, monkeypatch):
    for name in ("zebra", "giraffe"):
        for split, n in (("train", 16), ("test", 5)):
            (tmp_path / name / split).mkdir(parents=True)
            for i in range(n):
                (tmp_path / name / split / f"{i}.png").touch()
    monkeypatch.setenv("CDT_PHOTOS", str(tmp_path))
    with pytest.raises(ValueError, match="zebra has 5 held-out photos .* need at least 6: add photos"):
        batch.job("04", "photos")
    for name in ("zebra", "giraffe"):
        for i in range(12):
            (tmp_path / name / "test" / f"{i + 5}.png").touch()
    with pytest.raises(ValueError, match="zebra has 16 photos to train on and 17 held out.*: put more into `train`"):
        batch.job("04", "photos")


def test_photos_that_cannot_be_read_stop_a_notebook_unless_it_may_go_on(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in ("zebra", "giraffe"):
        for i, side in enumerate(["train"] * 8 + ["test"] * 6):
            (tmp_path / name / side).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
            picture.save(tmp_path / name / side / f"{i}.jpg")
    broken = tmp_path / "zebra" / "train" / "0.jpg"
    broken.write_bytes(b"no picture")
    monkeypatch.setenv("CDT_PHOTOS", str(tmp_path))
    photos = settings.load("photos", ["zebra", "giraffe"])
    with pytest.raises(ValueError, match="CDT_SKIP_BAD=1"):
        experiment_module.domains(photos)
    monkeypatch.setenv("CDT_SKIP_BAD", "1")
    assert len(experiment_module.domains(photos)["a"]["train"]) == 7
    assert "1 of 8 pictures cannot be used" in capsys.readouterr().err
    broken.rename(tmp_path / "zebra" / "test" / "8.jpg")
    with pytest.raises(ValueError, match="zebra has 5 held-out photos"):
        experiment_module.domains(photos)
    monkeypatch.setenv("CDT_SKIP_BAD", "")
    with pytest.raises(ValueError, match="1 of 6 pictures cannot be used"):
        experiment_module.domains(photos)

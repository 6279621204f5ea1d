"""`cdt train` and `cdt translate` on folders of photos, as a user gives them."""

import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import pil_to_tensor
from typer.testing import CliRunner

from cdtlib import batch, methods
from cdtlib.cli import app
from cdtlib.data import to_float, to_uint8, zoo
from cdtlib.data.photos import load as load_photo
from cdtlib.experiment import photo_domains
from cdtlib.machine import ROOT, skips_bad
from cdtlib.rivals import TABLE_2
from cdtlib.settings import load


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")


def cdt(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of pictures in several modes and sizes."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("zebra", "giraffe"):
        (root / name).mkdir()
        for i in range(10):
            picture = zoo.draw(name, i, size=64)[0].resize((80, 64 + i))
            if i % 3 == 0:
                picture.save(root / name / f"{i}.jpg")
            else:
                picture.convert("RGBA" if i % 3 == 1 else "P").save(root / name / f"a picture {i}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    command = ("train", photos / "zebra", photos / "giraffe", "--profile", "smoke", "--results", results)
    done = cdt(*command)
    assert done.exit_code == 0, done.output
    assert "pictures to train on, " in done.output and "So few pictures give level 5 only" in done.output
    (run,) = results.glob("smoke/runs/cascade-zebra-giraffe-*")
    assert str(run) in done.output.replace("\n", "")
    return command, run


def test_training_again_finds_the_same_cascade(trained):
    command, run = trained
    written = load_file(run / "translation.safetensors")
    assert cdt(*command).exit_code == 0
    again = load_file(run / "translation.safetensors")
    assert again.keys() == written.keys() and all(torch.equal(again[k], written[k]) for k in written)


@pytest.mark.parametrize("to, name", [("b", "giraffe"), ("giraffe", "giraffe"), ("a", "zebra")])
def test_translate_writes_a_picture_for_each(trained, photos, tmp_path, to, name):
    source = photos / ("zebra" if name == "giraffe" else "giraffe")
    done = cdt(
        "translate", source / "0.jpg", source / "a picture 1.png", "--run", trained[1], "--to", to, "--out", tmp_path
    )
    assert done.exit_code == 0, done.output
    for stem in ("0", "a picture 1"):
        with Image.open(tmp_path / f"{stem}-{name}.png") as made:
            assert made.size == (64, 64) and made.mode == "RGB"


@pytest.mark.parametrize(
    "change, named",
    [
        ({"--to": "c"}, '"a" (zebra) or "b" (giraffe)'),
        ({"--run": "nowhere"}, "no translation.safetensors in nowhere"),
    ],
)
def test_translate_refuses_by_name(trained, photos, tmp_path, change, named):
    options = {"--run": trained[1], "--to": "b", "--out": tmp_path / "out"} | change
    done = cdt("translate", photos / "zebra" / "0.jpg", *[part for option in options.items() for part in option])
    assert done.exit_code == 2
    assert named in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_pictures_stop_or_are_skipped(trained, photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    command = (
        "translate",
        bad,
        photos / "zebra" / "0.jpg",
        "--run",
        trained[1],
        "--to",
        "b",
        "--out",
        tmp_path / "out",
    )
    done = cdt(*command)
    assert done.exit_code == 2 and "bad.jpg" in done.stderr and not (tmp_path / "out").exists()
    done = cdt(*command, "--skip-bad")
    assert done.exit_code == 0, done.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0-giraffe.png"]


def test_two_photos_of_one_name_are_not_written_over_each_other(trained, photos, tmp_path):
    same = [photos / name / "0.jpg" for name in ("zebra", "giraffe")]
    done = cdt("translate", *same, "--run", trained[1], "--to", "b", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "several photos would be written to" in done.stderr


def test_what_would_mislead_is_said_before_the_training(photos, tmp_path, capsys):
    shutil.copytree(photos / "zebra", tmp_path / "zebra")
    for file in sorted((tmp_path / "zebra").glob("*.*")):
        shutil.copyfile(file, file.with_stem(f"{file.stem} (1)"))
    (tmp_path / "zebra" / "one.nef").touch()
    photo_domains(tmp_path / "zebra", photos / "giraffe", 64)
    said = capsys.readouterr().err
    assert "zebra: 1 files are not used (1 .nef)" in said and "giraffe" not in said
    assert re.search(
        r"zebra: [1-5] of [1-5] held-out pictures are trained on, too, under another name \(.+ = .+\)", said
    )


@pytest.mark.parametrize(
    "setting, message",
    [("translation.5.lambda_cycle=few", "lambda_cycle"), ("translation.5.lambda=3", "lambda"), ("seed", "NAME=VALUE")],
)
def test_a_wrong_setting_is_refused_by_name(photos, setting, message):
    done = cdt("train", photos / "zebra", photos / "giraffe", "--profile", "smoke", "--set", setting)
    assert done.exit_code == 2 and message in done.stderr


def test_other_settings_make_other_trainings(trained, photos):
    command, run = trained
    done = cdt(*command, "--set", "translation.3.lambda_cycle=7.0")
    assert done.exit_code == 0, done.output
    others = [path for path in run.parent.glob("cascade-zebra-giraffe-*") if path != run and path.is_dir()]
    assert [methods.load(path)[1].translation[3].lambda_cycle for path in others] == [7.0]
    done = cdt(*command, "--set", "inversion.steps.3=5")  # other inverters for the same translators
    assert done.exit_code == 0, done.output
    assert len([path for path in run.parent.glob("cascade-zebra-giraffe-*") if path.is_dir()]) == 3


def test_the_names_of_folders_must_tell_the_sides_apart(photos, tmp_path):
    for place in ("one/photos", "two/photos", "b"):
        shutil.copytree(photos / "zebra", tmp_path / place)
    done = cdt("train", tmp_path / "one" / "photos", tmp_path / "two" / "photos", "--profile", "smoke")
    assert done.exit_code == 2 and "both folders are called 'photos'" in done.stderr
    done = cdt("train", tmp_path / "b", photos / "giraffe", "--profile", "smoke")
    assert done.exit_code == 2 and "would be taken for the other side" in done.stderr


def test_translations_are_not_translated_again(trained, photos, tmp_path):
    shutil.copytree(photos / "zebra", tmp_path / "zebra")
    command = ("translate", tmp_path / "zebra", "--run", trained[1], "--to", "b", "--out", tmp_path / "zebra" / "out")
    assert cdt(*command).exit_code == cdt(*command).exit_code == 0
    made = [path.name for path in (tmp_path / "zebra" / "out").iterdir()]
    assert len(made) == len(list((photos / "zebra").iterdir())) and not any("giraffe-giraffe" in name for name in made)


def test_a_damaged_cascade_is_named(trained, photos, tmp_path):
    (tmp_path / "translation.safetensors").write_bytes((trained[1] / "translation.safetensors").read_bytes()[:1000])
    done = cdt("translate", photos / "zebra" / "0.jpg", "--run", tmp_path, "--to", "b", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "translation.safetensors cannot be read" in done.stderr


@pytest.mark.parametrize("method", TABLE_2)
def test_a_rival_trains_and_translates_by_the_same_commands(method, photos, tmp_path):
    folders = (photos / "zebra", photos / "giraffe")
    done = cdt("train", *folders, "--method", method, "--profile", "smoke", "--results", tmp_path)
    assert done.exit_code == 0, done.output
    (run,) = (tmp_path / "smoke" / "runs").glob(f"translation-{method}-zebra-giraffe-*/")
    assert str(run) in done.output.replace("\n", "")
    photo = photos / "zebra" / "0.jpg"
    single = tmp_path / "single" / "again.jpg"  # a folder of one photo
    single.parent.mkdir()
    single.write_bytes(photo.read_bytes())
    done = cdt("translate", photo, single.parent, "--run", run, "--to", "b", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    domains = photo_domains(*folders, 64)
    rival = TABLE_2[method](load("smoke", ("zebra", "giraffe"), data={"source": "photos"}), domains, tmp_path / "smoke")
    images = to_float(torch.stack([load_photo(photo, 64)] * 2))
    made = methods.load(run)[0].translate(images, "b")
    torch.testing.assert_close(made, rival.translate(images, "b"))
    for name, picture in zip(("0", "again"), to_uint8(made), strict=True):  # each with a style of its own
        with Image.open(tmp_path / "out" / f"{name}-giraffe.png") as written:
            assert torch.equal(pil_to_tensor(written), picture)
    assert torch.equal(made[0], made[1]) == (method not in ("munit", "drit"))
    assert rival.runs[0].reused


def test_what_is_given_reaches_the_training(photos, tmp_path, monkeypatch):
    made = []

    class Method:
        def __init__(self, *given):
            made.append(given)

        def save(self):
            return tmp_path / "saved"

    monkeypatch.setitem(methods.METHODS, "drit", Method)
    shutil.copytree(photos / "zebra", tmp_path / "zebra")
    (tmp_path / "zebra" / "bad.jpg").touch()
    command = ("train", tmp_path / "zebra", photos / "giraffe", "--method", "drit", "--profile", "smoke", "--seed", "3")
    assert cdt(*command).exit_code == 2 and not made
    done = cdt(*command, "--skip-bad", "--results", tmp_path / "out")
    assert done.exit_code == 0 and f"--run {tmp_path / 'saved'} " in done.stdout
    ((settings, domains, root),) = made
    assert (settings.seed, settings.pair, settings.data.source) == (3, ("zebra", "giraffe"), "photos")
    assert root == tmp_path / "out" / "smoke"
    for side, name in (("a", "zebra"), ("b", "giraffe")):
        assert {split: (own.name, own.split) for split, own in domains[side].items()} == {
            "train": (name, "train"), "test": (name, "test"),
        }  # fmt: skip
        assert len(domains[side]["train"]) + len(domains[side]["test"]) == 10


def test_what_is_given_reaches_the_notebook(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(batch, "run", lambda job, force: ran.append((job, force)))
    monkeypatch.setenv("CDT_SKIP_BAD", "")
    assert cdt("run", "03", "--profile", "smoke").exit_code == 0
    options = ("--pair", "zebra", "elephant", "--seed", "3", "--results", tmp_path, "--set", "data.test=9")
    assert cdt("run", "03", "--profile", "smoke", *options, "--force", "--skip-bad").exit_code == 0
    (plain, given), forced = (job for job, _ in ran), [force for _, force in ran]
    assert forced == [False, True] and skips_bad()
    assert (plain.settings.pair, plain.settings.seed) == (("zebra", "giraffe"), 0)
    assert (given.settings.pair, given.settings.seed, given.settings.data.test) == (("zebra", "elephant"), 3, 9)
    assert given.folder == tmp_path / "smoke"


def test_train_refuses_a_method_that_does_not_exist(photos):
    done = cdt("train", photos / "zebra", photos / "giraffe", "--method", "pix2pix", "--profile", "smoke")
    assert done.exit_code == 2 and "'pix2pix'; choose one of cascade, cyclegan" in done.stderr


def test_train_refuses_one_folder_twice(photos):
    done = cdt("train", photos / "zebra", photos / "zebra", "--profile", "smoke")
    assert done.exit_code == 2 and "zebra" in done.stderr


def test_train_refuses_a_missing_folder(photos):
    done = cdt("train", photos / "zebra", photos / "lion", "--profile", "smoke")
    assert done.exit_code == 2 and "lion" in done.stderr


def test_what_cannot_be_written_is_refused_before_the_work(trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("cdtlib.training.classification.pretrain_embedded", lambda *_, **__: pytest.fail("started"))
    done = cdt("pretrain", "--out", tmp_path / "weights.pth")
    assert done.exit_code == 2 and "--out: the weights become a .safetensors file" in done.stderr
    (tmp_path / "file").touch()
    done = cdt("pretrain", "--out", tmp_path / "file" / "weights.safetensors")
    assert done.exit_code == 1 and "cannot write into this folder" in done.stderr
    monkeypatch.setattr("cdtlib.data.photos.load", lambda *_: pytest.fail("started"))
    options = ("--run", trained[1], "--to", "b", "--out", tmp_path / "file" / "out")
    done = cdt("translate", photos / "zebra", *options)
    assert done.exit_code == 1 and "cannot write into this folder" in done.stderr


def test_the_readmes_python_finds_the_same_cascade_and_translates(trained, photos, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(photos)
    names, results = {}, str(trained[1].parents[1])
    for there, here in {
        '"photos", ("zebra", "horse")': '"smoke", ("zebra", "giraffe"), data={"source": "photos"}',
        "photos/horse": "giraffe", "photos/zebra": "zebra", "results/photos": results, "holiday.jpg": "zebra/0.jpg",
    }.items():  # fmt: skip
        assert there in code
        code = code.replace(there, here)
    exec(code, names)
    assert names["folder"] == trained[1]
    assert names["translated"].shape == (1, 3, 64, 64) and names["translated"].dtype == torch.uint8

"""Settings are strict: what is wrong is refused by name, with what would be right."""

import copy
import json
import re

import pytest
from pydantic import ValidationError

from cdtlib.settings import PROFILES, Settings, Translation, load, overrides

PAPER = Settings(profile="paper", pair=("a", "b"))


def leaves(value, path=()) -> dict:
    """{path: value} of a nested dict."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, item in value.items() for k, v in leaves(item, (*path, key)).items()}


def test_defaults_are_the_papers():
    for level in (5, 4, 3):
        s = PAPER.translation[level]
        assert (s.epochs, s.learning_rate, s.lambda_gp, s.lambda_cycle, s.lambda_identity) == (400, 1e-4, 10, 100, 100)
        assert (s.gan, s.critic_steps, s.batch, s.betas, s.augment) == ("wgan-gp", 5, 16, (0.5, 0.999), False)
        assert s.adversarial == 1 and s.identity_first == 0 and s.ema == 0 and s.skip == 0 and s.precision == "fp32"
    assert PAPER.levels == (5, 4, 3) and PAPER.backbone == "vgg19"
    assert PAPER.data.size == 224 and PAPER.data.views == 1
    assert load("paper", ("a", "b")) == PAPER and PAPER.further == ()
    assert load("demo").further == (2,) and load("demo", levels=(5,)).further == (4, 3, 2)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_loads(profile):
    s = load(profile, seed=3)
    assert s.profile == profile and s.seed == 3 and len(set(s.pair)) == 2
    json.dumps(s.model_dump(mode="json"))  # as it is written beside every number
    assert Settings.model_validate_json(s.model_dump_json()) == s  # as it is kept beside a trained cascade


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_changes_nothing_but_what_it_lists(profile):
    ours = leaves(load(profile, ("zebra", "giraffe")).model_dump())
    more = {i: Translation().model_dump() for i in (1, 2)}  # what the paper does not translate, or not at its size
    papers = leaves({"alone": more, "translation": more}) | leaves(PAPER.model_dump())
    listed = leaves(PROFILES[profile])
    changed = {path for path in ours if ours[path] != papers.get(path)} - {("profile",), ("pair",)}
    assert changed <= listed.keys()
    assert all(ours[path] == value for path, value in listed.items())


def test_overrides_reach_what_they_name_and_nothing_else():
    before = copy.deepcopy(PROFILES)
    plain = leaves(load("demo").model_dump())
    given = {"data": {"train": 7}, "levels": (5, 4), "translation": {4: {"width": 9}}, "inversion": {"width": {3: 11}}}
    ours = leaves(load("demo", **given).model_dump())
    assert {path: value for path, value in ours.items() if plain[path] != value} == leaves(given)
    assert PROFILES == before


@pytest.mark.parametrize(
    "given, named",
    [
        ({"levels": (5, 4, 3, 2)}, "translation: nothing is set for level 2, which is to be translated"),
        ({"translation": {1: {}}}, "translation: nothing is set for level 2, from which a shallower one goes on"),
        ({"translation": {2: {}}}, "inversion.steps: nothing is set for level 2, which is to be translated"),
    ],
)
def test_what_a_level_needs_must_be_set(given, named):
    with pytest.raises(ValueError, match=named):
        load("paper", ("zebra", "giraffe"), **given)


def test_changes_are_literals_or_text():
    given = ["translation.5.betas=(0.5, 0.9)", "translation.5.gan=lsgan", "data.test=8", "inversion.steps.3=9"]
    assert overrides(given) == {
        "translation": {5: {"betas": (0.5, 0.9), "gan": "lsgan"}}, "data": {"test": 8}, "inversion": {"steps": {3: 9}},
    }  # fmt: skip
    assert load("demo", **overrides(["levels=[5, 4]"])).levels == (5, 4)
    assert overrides(["a=b c=d"]) == {"a": "b c=d"} and overrides([]) == {}


@pytest.mark.parametrize(
    "given, named",
    [
        (["translation.5.epochs"], "NAME=VALUE, such as translation.5.epochs=20, not 'translation.5.epochs'"),
        (["seed=3"], "seed: it is given by itself"),
        (["pair.0=cat"], "pair: it is given by itself"),
        (["inversion.noise={}"], "inversion.noise: change each of the settings in it by its own name"),
        (["data.size=64", "data.size=128"], "data.size: given twice"),
        (["data=1", "data.size=64"], "data.size: a value is already given for data"),
        (["data.size=64", "data=1"], "data: given twice"),
    ],
)
def test_what_is_no_change_of_a_setting_is_refused(given, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        overrides(given)


def test_what_no_setting_decides_is_refused():
    with pytest.raises(ValueError, match="unknown setting '5'"):
        load("demo", **overrides(["5=3"]))
    with pytest.raises(ValueError, match="data.test: of photos all that a folder holds are used"):
        load("photos", data={"test": 8})


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load("demo").seed = 1


@pytest.mark.parametrize(
    "given, named",
    [
        # Unknown names, at every depth, with the known ones.
        ({"widht": 3}, "'widht'.*there are profile, pair, seed"),
        ({"data": {"sise": 64}}, "data.sise: .*there are source, size"),
        ({"translation": {5: {"lamda_cycle": 1.0}}}, "translation.5.lamda_cycle: .*there are .*lambda_cycle"),
        ({"inversion": {"step": 5}}, "inversion.step: .*there are steps"),
        # Wrong types: what YAML and papermill make of numbers.
        ({"translation": {5: {"learning_rate": "1e-4"}}}, "translation.5.learning_rate: .*valid number.*'1e-4'"),
        ({"seed": "0"}, "seed: .*valid integer.*'0'"),
        ({"seed": True}, "seed: .*valid integer.*True"),
        ({"data": {"size": 64.0}}, "data.size: .*valid integer.*64.0"),
        ({"data": 64}, "data: .*64"),
        ({"translation": {5: None}}, "translation.5: .*None"),
        # Impossible values.
        ({"seed": -1}, "seed: .*greater than or equal to 0.*-1"),
        ({"levels": (6, 5)}, "levels.0: .*less than or equal to 5.*6"),
        ({"translation": {6: {"width": 8}}}, "translation.6.*less than or equal to 5.*6"),
        ({"levels": (5, 3)}, r"levels \(5, 3\): .*without a gap, such as \(5, 4, 3\)"),
        ({"levels": (4, 3)}, r"levels \(4, 3\): .*from level 5"),
        ({"levels": (3, 4, 5)}, r"levels \(3, 4, 5\): "),
        ({"levels": ()}, r"levels \(\): "),
        ({"data": {"size": 100}}, "size 100 must be a multiple of 16"),
        ({"data": {"size": 16}}, "size 16 must be .* at least 32"),
        ({"data": {"train": 0}}, "data.train: .*greater than 0"),
        ({"translation": {4: {"epochs": float("inf")}}}, "translation.4.epochs: .*finite"),
        ({"translation": {4: {"lambda_gp": float("nan")}}}, "translation.4.lambda_gp: .*finite"),
        ({"translation": {4: {"lambda_cycle": -1.0}}}, "translation.4.lambda_cycle: .*greater than or equal to 0"),
        ({"translation": {4: {"betas": (0.5, 1.5)}}}, "translation.4.betas.1: .*less than 1"),
        ({"translation": {4: {"ema": 1.0}}}, "translation.4.ema: .*less than 1"),
        ({"translation": {4: {"precision": "fp16"}}}, "translation.4.precision: .*'fp32' or 'bf16'"),
        ({"inversion": {"learning_rate": {3: 0.0}}}, "inversion.learning_rate.3: .*greater than 0"),
        ({"inversion": {"steps": {5: 0}}}, "inversion.steps.5: .*greater than 0"),
        ({"data": {"size": 96}, "inversion": {"crop": {3: 4}}}, "inversion.crop: level 3 .*1/4 of 96.*at most 3"),
        ({"translation": {5: {"width": 130}}}, "translation.5.width: 130 channels .* choose a multiple of 32"),
        ({"alone": {3: {"width": 2}}}, "alone.3.width: 2 channels"),
        ({"generation": {"width": {5: 130}}}, "generation.width.5: 130 channels"),
        ({"backbone": "resnet"}, "backbone: .*'vgg19', 'embedded', .*'resnet'"),
        ({"device": "tpu"}, "device: .*'auto', 'cpu' or 'cuda'"),
    ],
)
def test_refused_by_name_with_what_would_be_right(given, named):
    with pytest.raises(ValueError, match=named):
        load("demo", ("zebra", "giraffe"), **given)


@pytest.mark.parametrize(
    "pair, named",
    [
        (["zebra"], "pair: two names .* such as .*'zebra'"),
        ([], "pair: two names"),
        (["zebra", "giraffe", "elephant"], "pair: two names"),
        ("zebra", "pair: two names"),
        (["zebra", ""], "pair: two names"),
        (["zebra", "giraffe/"], "'giraffe/' is a path; give the folder's name alone"),
        (["zebra", ".."], "'..' is a path"),
        ([1, 2], "pair: two names"),
        (["zebra", "zebra"], "pair: the two domains must differ, both are 'zebra'"),
        (["zebra", "unicorn"], "pair: the drawn zoo has no 'unicorn'; choose two of zebra, giraffe, elephant"),
    ],
)
def test_a_pair_is_two_different_known_domains(pair, named):
    with pytest.raises(ValueError, match=named):
        load("demo", pair)


def test_names_of_photo_folders_are_free():
    assert load("photos", ["my cats", "Füchse"]).pair == ("my cats", "Füchse")


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match=f"profile: there is no 'huge'; choose one of {', '.join(PROFILES)}"):
        load("huge")


def test_all_faults_are_listed_at_once():
    with pytest.raises(ValueError) as error:
        load("demo", data={"train": 0, "sise": 1}, translation={5: {"ema": 2.0}})
    assert all(name in str(error.value) for name in ("data.train", "data.sise", "translation.5.ema"))

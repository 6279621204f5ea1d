"""Training translators, inverters and the embedded backbone, tiny: what goes where, the same every time, resumed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from cdtlib import losses
from cdtlib import method as method_module
from cdtlib.data.zoo import INVENTED, ZooDomain
from cdtlib.features.backbones import ARCHITECTURES, Backbone, embedded, embedded_alexnet, load_state
from cdtlib.features.store import FeatureStore
from cdtlib.method import CascadedTranslation, TrainingRows
from cdtlib.models.critic import Critic
from cdtlib.settings import Inversion, Settings, Translation, load
from cdtlib.training import classification, common, inversion, translation
from cdtlib.training.common import Adam, average, captured, set_rate
from cdtlib.training.run import Run
from cdtlib.training.translation import Translators

LEVELS = (5, 4, 3)
TRANSLATION = {
    "epochs": 1.0, "batch": 4, "learning_rate": 1e-3, "critic_steps": 2, "width": 8, "halvings": 1, "blocks": 0,
    "style": 8, "style_width": 8, "critic_width": 8, "critic_blocks": 1, "ema": 0.5, "precision": "fp32",
}  # fmt: skip
INVERSION = {
    "steps": dict.fromkeys(LEVELS, 3), "batch": 4, "learning_rate": dict.fromkeys(LEVELS, 1e-3),
    "width": dict.fromkeys(LEVELS, 16), "crop": {}, "refine": 0, "critic_width": 4, "adversarial_weight": 0.1,
    "adversarial_start": 0.0, "ema": 0.5, "feature_weight": 0.1, "feature_weights": {1: 1.0, 2: 1.0, 3: 1.0},
    "precision": "fp32",
}  # fmt: skip
LOGGED = {"critic", "penalty", "adversarial", "cycle", "identity"}  # of translators


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.delenv("CDT_CHECKPOINT_SECONDS", raising=False)
    monkeypatch.setattr(os, "fsync", lambda file: None)


class Drawn:
    """A domain whose pictures are drawn once for all tests."""

    cache: dict = {}

    def __init__(self, name: str, split: str, count: int):
        domain = ZooDomain(name, split, count, size=32)
        self.name, self.split, self.size = name, split, 32
        self.fingerprint, self.pictures = self.cache.setdefault(
            (name, split, count), (domain.fingerprint, domain.batch(range(count)))
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices) -> torch.Tensor:
        return self.pictures[list(indices)]


def settings_with(
    seed=0, levels=LEVELS, views=2, inverter: dict | None = None, alone: dict | None = None, **by_level: dict
) -> Settings:
    """Tiny settings; `l5={...}` changes the translation of level 5, `inverter` and `alone` what they name."""
    return load(
        "smoke", ("zebra", "giraffe"), seed, device="cpu", levels=levels,
        data={"size": 32, "train": 6, "test": 3, "views": views},
        inversion=INVERSION | (inverter or {}),
        translation={i: TRANSLATION | by_level.get(f"l{i}", {}) for i in LEVELS}, alone=alone or {},
    )  # fmt: skip


def method(root: Path, settings: Settings | None = None) -> CascadedTranslation:
    settings = settings or settings_with()
    counts = {"train": settings.data.train, "test": settings.data.test}
    domains = {
        side: {split: Drawn(name, split, n) for split, n in counts.items()}
        for side, name in zip("ab", settings.pair, strict=True)
    }
    return CascadedTranslation(settings, domains, root)


def weights(root: Path) -> dict[str, bytes]:
    """The weights of every run under `root`."""
    return {path.parent.name: path.read_bytes() for path in sorted(root.glob("runs/*/weights.safetensors"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a whole cascade, trained without a disturbance."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDT_PROGRESS", "none")
        method(root).cascade()
    return root


# ---- the whole method --------------------------------------------------------------------------------------


def test_a_whole_cascade_is_trained_and_translates(trained):
    m = method(trained)
    cascade = m.cascade()
    names = [run.name for run in m.runs]
    assert names == [
        "translator-zebra-giraffe-level5", "translator-zebra-giraffe-level4", "translator-zebra-giraffe-level3",
        "inverter-zebra-level3", "inverter-giraffe-level3",
    ]  # fmt: skip
    for side, to in (("a", "b"), ("b", "a")):
        test = m.store(side, "test")
        made = cascade.translate(test.images(), to)
        assert made.shape == (3, 3, 32, 32) and made.isfinite().all() and made.abs().max() <= 1
        for i, maps in cascade.pyramid(test.images(), side).items():  # as training saw them, but for float16
            torch.testing.assert_close(test.level(i), maps, atol=5e-3, rtol=0)
    for translators in cascade.translators.values():
        assert not translators["a"].training and translators["a"] is translators.to_a
        assert not any(p.requires_grad for g in (translators["a"], translators["b"]) for p in g.parameters())


def test_efforts_add_up_down_the_cascade(trained, tmp_path):
    m = method(shutil.copytree(trained, tmp_path / "copy"))  # further inverters are trained
    efforts = m.efforts()
    runs = {run.name: run for run in m.runs}
    # those of the translators down to a level, and the batches of four of its inverter's steps
    seen = {
        i: translation.pictures_of(t, int(runs[f"translator-zebra-giraffe-level{i}"].curve()["step"].iloc[-1]))
        for i, t in m.settings.translation.items()
    }
    steps = m.settings.inversion.steps
    assert {i: pictures for i, (_, pictures) in efforts.items()} == {
        i: sum(seen[j] for j in seen if j >= i) + steps[i] * 4 for i in (*LEVELS, 2)
    }
    inverters = sum(runs[f"inverter-{name}-level4"].seconds for name in ("zebra", "giraffe"))
    translators = sum(runs[f"translator-zebra-giraffe-level{i}"].seconds for i in (5, 4))
    assert efforts[4][0] == pytest.approx(inverters + translators)
    images = m.store("a", "test").images()
    assert torch.equal(m.fit().translate(images, "b"), m.cascade().translate(images, "b"))
    assert m.trained_on == {"CPU"}
    done = runs["inverter-zebra-level4"].folder / "done.json"
    done.write_text(json.dumps(json.loads(done.read_text()) | {"device": "NVIDIA H200"}))
    assert m.trained_on == {"CPU", "NVIDIA H200"}


def test_found_not_repeated(trained, monkeypatch):
    first = method(trained).cascade()
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file() and path.suffix != ".lock"}
    for module, name in ((losses, "total"), (losses, "cycle"), (inversion.F, "l1_loss"), (Backbone, "forward")):
        monkeypatch.setattr(module, name, None)  # whoever trains or extracts features falls over this
    m = method(trained)
    second = m.cascade()
    assert len(m.runs) == 5 and all(run.reused for run in m.runs)
    after = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before
    for i in LEVELS:
        for side in "ab":
            one, other = first.translators[i][side].state_dict(), second.translators[i][side].state_dict()
            assert all(torch.equal(one[k], other[k]) for k in one)


def test_asked_twice_trained_once(trained):
    m = method(trained)
    assert m.cascade().translators[3] is m.cascade(3, inverters=(3,)).translators[3]
    assert m.translators(4) is m.translators(4) and m.inverter("a", 3) is m.inverter("a", 3)
    assert len(m.runs) == 5


def test_losses_are_logged_and_finite(trained):
    m = method(trained)
    m.cascade()
    for run in m.runs:
        log = run.curve()
        assert log["step"].iloc[-1] == 3 and log.notna().all().all()
        expected = LOGGED if run.name.startswith("translator") else {"image", "feature", "adversarial", "critic"}
        assert set(log.columns) - {"step", "seconds"} == expected


def test_the_same_settings_give_the_same_weights_and_a_run_resumes_bit_exact(trained, tmp_path, monkeypatch):
    """Interrupted once in every run; each time the whole program starts again."""
    monkeypatch.setenv("CDT_CHECKPOINT_SECONDS", "0")
    interrupted, original = set(), Run.log

    def log(run, **values):
        if run._step == 1 and run.id not in interrupted:
            interrupted.add(run.id)
            raise KeyboardInterrupt
        original(run, **values)

    monkeypatch.setattr(Run, "log", log)
    for _ in range(6):
        try:
            method(tmp_path).cascade()
            break
        except KeyboardInterrupt:
            torch.manual_seed(len(interrupted))  # a new process begins with any state
    assert len(interrupted) == 5
    assert weights(tmp_path) == weights(trained)


def test_another_seed_gives_other_weights(trained, tmp_path):
    other = method(tmp_path, settings_with(seed=1))
    other.translators(5)
    assert not {run.id for run in other.runs} & {name.rsplit("-")[-1] for name in weights(trained)}
    one = next(v for k, v in weights(trained).items() if "level5" in k)
    assert next(iter(weights(tmp_path).values())) != one


# ---- what determines a run ---------------------------------------------------------------------------------


def ids(root: Path, settings: Settings) -> dict[str, str]:
    m = method(root, settings)
    m.cascade()
    return {run.name: run.id for run in m.runs}


def test_a_run_is_named_by_all_that_determines_it_and_nothing_else(trained, monkeypatch):
    # The names alone; nothing is trained.
    monkeypatch.setattr(method_module, "train_translators", lambda run, *_: Translators(None, None, run.id))
    monkeypatch.setattr(method_module, "train_inverter", lambda *_: None)
    translators = [f"translator-zebra-giraffe-level{i}" for i in LEVELS]
    inverters = ["inverter-zebra-level3", "inverter-giraffe-level3"]
    plain = ids(trained, settings_with())

    def changed(settings: Settings) -> list[str]:
        new = ids(trained, settings)
        return [name for name in plain if new[name] != plain[name]]

    # A shallower level rests on the deeper ones, and not the other way round.
    assert changed(settings_with(l5={"lambda_cycle": 7.0})) == translators
    assert changed(settings_with(l4={"width": 12})) == translators[1:]
    assert changed(settings_with(l4={"identity_first": 1})) == translators[1:]
    assert changed(settings_with(l3={"learning_rate": 2e-3})) == translators[2:]
    for other in ({"image_weight": 2.0}, {"noise": {3: 0.5}}, {"learning_rate": {3: 0.5}}):
        assert changed(settings_with(inverter=other)) == inverters
    # What a run does not use does not name it.
    assert changed(settings_with(inverter={"steps": {5: 9, 4: 9, 3: 3}, "width": {5: 8, 4: 8, 3: 16}})) == []
    assert changed(settings_with(inverter={"noise": {5: 0.5}})) == []
    # The seed and the features name every run.
    assert changed(settings_with(seed=1)) == changed(settings_with(views=1)) == translators + inverters


def test_features_clamped_elsewhere_are_others_and_so_are_their_runs(trained, monkeypatch):
    monkeypatch.setattr(method_module, "train_translators", lambda run, *_: Translators(None, None, run.id))
    m = method(trained)
    other = m.clamped_at(2.0)
    for side in "ab":
        plain, wider = (x.store(side).statistics[5] for x in (m, other))
        torch.testing.assert_close(wider.std, 2 * plain.std)
        assert torch.equal(wider.mean, plain.mean)
    assert m.translators(5).run != other.translators(5).run and other.settings.levels == (5,)
    assert [run.name for run in m.runs] == [f"translator-zebra-giraffe-level5{end}" for end in ("", "-clamped-at-2")]


# ---- one level ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["adversarial", "lambda_cycle", "lambda_identity"])
@pytest.mark.parametrize("level", [5, 4])
def test_a_loss_can_be_left_out(trained, weight, level):
    settings = settings_with(**{f"l{level}": {weight: 0.0}})
    m = method(trained, settings)
    m.translators(level)
    log = m.runs[-1].curve()
    assert log.notna().all().all()
    assert set(log.columns) == LOGGED | {"step", "seconds"}  # what is left out is still reported


def test_a_critic_that_is_not_asked_is_not_trained(trained):
    m = method(trained)
    m.translators_alone(5, adversarial=0.0)
    log = m.runs[-1].curve()
    assert (log[["critic", "penalty"]] == 0).all().all() and (log["cycle"] > 0).all()


def test_levels_alone_for_figures_6_and_7(trained):
    m = method(trained, settings_with(alone={i: TRANSLATION | {"halvings": 1} for i in (4, 2)}))
    m.cascade()
    n = len(m.runs)
    assert m.translators_alone(5) is not m.translators(5) and m.translators_alone(5).run == m.translators(5).run
    assert m.runs[n].reused and m.runs[n].name == "translator-zebra-giraffe-level5"
    ids = {run.id for run in m.runs}
    for change, name in (
        ({"lambda_cycle": 0.0}, "lambda_cycle-0"),
        ({"gan": "lsgan"}, "gan-lsgan"),
        ({"augment": True}, "augment-1"),
    ):
        changed = m.translators_alone(5, **change)
        assert changed.run not in ids and m.runs[-1].name == f"translator-zebra-giraffe-level5-{name}"
    for level in (4, 2):  # 4 lies in the store of the cascade's levels, 2 in one of its own
        cascade = m.alone(level)
        assert cascade.translators[level].run not in ids
        assert list(cascade.inverters["b"]) == [level]
        made = cascade.translate(m.store("a", "test").images(), "b")
        assert made.shape == (3, 3, 32, 32) and made.isfinite().all()
    assert m.store("a", level=4) is m.store("a") is not m.store("a", level=2)
    assert m.store("a", level=2).levels == (2,) and m.store("a", "test", 2).levels == (2,)
    with pytest.raises(ValueError, match="lambda_circle"):
        m.translators_alone(5, lambda_circle=0.0)


@pytest.mark.parametrize("there, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_computed_where_there_are_instructions_for_it(monkeypatch, there, dtype):
    monkeypatch.setattr(common, "has_bf16", {"cpu": there}.get)
    layer, x = nn.Linear(2, 2), torch.zeros(1, 2)
    with common.autocast("bf16", torch.device("cpu")):
        assert layer(x).dtype == dtype
    with common.autocast("fp32", torch.device("cpu")):
        assert layer(x).dtype == torch.float32


def test_which_processors_have_bf16(monkeypatch):
    for avx512, amx in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert common.has_bf16.__wrapped__("cpu") is (avx512 or amx)
    for gpu in (True, False):  # an H200, say, and the paper's RTX 2080
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, gpu=gpu: gpu)
        assert common.has_bf16.__wrapped__("cuda") is gpu


def test_bf16_and_no_averaging(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "has_bf16", lambda kind: True)
    tracked, track = {}, Run.track_training
    monkeypatch.setattr(
        Run, "track_training", lambda run, **o: [tracked.setdefault(run.name, {}).update(o), track(run, **o)]
    )
    both = {"precision": "bf16", "ema": 0.0}
    m = method(tmp_path, settings_with(levels=(5, 4), inverter=both, l5=both, l4=both))
    assert m.cascade().translate(m.store("a", "test").images(), "b").isfinite().all()
    for path in (tmp_path / "runs").glob("*/weights.safetensors"):
        assert {v.dtype for v in load_state(path).values()} == {torch.float32}
    assert len(tracked) == 2 + 2
    for name, objects in tracked.items():
        one, other = ("network", "training_network") if "inverter" in name else ("to_b", "g_b")
        trained = objects[other].state_dict()
        assert all(torch.equal(v, trained[k]) for k, v in objects[one].state_dict().items())


class Recorder(nn.Module):
    """Stands for a translator: returns maps filled with `value`, and notes the means of its inputs by sample."""

    seen: list = []

    def __init__(self, name: str, value: float):
        super().__init__()
        self.name, self.value = name, nn.Parameter(torch.tensor(value))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        samples = zip(*(x.flatten(1).mean(1).tolist() for x in inputs), strict=True)
        self.seen += [(self.name, *(round(v, 2) for v in sample)) for sample in samples]
        return self.value.expand_as(inputs[0]).clone()


class MeanCritic(nn.Module):
    """The score of a map is its mean."""

    def __init__(self, *_):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x.flatten(1).mean(1)


@pytest.mark.parametrize("identity_first", [0, 1])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize(
    "gan, critic, penalty, adversarial",
    [  # translated maps are at 0.5 (b) and -0.5 (a), real ones at -0.1 (b) and 0.1 (a)
        ("wgan-gp", (0.5 + 0.1) + (-0.5 - 0.1), 2 * (32**-0.5 - 1) ** 2, -0.5 + 0.5),
        ("lsgan", 0.5**2 + 1.1**2 + 0.5**2 + 0.9**2, 0.0, 0.5**2 + 1.5**2),
    ],
)
def test_each_network_gets_what_the_equations_say(
    tmp_path, monkeypatch, conditional, identity_first, gan, critic, penalty, adversarial
):
    monkeypatch.setattr(Recorder, "seen", [])
    names = iter([("G_A", -0.5), ("G_B", 0.5)])
    monkeypatch.setattr(translation, "make_translator", lambda *_: Recorder(*next(names)))
    monkeypatch.setattr(translation, "Critic", MeanCritic)

    class Rows:
        """One row: x, the real deeper level, and its translation are filled with one value each."""

        def __init__(self, *values):
            self.values, self.drawn = values, 0

        def __len__(self):
            return 1

        def __call__(self, rows):
            self.drawn += len(rows)
            x, own, translated = (torch.full((len(rows), 2, 4, 4), v) for v in self.values)
            return (x, own, translated) if conditional else (x, None, None)

    settings = Translation(
        epochs=1.0, batch=1, critic_steps=1, critic_width=4, lambda_cycle=3.0, learning_rate=1e-9,
        identity_first=identity_first, gan=gan,
    )  # fmt: skip
    small = []  # weights from N(0, 0.02²): in a style branch without norms, nothing would come through
    monkeypatch.setattr(translation, "initialise", lambda g: small.append(g.name) or g)
    a, b = Rows(0.1, 0.2, 0.3), Rows(-0.1, -0.2, -0.3)
    with Run("one-step", settings, root=tmp_path) as run:
        translation.train_translators(run, 4, a, b, settings, (2, 4, 4), 2 if conditional else None)
    assert a.drawn == b.drawn == translation.pictures_of(settings, 1 + identity_first) == 2 + identity_first
    expected = [
        # The critics' step: G_B(a, b̃) and G_A(b, ã), conditioned on the translated level i+1.
        ("G_B", 0.1, 0.3), ("G_A", -0.1, -0.3),
        # The translators' step: translations, conditioned so, too; identity, on the real level i+1 …
        ("G_B", 0.1, 0.3), ("G_B", -0.1, -0.2), ("G_A", -0.1, -0.3), ("G_A", 0.1, 0.2),
        # … and the way back, G_A(G_B(a, b̃), a_{i+1}) and G_B(G_A(b, ã), b_{i+1}), also on the real level i+1.
        ("G_A", 0.5, 0.2), ("G_B", -0.5, -0.2),
    ]  # fmt: skip
    expected += [("G_A", 0.1, 0.2), ("G_B", -0.1, -0.2)] * identity_first  # a step of its own, by eq. (3) alone
    assert sorted(Recorder.seen) == sorted(e if conditional else e[:2] for e in expected)
    assert small == ([] if conditional else ["G_A", "G_B"])
    log = run.curve().iloc[0]
    assert log["cycle"] == pytest.approx(abs(-0.5 - 0.1) + abs(0.5 + 0.1), rel=1e-5)
    assert log["identity"] == pytest.approx(abs(-0.5 - 0.1) + abs(0.5 + 0.1), rel=1e-5)
    logged = [log[name] for name in ("critic", "penalty", "adversarial")]
    assert logged == pytest.approx([critic, penalty, adversarial], abs=1e-5)


class Moved(Recorder):
    """Stands for a translator or an inverter: adds `value` to the maps."""

    layers = (None,)

    def forward(self, x: torch.Tensor, *_) -> torch.Tensor:
        return x + self.value


class Noted(torch.optim.SGD):
    """Stands for Adam: notes what it is given, and the gradients of every step, which changes nothing."""

    given: list = []
    gradients: list = []

    def __init__(self, parameters, *options, **named):
        super().__init__(parameters, lr=0.0)
        self.given.append((*options, *named.values()))

    def step(self):
        self.gradients.append([p.grad.item() for p in self.param_groups[0]["params"]])


@pytest.fixture
def noted(monkeypatch) -> type[Noted]:
    """In place of Adam; besides, what was averaged, and the alphas of penalties."""
    for name in ("given", "gradients", "averaged", "alphas"):
        monkeypatch.setattr(Noted, name, [], raising=False)
    penalty = losses.gradient_penalty
    monkeypatch.setattr(losses, "gradient_penalty", lambda *given: Noted.alphas.append(given[3]) or penalty(*given))
    for module in (translation, inversion):
        monkeypatch.setattr(module, "Adam", Noted)
        monkeypatch.setattr(
            module, "average", lambda mean, g, *at: Noted.averaged.append((mean.value.item(), g.value.item(), *at))
        )
    return Noted


PENALTY = 2 * (32**-0.5 - 1) * 32**-0.5  # its gradient by the weight of a `MeanCritic`, for maps of 32 elements


def test_every_update_of_a_translator_goes_down_the_gradient_of_its_equations(tmp_path, monkeypatch, noted):
    values, critics = iter([-0.5, 0.75]), []
    monkeypatch.setattr(translation, "make_translator", lambda *_: Moved("", next(values)))
    monkeypatch.setattr(translation, "Critic", lambda *given: critics.append(given) or MeanCritic())
    s = Translation(
        epochs=1.0, batch=2, learning_rate=0.3, betas=(0.1, 0.2), critic_steps=2, identity_first=2, ema=0.4,
        adversarial=2.0, lambda_gp=7.0, lambda_cycle=3.0, lambda_identity=5.0, critic_width=8, critic_blocks=3,
    )  # fmt: skip

    class Rows(list):
        """Four rows, filled with one value; notes those that were drawn."""

        def __init__(self, value):
            self.value = value

        def __len__(self):
            return 4

        def __call__(self, rows):
            self.extend(rows.tolist())
            return torch.full((len(rows), 2, 4, 4), self.value), None, None

    a, b = Rows(0.1), Rows(-0.1)
    with Run("by-hand", s, root=tmp_path) as run:
        made = translation.train_translators(run, 5, a, b, s, (2, 4, 4), None)
    assert (made.to_a.value.item(), made.to_b.value.item()) == (-0.5, 0.75)
    # What is added, -0.5 by G_A and 0.75 by G_B, is the identity loss of each, and their sum each cycle loss.
    identity, translators = [-1.0, 1.0], [-2.0 + 3 * 2 - 5, -2.0 + 3 * 2 + 5]
    judged = [(-0.1 - 0.5) - 0.1 + 7 * PENALTY, (0.1 + 0.75) + 0.1 + 7 * PENALTY]
    expected = 2 * [identity] + 2 * [judged, judged, translators]
    torch.testing.assert_close(torch.tensor(noted.gradients), torch.tensor(expected))
    assert noted.given == 2 * [(0.3, (0.1, 0.2))] and critics == 2 * [(2, 4, 8, 3)]
    assert noted.averaged == [(v, v, 0.4, step) for step in range(4) for v in (-0.5, 0.75)]
    alphas = torch.cat(noted.alphas)
    assert alphas.unique().shape == (2 * 2 * 2 * 2,) and 0 <= alphas.min() and alphas.max() < 1
    assert set(a) == set(b) == set(range(4)) and a != b


@pytest.mark.parametrize(
    "chances, expected",
    [  # mirrored below 0.5; moved down and right by -1, 0 or 1; the top and left of the mask, from -1 to 3
        ((0.9, 0.5, 0.5, 0.0, 0.0), [[0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]),
        ((0.9, 0.5, 0.5, 0.5, 0.5), [[1, 2, 3, 4], [5, 0, 0, 8], [9, 0, 0, 12], [13, 14, 15, 16]]),
        ((0.1, 0.5, 0.5, 0.99, 0.99), [[4, 3, 2, 1], [8, 7, 6, 5], [12, 11, 10, 9], [16, 15, 14, 0]]),
        ((0.9, 0.9, 0.1, 0.99, 0.99), [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]),
    ],
)
def test_maps_are_mirrored_moved_and_masked(chances, expected):
    x = (torch.arange(16.0) + 1).view(1, 1, 4, 4).requires_grad_(True)
    y = translation.augmented(x, torch.tensor([chances]))
    assert y[0, 0].tolist() == expected
    y.sum().backward()
    assert x.grad[0, 0].flatten().nonzero().flatten().tolist() == sorted(
        int(v) - 1 for row in expected for v in row if v
    )


def test_critics_alone_see_augmented_maps(tmp_path, monkeypatch):
    seen = []

    def augmented(x, chances):
        seen.append((tuple(x.shape), tuple(chances.shape), float(chances.min()) >= 0 and float(chances.max()) < 1))
        return x * 0

    monkeypatch.setattr(translation, "augmented", augmented)
    m = method(tmp_path, settings_with(levels=(5,), l5={"augment": True, "critic_steps": 3}))
    m.translators(5)
    log = m.runs[-1].curve()
    batch, updates = m.settings.translation[5].batch, translation.steps_of(m.settings.translation[5], 12, 12)
    assert len(seen) == updates * (3 * 4 + 2)
    assert {(shape[0], chances, valid) for shape, chances, valid in seen} == {(batch, (batch, 5), True)}
    assert (log["critic"].abs() < 1e-6).all() and (log["cycle"] > 0).all()


def test_rows_of_a_level_belong_together(trained):
    m = method(trained)
    rows = torch.tensor([7, 0, 11])
    store, cascade = m.store("a"), m.cascade(inverters=())
    maps = {i: store.level(i, rows) for i in LEVELS}
    x, own, translated = TrainingRows(m, "a", 3, conditioned=True)(rows)
    assert torch.equal(x, maps[3]) and torch.equal(own, maps[4])
    expected = cascade.translate_maps({i: maps[i] for i in (5, 4)}, "b")[4]
    torch.testing.assert_close(translated, expected, atol=1e-3, rtol=0)
    deepest = TrainingRows(m, "b", 5, conditioned=False)
    assert deepest(rows)[1:] == (None, None) and len(deepest) == 12


def test_a_cascade_goes_on_below_the_end_of_the_methods_own(trained):
    m = method(trained)
    longer = m.cascade(2)
    assert list(longer.translators) == [5, 4, 3, 2] and list(longer.inverters["a"]) == [2]
    reused = {run.name[-1]: run.reused for run in m.runs if run.name.startswith("translator")}
    assert reused == {"5": True, "4": True, "3": True, "2": False}  # those above are the cascade's own
    rows = torch.tensor([7, 0, 11])
    x, own, translated = TrainingRows(m, "a", 2, conditioned=True)(rows)
    assert torch.equal(x, m.store("a", level=2).level(2, rows)) and torch.equal(own, m.store("a").level(3, rows))
    deeper = m.cascade(inverters=()).translate_maps({i: m.store("a").level(i, rows) for i in LEVELS}, "b")[3]
    torch.testing.assert_close(translated, deeper, atol=1e-3, rtol=0)
    made = longer.translate(m.store("a", "test").images(), "b")
    assert made.shape == (3, 3, 32, 32) and made.isfinite().all()
    assert list(m.cascade().translators) == list(LEVELS)
    efforts = m.efforts()
    assert list(efforts) == [5, 4, 3, 2] and efforts[2][1] > efforts[3][1]


def test_steps_are_passes_over_the_larger_domain():
    assert translation.steps_of(Translation(epochs=400.0, batch=16), 1917, 2547) == 63_675
    assert translation.steps_of(Translation(epochs=0.5, batch=16), 20, 10) == 1
    assert translation.steps_of(Translation(epochs=0.5, batch=16, identity_first=7), 20, 10) == 8


def test_critics_draw_pictures_of_their_own():
    s = Translation(batch=4, critic_steps=2, identity_first=3)
    assert translation.pictures_of(s, 10) == 4 * (10 + 2 * 7) and translation.pictures_of(s, 2) == 4 * 2
    assert translation.pictures_of(s.model_copy(update={"adversarial": 0.0}), 10) == 4 * 10


@pytest.mark.parametrize("level", [5, 4])
def test_translators_learn_to_come_back(trained, level):
    many = {"epochs": 20.0, "adversarial": 0.0, "learning_rate": 3e-3, "batch": 6, "critic_steps": 1, "width": 16}
    m = method(trained, settings_with(**{f"l{level}": many}))
    m.translators(level)
    log = m.runs[-1].curve()
    assert log["cycle"].iloc[-1] + log["identity"].iloc[-1] < 0.95 * (log["cycle"].iloc[0] + log["identity"].iloc[0])


# ---- inverters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_an_inverter_starts_where_tanh_has_a_slope(trained, level):
    """At Kaiming's size the last layer's outputs can drive tanh to ±1, from where some seeds never came back."""
    for seed in range(5):
        m = method(trained, settings_with(seed, inverter={"steps": dict.fromkeys(LEVELS, 1)}))
        inverter = m.inverter("a", level)
        with torch.no_grad():
            assert inverter(m.store("a").level(level)).abs().mean() < 0.2


def test_an_inverter_learns(trained):
    m = method(
        trained,
        settings_with(inverter={"steps": dict.fromkeys(LEVELS, 30), "learning_rate": dict.fromkeys(LEVELS, 3e-3)}),
    )
    inverter = m.inverter("a", 3)
    log = m.runs[-1].curve()
    assert log["image"].iloc[-1] < 0.9 * log["image"].iloc[0]
    assert log["feature"].iloc[-1] < log["feature"].iloc[0]
    store = m.store("a")
    with torch.no_grad():
        assert inverter(store.level(3)).shape == store.images().shape


@pytest.mark.parametrize(
    "change, logged",
    [
        ({"adversarial_weight": 0.0}, {"image", "feature"}),
        ({"adversarial_start": 1.0}, {"image", "feature"}),
        ({"adversarial_start": 0.5}, {"image", "feature", "adversarial", "critic"}),
        ({"feature_weight": 0.0}, {"image", "feature", "adversarial", "critic"}),
        ({"image_weight": 0.0, "adversarial_weight": 0.0}, {"image", "feature"}),
    ],
)
def test_the_terms_of_inversion_can_be_left_out(trained, change, logged):
    m = method(trained, settings_with(inverter=change))
    m.inverter("b", 5)
    log = m.runs[-1].curve()
    assert set(log.columns) - {"step", "seconds"} == logged and log.notna().all().all()


def test_every_update_of_an_inverter_goes_down_the_gradient_of_its_losses(tmp_path, monkeypatch, noted):
    monkeypatch.setattr(inversion, "Inverter", lambda *_: Moved("", 0.3))
    monkeypatch.setattr(inversion, "initialise", lambda network: network)
    monkeypatch.setattr(inversion, "PatchCritic", MeanCritic)

    class Store:
        """Three rows: a map of 0.5 and a picture of 0.4 for each; notes those that were drawn."""

        maps, pictures = [], []

        def __len__(self):
            return 3

        def level(self, i, rows, device):
            self.maps += rows.tolist()
            return torch.full((len(rows), 3, 2, 2), 0.5)

        def images(self, rows, device):
            self.pictures += rows.tolist()
            return torch.full((len(rows), 3, 2, 2), 0.4)

    class Levels:
        """Level 1 is the picture; level 2 its negative, of which the ReLU leaves nothing."""

        channels, architecture = {4: 3}, ARCHITECTURES["vgg19"]

        def __call__(self, images, deepest):
            return {1: images, 2: -images}

    s = Inversion(
        steps={4: 4}, batch=4, learning_rate={5: 0.1, 4: 0.3}, betas=(0.1, 0.2), width={4: 8}, ema=0.4,
        image_weight=2.0, feature_weight=0.5, feature_weights={1: 3.0, 2: 1.0}, adversarial_weight=0.25,
        adversarial_start=0.5,
    )  # fmt: skip
    with Run("by-hand", s, root=tmp_path) as run:
        inversion.train_inverter(run, Store(), 4, Levels(), s)
    # The network makes 0.8 of 0.5. Features: 0.4² / 0.4² at level 1, with 3/4 of the weight. Critic: (0.8 - 1)².
    plain = 2 * 1 + 0.5 * 3 / 4 * (2 * 0.4 / 0.4**2)
    both = [[2 * 0.8 * 0.8 + 2 * (0.4 - 1) * 0.4], [plain + 0.25 * 2 * (0.8 - 1)]]
    torch.testing.assert_close(torch.tensor(noted.gradients), torch.tensor(2 * [[plain]] + 2 * both))
    assert noted.given == 2 * [(0.3, (0.1, 0.2))]
    assert [at for *_, ema, at in noted.averaged] == [0, 1, 2, 3] and {ema for *_, ema, _ in noted.averaged} == {0.4}
    assert Store.maps == Store.pictures and set(Store.maps) == {0, 1, 2}


def test_noise_falls_on_the_maps_of_its_level_alone(trained, monkeypatch):
    seen = []
    monkeypatch.setattr(inversion.Inverter, "forward", seeing(inversion.Inverter.forward, seen))
    m = method(trained, settings_with(inverter={"noise": {4: 0.02}}))
    stored = m.store("a").level(4)
    m.inverter("a", 4)
    assert m.runs[-1].name == "inverter-zebra-level4" and not m.runs[-1].reused
    for x in seen:
        off = (x[:, None] - stored).abs().amax((2, 3, 4)).amin(1)  # at most, from the map it was
        assert x.abs().max() <= 1 and 0.03 < off.min() and off.max() < 0.15
    m.inverter("a", 3)
    assert m.runs[-1].reused  # what a run does not use does not name it


def seeing(forward, seen: list):
    """`forward` of a network, which notes its inputs."""

    def noted(self, x):
        seen.append(x.detach())
        return forward(self, x)

    return noted


def test_feature_weights_of_zero_are_not_computed(trained, monkeypatch):
    deepest = []
    forward = Backbone.forward

    def noted(self, images, deepest_level=5):
        deepest.append(deepest_level)
        return forward(self, images, deepest_level)

    m = method(trained, settings_with(inverter={"feature_weights": {1: 1.0, 2: 0.5, 3: 0.0, 4: 0.0, 5: 0.0}}))
    m.store("a")
    monkeypatch.setattr(Backbone, "forward", noted)
    m.inverter("a", 5)
    assert set(deepest) == {2}


def test_windows_of_maps_and_pictures_are_the_same_place():
    image = torch.arange(32.0).expand(2, 3, 32, 32) + 100 * torch.arange(32.0).view(32, 1)
    for scale in (1, 4, 8, 16):
        x = image[:, :1, ::scale, ::scale]  # each value is the place of its corner in the picture
        places = set()
        for seed in range(12):
            torch.manual_seed(seed)
            small, part = inversion.window(x, image, 2)
            assert small.shape == (2, 1, 16 // scale, 16 // scale) and part.shape == (2, 3, 16, 16)
            assert torch.equal(part[:, :1, ::scale, ::scale], small)
            places.add(small[0, 0, 0, 0].item())
        assert len(places) > 1


def test_relative_squared_error_by_hand():
    got, wanted = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 2.0])
    assert inversion.relative_squared_error(got, wanted).item() == pytest.approx(4 / 5)
    assert inversion.relative_squared_error(30 * got, 30 * wanted).item() == pytest.approx(4 / 5)
    assert inversion.relative_squared_error(got, torch.zeros(3)).isfinite()


# ---- small parts -------------------------------------------------------------------------------------------


def test_average_by_hand():
    averaged, network = nn.Linear(1, 1), nn.Linear(1, 1)
    for step, decay, start, value, expected in (
        (0, 0.9, 1.0, 11.0, 0.1 * 1 + 0.9 * 11),  # (1 + 0) / (10 + 0) = 0.1 is less than 0.9
        (10**6, 0.9, 1.0, 11.0, 0.9 * 1 + 0.1 * 11),
        (5, 0.0, 1.0, 11.0, 11.0),  # no averaging: a copy
    ):
        nn.init.constant_(averaged.weight, start), nn.init.constant_(network.weight, value)
        average(averaged, network, decay, step)
        assert averaged.weight.item() == pytest.approx(expected)
        assert network.weight.item() == value


# ---- the embedded backbone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_embedded_backbones_can_be_made_anew(tmp_path, monkeypatch, architecture):
    measure = classification.held_out_accuracy
    monkeypatch.setattr(classification, "INVENTED", INVENTED[:2])
    monkeypatch.setattr(classification, "SIZE", dict.fromkeys(ARCHITECTURES, 64))
    monkeypatch.setattr(classification, "held_out_accuracy", lambda weights, _, a: measure(weights, 2, a))
    trained: list = []
    train = classification.train_classifier

    def kept(*arguments, **more):
        trained.append(train(*arguments, **more))
        return trained[0]

    monkeypatch.setattr(classification, "train_classifier", kept)
    out = tmp_path / "made.safetensors"
    record = classification.pretrain_embedded(tmp_path, out, architecture=architecture, pictures=16, epochs=2.0)
    assert classification.recorded(out) == json.loads(out.with_suffix(".json").read_text()) == record
    assert record["n"] == 4 and 0 <= record["accuracy"] <= 1 and record["species"] == list(INVENTED[:2])
    named = "" if architecture == "vgg19" else " --architecture alexnet"
    assert record["command"] == f"cdt pretrain{named} --pictures 16 --epochs 2.0"
    assert out.stat().st_size < 3e6

    backbone = Backbone("made", 0.25, load_state(out), "", ARCHITECTURES[architecture])
    assert backbone.channels == {"vgg19": embedded, "alexnet": embedded_alexnet}[architecture]().channels
    with torch.no_grad():
        x = torch.rand(2, 3, 64, 64) * 2 - 1
        folded = load_state(out)
        model = classification.Classifier(2, architecture).eval()
        model.features = ARCHITECTURES[architecture].layers(0.25, False)
        model.load_state_dict({k: v.float() for k, v in folded.items()})
        expected = trained[0](x)
    torch.testing.assert_close(model(x), expected, atol=2e-2, rtol=2e-2)  # float16 and nothing else in between


def test_the_store_that_training_uses_is_on_disk(trained):
    stores = sorted(p for p in (trained / "features").iterdir() if p.is_dir())
    assert {p.name.rsplit("-", 1)[0] for p in stores} >= {"zebra-train", "giraffe-train"}
    assert len(FeatureStore(next(p for p in stores if "zebra-train" in p.name))) == 12


def judging(device: str, record: bool) -> list[float]:
    """Penalties in 20 updates of a critic; with `record`, as `captured` makes them."""
    torch.manual_seed(0)
    critic = Critic(channels=4, side=8, width=8).to(device)
    optimizer = Adam(critic.parameters(), 1e-2, (0.5, 0.9))

    def judged(real, fake, alpha):
        penalty = losses.gradient_penalty(critic, real, fake, alpha)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        return penalty.detach()

    def asked(real, nothing):
        return critic(real).mean().detach()

    works = captured(torch.device(device), judged, asked) if record else (judged, asked)
    found = []
    for _ in range(20):
        real, fake, alpha = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.rand(4)
        found += [
            works[0](real.to(device), fake.to(device), alpha.to(device)).item(),
            works[1](real.to(device), None).item(),
        ]
    return found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_updates_as_graphs_are_the_same_on_a_gpu():
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        plain = judging("cuda", record=False)
        for _ in range(2):  # a second training finds the memory of the first one's graphs gone
            assert judging("cuda", record=True) == pytest.approx(plain, rel=1e-4, abs=1e-6)


def losses_of(root: Path, device: str) -> dict[str, list[dict]]:
    """What trainings of levels 5 and 4 and of an inverter log, some 24 updates each, all kinds of them among them."""
    changes = {"epochs": 6.0, "identity_first": 12, "critic_steps": 1}
    inverter = {"steps": dict.fromkeys(LEVELS, 24), "adversarial_start": 0.5}
    settings = settings_with(l5=changes | {"identity_first": 0}, l4=changes, inverter=inverter)
    m = method(root, settings.model_copy(update={"device": device}))
    m.translators(4), m.inverter("a", 4)
    return {run.name: run.curve().drop(columns="seconds").to_dict("records") for run in m.runs}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trainings_of_graphs_are_the_same_on_a_gpu(tmp_path, monkeypatch):
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        found = losses_of(tmp_path / "graphs", "cuda")
        monkeypatch.setattr(common, "EAGER", 10**9)
        plain = losses_of(tmp_path / "plain", "cuda")
    assert found.keys() == plain.keys() and len(found) == 3
    for name, curve in plain.items():
        for got, wanted in zip(found[name], curve, strict=True):
            assert got == pytest.approx(wanted, rel=1e-2, abs=1e-3, nan_ok=True), name


def test_updates_stay_as_they_are_on_a_cpu():
    def work():
        return None

    assert captured(torch.device("cpu"), work) == (work,)
    assert judging("cpu", record=True) == judging("cpu", record=False)


def test_an_optimizer_takes_the_state_of_another_device():
    ours, other = (Adam([nn.Parameter(torch.ones(2))], 1e-2, (0.5, 0.9)) for _ in range(2))
    state = other.state_dict()
    state["param_groups"][0]["capturable"] = True  # as on a GPU
    state["param_groups"][0]["lr"] = torch.tensor(1.0)
    ours.load_state_dict(state)
    assert not ours.param_groups[0]["capturable"] and ours.param_groups[0]["lr"] == 1e-2
    set_rate(0.5, ours)
    assert ours.param_groups[0]["lr"] == 0.5
    ours.param_groups[0]["lr"] = rate = torch.tensor(1.0)  # as on a GPU, where a graph holds it
    set_rate(0.25, ours)
    assert rate == 0.25
    decaying = Adam([nn.Parameter(torch.ones(2))], 1e-2, (0.5, 0.9), 0.1).param_groups[0]
    assert (decaying["betas"], decaying["weight_decay"]) == ((0.5, 0.9), 0.1)

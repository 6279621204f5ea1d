"""What the rivals share: the protocol, progress, resume, and settings that are refused."""

import pytest
import torch
from torch.nn import functional as F

from cdtlib.data.zoo import ZooDomain
from cdtlib.features import store
from cdtlib.features.backbones import embedded_alexnet
from cdtlib.rivals import TABLE_2, TABLE_3, dfc_vae, drit
from cdtlib.rivals.common import Progress, linear_decay, translate
from cdtlib.rivals.cyclegan import CycleGAN
from cdtlib.rivals.dfc_vae import DFCVAE
from cdtlib.rivals.drit import DRIT
from cdtlib.rivals.ganimorph import GANimorph
from cdtlib.rivals.munit import MUNIT
from cdtlib.rivals.vqvae2 import VQVAE2
from cdtlib.settings import PROFILES, load
from cdtlib.training import common
from cdtlib.training.run import Run

# Methods of Table 2, with settings under which they learn to turn one picture into another in seconds
TRANSLATING = {
    CycleGAN: {"epochs": 200.0, "width": 8, "critic_width": 8, "learning_rate": 2e-3},
    DRIT: {
        "epochs": 600.0, "width": 12, "hidden": 32, "critic_width": 8, "content_steps": 1,
        "learning_rate": 2e-3, "content_learning_rate": 1e-3,
    },
    GANimorph: {
        "steps": 120, "batch": 1, "learning_rate": 1e-2, "betas": (0.5, 0.9),
        "width": 16, "blocks": 1, "critic_width": 16,
    },
    MUNIT: {
        "steps": 160, "width": 16, "critic_width": 8, "learning_rate": 1e-3, "betas": (0.5, 0.9), "halving": 80,
    },
}  # fmt: skip

# How far they are from it in the end, as a share of the way. Without a loss that names the picture it takes longer
FAR = {MUNIT: 0.7}

PRIOR = {"epochs": 300.0, "batch": 4, "learning_rate": 5e-3, "width": 16, "blocks": 1, "residuals": 2, "dropout": 0.0}

# Methods of Table 3, with settings under which they learn two pictures by heart in seconds
GENERATING = {
    DFCVAE: {"steps": 400, "width": 8, "alpha": 1.0, "learning_rate": 5e-3, "sizes": {1: 211.0}},
    VQVAE2: {
        **{"epochs": 600.0, "batch": 2, "learning_rate": 3e-3, "width": 32, "residual_width": 16, "codes": 32},
        "top": PRIOR,
        "bottom": PRIOR,
    },
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")


@pytest.fixture(scope="module")
def domains():
    names = {"a": "zebra", "b": "giraffe"}
    counts = {"train": 4, "test": 3}
    return {s: {k: ZooDomain(name, k, n, size=64) for k, n in counts.items()} for s, name in names.items()}


@pytest.fixture(params=TRANSLATING, ids=lambda rival: rival.name)
def rival(request, domains, tmp_path, monkeypatch):
    monkeypatch.setattr(request.param, "steps", lambda self, rows: 3)
    return request.param(load("smoke"), domains, tmp_path)


def test_translates_whatever_the_batch_and_is_found_again(rival, domains, tmp_path):
    images = store.to_float(domains["a"]["test"].batch(range(3)))
    made = rival.fit().translate(images, "b")
    assert made.shape == images.shape and made.dtype == torch.float32 and made.abs().max() <= 1
    # the first picture's code does not depend on the others
    assert torch.allclose(rival.translate(images[:1], "b"), made[:1], atol=1e-5)
    again = type(rival)(rival.settings, domains, tmp_path)
    assert torch.equal(again.translate(images, "b"), made) and again.runs[0].reused
    with pytest.raises(ValueError, match='"a" and "b"'):
        rival.translate(images, "c")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_of_graphs_is_the_same_on_a_gpu(rival, domains, tmp_path, monkeypatch):
    monkeypatch.setattr(type(rival), "steps", lambda self, rows: 24)
    settings = rival.settings.model_copy(update={"device": "cuda"})
    curves = []
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for name, eager in (("graphs", common.EAGER), ("plain", 10**9)):
            monkeypatch.setattr(common, "EAGER", eager)
            trained = type(rival)(settings, domains, tmp_path / name, precision="fp32").fit()
            curves.append(trained.fitted.run.curve().drop(columns="seconds").to_dict("records"))
    # The gradients of reflected borders are summed in no fixed order: two plain trainings of CycleGAN differ by 2 %
    tolerance = 5e-2 if isinstance(rival, CycleGAN) else 1e-2
    for got, wanted in zip(*curves, strict=True):
        assert got == pytest.approx(wanted, rel=tolerance, abs=1e-3, nan_ok=True)


def test_progress_ends_with_what_the_trained_model_makes(rival, domains):
    progress = rival.fitted.progress
    assert list(rival.efforts()) == progress.moments
    seconds, pictures = rival.efforts()[progress.moments[-1]]
    assert seconds == pytest.approx(rival.runs[0].seconds, abs=0.01) and pictures == 3 * rival.seen
    for side, to in (("a", "b"), ("b", "a")):
        made = progress.made(to)
        assert list(made) == progress.moments and progress.moments[-1] == rival.runs[0].curve()["step"].iloc[-1]
        images = store.to_float(domains[side]["test"].batch(range(3)))
        assert (made[progress.moments[-1]] - rival.translate(images, to)).abs().max() <= 1 / 127.5 + 1e-6


def test_a_killed_training_resumes_bit_exactly(rival, domains, tmp_path, monkeypatch):
    expected = rival.fit().runs[0].folder / "weights.safetensors"
    monkeypatch.setenv("CDT_CHECKPOINT_SECONDS", "0")
    other = type(rival)(rival.settings, domains, tmp_path / "other")
    look = Progress.look

    def killed(self, model, step):
        look(self, model, step)
        if step == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "look", killed)
        other.fit()
    resumed = type(rival)(rival.settings, domains, tmp_path / "other").fit()
    assert (resumed.runs[0].folder / "weights.safetensors").read_bytes() == expected.read_bytes()


def test_it_learns_from_training_pictures_and_copies_and_its_run_is_named_by_all_that_decides(
    domains, tmp_path, monkeypatch
):
    seen = []

    def train(_, run, model, a, b, progress):
        run.track(model=model, progress=progress)
        seen.append((a, b, progress))

    monkeypatch.setattr(CycleGAN, "train", train)

    def asked(seed=0, domains=domains, **options):
        rival = CycleGAN(load("smoke", seed=seed), domains, tmp_path, epochs=4.0, **options).fit()
        return rival.runs[0].id

    ids = [asked(), asked(batch=2), asked(seed=1)]
    a, b, progress = seen[0]
    for side, pictures in (("a", a), ("b", b)):
        own = {split: store.to_float(domain.batch(range(len(domain)))) for split, domain in domains[side].items()}
        assert torch.equal(pictures.images(pictures.originals()), own["train"])
        assert len(pictures) == 2 * 4  # a mirrored copy of each
        assert torch.equal(progress.sources[side], own["test"])
    assert progress.moments == [2, 4, 8, 16, 32] and seen[1][2].moments == [1, 2, 4, 8, 16]
    for side, split in (("a", "train"), ("b", "train"), ("a", "test"), ("b", "test")):
        fewer = ZooDomain(domains[side][split].name, split, 2, size=64)
        ids.append(asked(domains=domains | {side: domains[side] | {split: fewer}}))
        assert seen[-1][2].moments == [2, 4, 8, 16, 32]  # an epoch is one of the larger domain
    assert len(set(ids)) == 7


def test_what_a_new_rival_forgets_is_said(domains, tmp_path, monkeypatch):
    monkeypatch.setattr(CycleGAN, "train", lambda _, run, model, *others: run.track(model=model))
    with pytest.raises(TypeError, match=r"CycleGAN: train\(\) must run.track\(model=model, progress=progress\)"):
        CycleGAN(load("smoke"), domains, tmp_path).fit()
    monkeypatch.setattr(CycleGAN, "PROFILES", {"demo": {}})
    CycleGAN(load("demo"), domains, tmp_path), CycleGAN(load("paper"), domains, tmp_path)
    with pytest.raises(ValueError, match="no settings for profile 'smoke'.*to PROFILES in cdtlib.rivals.cyclegan"):
        CycleGAN(load("smoke"), domains, tmp_path)


def test_a_look_is_without_the_noise_of_training_which_goes_on():
    model, x = drit.Model(width=4, hidden=8), torch.rand(2, 3, 32, 32)
    made = translate(model.train(), x, "b")
    assert model.training and torch.equal(translate(model.eval(), x, "b"), made) and not model.training
    assert not torch.equal(translate(model, x, "b", seed=1), made)


class Picture:
    """A domain of one picture, an animal alone."""

    def __init__(self, name: str, split: str, size: int = 32):
        self.name, self.split, self.fingerprint = name, split, f"one {name}"
        self.picture = ZooDomain(name, "test", 1, size=size).batch([0])

    def __len__(self):
        return 1

    def batch(self, indices):
        return self.picture[list(indices)]


def test_only_paper_has_a_rival_as_it_was_published():
    """A profile that a rival forgot would train it for days."""
    assert all(set(rival.PROFILES) == set(PROFILES) - {"paper"} for rival in (*TABLE_2.values(), *TABLE_3))


@pytest.mark.parametrize("method", TRANSLATING, ids=lambda method: method.name)
def test_overfits_two_pictures(method, tmp_path):
    """From one picture of each domain it learns to make the other one of it, in its parts of 4×4 pixels."""
    domains = {s: {k: Picture(n, k) for k in ("train", "test")} for s, n in (("a", "zebra"), ("b", "giraffe"))}
    rival = method(load("smoke", data={"views": 1}), domains, tmp_path, **TRANSLATING[method])
    for side, to in (("a", "b"), ("b", "a")):
        source, target = (store.to_float(domains[s]["test"].picture) for s in (side, to))
        far, away = (F.avg_pool2d(x - target, 4).abs().mean() for x in (rival.translate(source, to), source))
        assert far < FAR.get(method, 0.3) * away


# ---- Table 3 -----------------------------------------------------------------------------------------------


@pytest.fixture(params=GENERATING, ids=lambda method: method.name)
def generator(request, domains, tmp_path):
    return request.param(load("smoke"), domains["a"], tmp_path)


def again(generator, folder=None):
    options = generator.options.model_dump()
    return type(generator)(generator.settings, generator.domain, folder or generator.root, **options)


def test_a_killed_generator_resumes_bit_exactly(generator, tmp_path, monkeypatch):
    """Each of its runs, of four steps, is killed in the third."""
    steps = Run.steps
    monkeypatch.setattr(Run, "steps", lambda run, total: steps(run, 4))
    expected = generator.fit().runs
    monkeypatch.setenv("CDT_CHECKPOINT_SECONDS", "0")
    killed, log = set(), Run.log

    def deadly(run, **values):
        log(run, **values)
        if run._step == 2 and run.name not in killed:
            killed.add(run.name)
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "log", deadly)
    for _ in expected:
        with pytest.raises(KeyboardInterrupt):
            again(generator, tmp_path / "other").fit()
    assert killed == {run.name for run in expected}
    for run, resumed in zip(expected, again(generator, tmp_path / "other").fit().runs, strict=True):
        assert run.id == resumed.id
        first, second = ((r.folder / "weights.safetensors").read_bytes() for r in (run, resumed))
        assert first == second


def test_a_generators_runs_are_named_by_all_that_decides(domains, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "steps", lambda *_: iter(()))

    def ids(method, seed=0, domain=domains["a"], **options):
        made = method(load("smoke", seed=seed), domain, tmp_path, **options)
        made.fit()
        pictures = made.training_pictures
        assert torch.equal(pictures.images(pictures.originals()), store.to_float(domain["train"].batch(range(4))))
        assert len(pictures) == 2 * 4  # a mirrored copy of each
        return {run.id for run in made.runs}

    for method, count in ((DFCVAE, 1), (VQVAE2, 3)):
        options = {"beta": 0.125}
        others = [{}, {"seed": 1}, {"domain": domains["b"]}, options]
        assert len(set.union(*(ids(method, **given) for given in others))) == 4 * count
    assert len(ids(VQVAE2) | ids(VQVAE2, bottom=VQVAE2.PROFILES["smoke"]["bottom"] | {"kernel": 5})) == 3 + 1
    plain = ids(DFCVAE)
    monkeypatch.setitem(dfc_vae.BACKBONES, "embedded", embedded_alexnet)
    assert ids(DFCVAE) != plain


class Two:
    """A domain of two pictures."""

    name, split, fingerprint = "zebra", "train", "two zebras"

    def __init__(self, size: int = 32):
        self.pictures = ZooDomain("zebra", "test", 2, size=size).batch([0, 1])

    def __len__(self):
        return 2

    def batch(self, indices):
        return self.pictures[list(indices)]


@pytest.fixture(scope="module", params=GENERATING, ids=lambda method: method.name)
def learned(request, tmp_path_factory):
    domain = {"train": Two(), "test": Two()}
    settings = load("smoke", data={"views": 1, "size": 32})
    return request.param(settings, domain, tmp_path_factory.mktemp("two"), **GENERATING[request.param])


def test_learns_two_pictures_by_heart(learned):
    pictures = store.to_float(Two().pictures)
    error = (learned.reconstruct(pictures) - pictures).abs().mean()
    assert error < 0.3 * (pictures[0] - pictures[1]).abs().mean()
    if isinstance(learned, VQVAE2):  # its priors know which codes go together, so its samples are the two pictures
        ways = learned.sample(12)[:, None] - learned.reconstruct(pictures)  # (12, 2, 3, H, W)
        nearest = ways.abs().mean((2, 3, 4)).min(dim=1)
        assert nearest.values.max() < 0.02 and nearest.indices.unique().tolist() == [0, 1]


def test_samples_by_seed_and_is_found_again(learned):
    made = learned.fit().sample(5, seed=3)
    assert made.shape == (5, 3, 32, 32) and made.dtype == torch.float32 and made.abs().max() <= 1
    assert (learned.sample(5, seed=4) - made).abs().max() > 0.1
    found = again(learned)
    assert torch.equal(found.sample(5, seed=3), made) and all(run.reused for run in found.runs)


def test_reconstructions_depend_on_no_other_picture(learned):
    images = store.to_float(Two().pictures)
    made = learned.reconstruct(images)
    assert made.shape == images.shape and made.dtype == torch.float32 and made.abs().max() <= 1
    torch.testing.assert_close(learned.reconstruct(images[:1]), made[:1], atol=1e-4, rtol=0)


def test_the_ends_of_an_interpolation_are_reconstructions(learned):
    x, y = store.to_float(Two().pictures).split(1)
    for t, end in ((0.0, x), (1.0, y)):
        torch.testing.assert_close(learned.interpolate(x, y, t), learned.reconstruct(end), atol=1e-4, rtol=0)
    between = learned.interpolate(x, y, 0.5)
    assert all((between - learned.reconstruct(end)).abs().max() > 0.1 for end in (x, y))


def test_settings_are_refused_by_name(domains, tmp_path):
    with pytest.raises(ValueError, match="widht.*no such setting.*width"):
        CycleGAN(load("smoke"), domains, tmp_path, widht=3)
    with pytest.raises(ValueError, match="epochs.*greater than 0"):
        CycleGAN(load("smoke"), domains, tmp_path, epochs=0.0)


def test_linear_decay():
    assert [linear_decay(step, 8) for step in (0, 4, 6, 7)] == [1.0, 1.0, 0.5, 0.25]

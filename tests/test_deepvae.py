"""DEEP-VAE: its networks, its losses, its trainings, and the protocol of Table 3."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from cdtlib import deepvae, losses
from cdtlib.data import to_float
from cdtlib.deepvae import DeepVAE
from cdtlib.method import CascadedTranslation
from cdtlib.models.vae import VAE, ConditionalGenerator, Mixture
from cdtlib.settings import PROFILES, Generation, load
from cdtlib.training import common, generation
from cdtlib.training.common import autocast
from cdtlib.training.generation import (
    codes_of,
    fit_prior,
    make_generator,
    make_vae,
    steps_of,
    train_generator,
    train_vae,
)
from cdtlib.training.run import Run

CHANNELS = {3: 256, 4: 512, 5: 512}  # of VGG-19's conv_i_1
LEVELS = (5, 4, 3)
TINY = {
    "epochs": dict.fromkeys(LEVELS, 1.0), "batch": 4, "learning_rate": dict.fromkeys(LEVELS, 1e-3), "ema": 0.5,
    "width": dict.fromkeys(LEVELS, 8), "latent": 6, "hidden": 16, "halvings": 1, "components": 2,
    "latent_below": 4, "style": 8, "style_width": 8,
    "critic_width": {4: 8, 3: 8}, "critic_steps": 2, "reconstruction_first": 0, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.delenv("CDT_CHECKPOINT_SECONDS", raising=False)
    monkeypatch.setattr(os, "fsync", lambda file: None)


class Pictures:
    """A domain of coarse random pictures."""

    split, size = "train", 32

    def __init__(self, name: str, seed: int, count: int = 6):
        self.name, self.fingerprint = name, f"{name} {seed} {count}"
        coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        self.pictures = (torch.nn.functional.interpolate(coarse, size=32) * 255).byte()

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices) -> torch.Tensor:
        return self.pictures[list(indices)]


def model(root: Path, levels=LEVELS, seed=0, **changes) -> DeepVAE:
    """DEEP-VAE of a tiny domain; `changes` are of its settings."""
    settings = load(
        "smoke", ("zebra", "giraffe"), seed, device="cpu", levels=levels, data={"size": 32},
        inversion={"steps": dict.fromkeys(LEVELS, 2), "critic_width": 4}, generation=TINY | changes,
    )  # fmt: skip
    names = zip("ab", settings.pair, strict=True)
    domains = {side: {"train": Pictures(name, seed)} for seed, (side, name) in enumerate(names)}
    return DeepVAE(CascadedTranslation(settings, domains, root), "a")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where everything is trained once."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDT_PROGRESS", "none")
        model(root).fit()
    return root


@pytest.fixture
def trained(root) -> DeepVAE:
    return model(root)


def pictures(n: int) -> torch.Tensor:
    return to_float(Pictures("any", 7, n).pictures)


# ---- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 96, 128, 224])
def test_shapes_at_the_papers_widths(size):
    s, shapes = Generation(), {i: (c, size // 2 ** (i - 1), size // 2 ** (i - 1)) for i, c in CHANNELS.items()}
    with torch.device("meta"):
        vae, x = make_vae(shapes[5], s), torch.empty(2, *shapes[5])
        mean, log_variance = vae.encode(x)
        assert mean.shape == log_variance.shape == (2, s.latent)
        made = vae.decode(mean)
        assert made.shape == x.shape
        for i in (4, 3):
            made = make_generator(i, shapes[i], CHANNELS[i + 1], s)(torch.empty(2, s.latent_below), made)
            assert made.shape == (2, *shapes[i])


def test_outputs_are_in_the_range_of_tanh():
    torch.manual_seed(0)
    vae, generator = VAE(6, 6, 8, 1, 16, 4), ConditionalGenerator(3, 6, 8, 8, 8, 4)
    with torch.no_grad():
        for parameter in (*vae.parameters(), *generator.parameters()):
            parameter.mul_(30)  # so that the range is kept by the network, not by its small weights
        maps = vae.decode(torch.randn(3, 4))
        for y in (maps, generator(torch.randn(3, 4), maps)):
            assert y.isfinite().all() and -1 <= y.min() < -0.9 and 0.9 < y.max() <= 1


def test_samples_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    vae, generator = VAE(6, 6, 8, 1, 16, 4), ConditionalGenerator(3, 6, 8, 8, 8, 4)
    x, y = torch.randn(3, 6, 6, 6).tanh(), torch.randn(3, 3, 12, 12).tanh()

    def through(rows):
        maps = vae.decode(vae.encode(x[rows])[0])
        return generator(generator.encode(y[rows])[0], maps)

    torch.testing.assert_close(through([2, 0]), through([0, 1, 2])[[2, 0]], atol=1e-5, rtol=1e-4)


def test_the_code_and_the_mean_of_the_deeper_level_set_the_style():
    torch.manual_seed(0)
    generator = ConditionalGenerator(3, 2, 8, 8, 8, 4)
    seen = []
    generator.style.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    deeper = torch.tensor([0.25, -0.5]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    with torch.no_grad():
        one, other = (generator(code, deeper) for code in (torch.zeros(1, 4), torch.ones(1, 4)))
    assert seen[1].tolist() == [[1, 1, 1, 1, 0.25, -0.5]]
    assert (one - other).abs().max() > 1e-3


# ---- losses ------------------------------------------------------------------------------------------------


def test_kl_by_hand():
    mean, variance = torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([[1.0, 4.0], [1.0, 0.5]])
    log = variance.log()
    first = 0.5 * (1 + 1 - 1 - 0) + 0.5 * (0 + 4 - 1 - log[0, 1])
    second = 0 + 0.5 * (4 + 0.5 - 1 - log[1, 1])
    assert losses.kl(mean, log).item() == pytest.approx(((first + second) / 2).item())
    assert losses.kl(torch.zeros(3, 5), torch.zeros(3, 5)).item() == 0


def test_kl_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(4, 7), torch.randn(4, 7)
    normal = torch.distributions.Normal
    ours, torchs = normal(mean, (log_variance / 2).exp()), normal(torch.zeros(4, 7), torch.ones(4, 7))
    expected = torch.distributions.kl_divergence(ours, torchs).sum(1).mean()
    torch.testing.assert_close(losses.kl(mean, log_variance), expected)


def test_reconstruction_is_the_mean_absolute_difference():
    x, y = torch.tensor([1.0, -1.0, 0.0, 0.5]), torch.tensor([0.5, -1.0, 1.0, -0.5])
    assert losses.reconstruction(y.view(1, 1, 2, 2), x.view(1, 1, 2, 2)).item() == 2.5 / 4


# ---- training ----------------------------------------------------------------------------------------------


class Maps:
    """A store of a handful of maps of one level."""

    def __init__(self, n: int, side: int = 4, level: int = 5):
        self.maps = torch.randn(n, 6, side, side, generator=torch.Generator().manual_seed(0)).tanh()
        self.only = level

    def __len__(self) -> int:
        return len(self.maps)

    def level(self, i: int, rows, device: str) -> torch.Tensor:
        assert i == self.only
        return self.maps[rows]


@pytest.mark.parametrize("beta, holds", [(0.0, lambda error: error < 0.1), (100.0, lambda error: error > 0.5)])
def test_a_vae_learns_a_handful_of_maps_unless_beta_forbids_it(tmp_path, beta, holds):
    store = Maps(4)
    s = load("smoke", generation={
        "epochs": {5: 600.0}, "batch": 4, "learning_rate": {5: 5e-3}, "width": {5: 16}, "latent": 8, "beta": beta,
        "components": 1, "precision": "fp32",
    }).generation  # fmt: skip
    with Run("vae", s, root=tmp_path) as run:
        vae = train_vae(run, store, (6, 4, 4), s)
    with torch.no_grad():
        error = (vae.decode(vae.encode(store.maps)[0]) - store.maps).abs().mean() / store.maps.abs().mean()
    assert holds(error)
    log = run.curve().iloc[-1]
    assert log["kl"] > 10 if not beta else log["kl"] < 1


def test_the_prior_is_fitted_to_the_codes():
    """A mixture has the mean and covariance of what it is fitted to; here two clusters."""
    torch.manual_seed(0)
    vae = VAE(6, 4, 8, 0, 16, 3, components=2)
    assert vae.prior.draw(5).shape == (5, 3)
    torch.testing.assert_close(vae.prior.draw(4000).T.cov(), torch.eye(3), atol=0.1, rtol=0)
    store = Maps(4000)
    store.maps[2000:] += 2
    codes = codes_of(vae, store, 5)
    with torch.no_grad():
        mean, log_variance = vae.encode(store.maps)
    away = (codes - mean) / (log_variance / 2).exp()
    assert away.mean().abs() < 0.05 and away.std().item() == pytest.approx(1, abs=0.05)
    fit_prior(vae.prior, codes)
    drawn = vae.prior.draw(4000)
    scale = codes.std(0)
    torch.testing.assert_close(drawn.mean(0) / scale, codes.mean(0) / scale, atol=0.1, rtol=0)
    torch.testing.assert_close((drawn / scale).T.cov(), (codes / scale).T.cov(), atol=0.1, rtol=0)
    assert vae.prior.weights.sum().item() == pytest.approx(1)
    first, second = (vae.prior.draw(3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


def test_codes_are_drawn_from_each_gaussian_by_its_weight_and_covariance():
    prior = Mixture(2, 3)
    prior.weights.copy_(torch.tensor([0.75, 0.25, 0.0]))
    prior.means.copy_(torch.tensor([[50.0, 0.0], [-50.0, 0.0], [0.0, 0.0]]))
    prior.factors.copy_(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))  # times its own transpose: 1, 2; 2, 5
    codes = prior.draw(4000, torch.Generator().manual_seed(0))
    first = codes[:, 0] > 0
    assert first.float().mean().item() == pytest.approx(0.75, abs=0.03)
    for part, mean in ((codes[first], prior.means[0]), (codes[~first], prior.means[1])):
        torch.testing.assert_close(part.mean(0), mean, atol=0.2, rtol=0)
        torch.testing.assert_close(part.T.cov(), torch.tensor([[1.0, 2.0], [2.0, 5.0]]), atol=0.5, rtol=0)


@pytest.mark.parametrize("components, same", [(0, True), (1, False)])
def test_without_components_the_prior_is_the_standard_normal(tmp_path, components, same):
    made = model(tmp_path, (5, 4), components=components)
    for prior, latent in ((made._part(5).prior, 6), (made._part(4).prior, 4), (made._prior(), 10)):
        assert (not prior.means.any() and torch.equal(prior.factors[0], torch.eye(latent))) == same


def test_more_components_than_maps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="generation.components: 13 Gaussians .* the 12 training pictures"):
        model(tmp_path, (5,), components=13)


def test_generators_are_given_what_is_synthesised(trained):
    """Level i+1 of rows' own codes and of the prior's, by the networks that synthesise at the end."""
    store, rows = trained.fit().method.store("a"), torch.tensor([3, 0])
    vae, generator = trained._part(5), trained._part(4)
    for level in (4, 3):
        torch.manual_seed(0)
        deeper = trained._deeper(level)(rows, 3)
        torch.manual_seed(0)
        with torch.no_grad():
            mean, log_variance = vae.encode(store.level(5, rows))
            own = mean + (log_variance / 2).exp() * torch.randn(2, 6)
            codes = torch.cat([own, vae.prior.draw(3)])
            expected = vae.decode(codes)
            if level == 3:
                mean, log_variance = generator.encode(store.level(4, rows))
                own = mean + (log_variance / 2).exp() * torch.randn(2, 4)
                expected = generator(torch.cat([own, generator.prior.draw(3)]), expected)
        torch.testing.assert_close(deeper, expected)
        torch.manual_seed(0)
        assert trained._deeper(level)(rows, 0).shape == (2, *expected.shape[1:])  # of the rows alone


def test_a_generator_is_compared_where_there_is_a_row_and_judged_everywhere(tmp_path, monkeypatch):
    store, seen = Maps(4, 8, 4), []

    def deeper(rows, n):
        seen.append((len(rows), n))
        return torch.zeros(len(rows) + n, 6, 4, 4)

    def compared(made, x):
        seen.append((made.shape, x.shape))
        return (made - x).abs().mean()

    monkeypatch.setattr(losses, "reconstruction", compared)
    monkeypatch.setattr(losses, "adversarial_translator", lambda scores: seen.append(scores.shape) or -scores.mean())
    s = Generation(**TINY | {"epochs": {4: 1.0}, "batch": 4, "critic_steps": 1})
    with Run("one-step", s, root=tmp_path) as run:
        train_generator(run, 4, store, deeper, (6, 8, 8), 6, s)
    adversarially = [(2, 2), (2, 2), (4,), ((2, 6, 8, 8), (2, 6, 8, 8))]
    assert seen == adversarially
    seen.clear()
    s = s.model_copy(update={"reconstruction_first": 2})  # by the comparison alone, so of what has a row alone
    with Run("two-steps-before", s, root=tmp_path) as run:
        train_generator(run, 4, store, deeper, (6, 8, 8), 6, s)
    assert seen == 2 * [(2, 0), ((2, 6, 8, 8), (2, 6, 8, 8))] + adversarially


class Constant(nn.Module):
    """Stands for a VAE or a generator: returns maps of `value`, which is also the mean of every code."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.5))

    def encode(self, x):
        return self.value.expand(len(x), 2), torch.zeros(len(x), 2)

    def decode(self, codes):
        return self.value.expand(len(codes), 2, 4, 4)

    def forward(self, codes, deeper):
        return self.decode(codes)


class MeanCritic(nn.Module):
    """The score of a map is its mean."""

    def __init__(self, *_):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x.flatten(1).mean(1)


class Noted(torch.optim.SGD):
    """Stands for Adam: notes what it is given, and the gradients of every step, which changes nothing."""

    given: list = []
    gradients: list = []

    def __init__(self, parameters, lr, betas, fused):
        super().__init__(parameters, lr=0.0)
        self.given.append((lr, betas))

    def step(self):
        self.gradients.append(self.param_groups[0]["params"][0].grad.item())


class FlatMaps:
    """A store of three maps of 0.2; notes the rows that are drawn."""

    def __init__(self):
        self.drawn = []

    def __len__(self):
        return 3

    def level(self, i, rows, device):
        self.drawn.append(rows.tolist())
        return torch.full((len(rows), 2, 4, 4), 0.2)


@pytest.mark.parametrize("level", [5, 4])
def test_every_update_goes_down_the_gradient_of_its_losses(tmp_path, monkeypatch, level):
    for name in ("given", "gradients"):
        monkeypatch.setattr(Noted, name, [])
    monkeypatch.setattr(torch.optim, "Adam", Noted)
    for name in ("make_vae", "make_generator"):
        monkeypatch.setattr(generation, name, lambda *_: Constant())
    monkeypatch.setattr(generation, "Critic", MeanCritic)
    averaged, alphas, penalty = [], [], losses.gradient_penalty
    monkeypatch.setattr(generation, "average", lambda *given: averaged.append(given[2:]))
    monkeypatch.setattr(losses, "gradient_penalty", lambda *given: alphas.append(given[3]) or penalty(*given))
    s = Generation(
        epochs={5: 4.0, 4: 2.5}, batch=4, learning_rate={5: 0.1, 4: 0.3}, betas=(0.1, 0.2), ema=0.4, components=0,
        beta=4.0, beta_below=0.5, lambda_reconstruction=3.0, lambda_gp=7.0, critic_steps=2, reconstruction_first=1,
        critic_width={4: 8},
    )  # fmt: skip
    store, deeper = FlatMaps(), []
    with Run("by-hand", s, root=tmp_path) as run:
        if level == 5:
            train_vae(run, store, (2, 4, 4), s)
        else:
            make = lambda rows, n: deeper.append(rows.tolist()) or torch.zeros(len(rows) + n, 2, 2, 2)  # noqa: E731
            train_generator(run, 4, store, make, (2, 4, 4), 2, s)
    # By the value v = 0.5 of all maps and means: L1 to 0.2 gives 1; the KL term, ½ (v² + v²), gives 2v = 1, too.
    if level == 5:
        expected = 3 * [1 + 4.0 / 32]
    else:
        plain = 3 * (1 + 0.5)
        of_critic = (0.5 - 0.2) + 7 * 2 * (32**-0.5 - 1) * 32**-0.5
        expected = [plain] + 2 * [of_critic, of_critic, plain - 1]
        assert deeper == [rows[:2] for rows in store.drawn]
        alphas = torch.cat(alphas)
        assert alphas.unique().shape == (2 * 2 * 4,) and 0 <= alphas.min() and alphas.max() < 1
    assert Noted.gradients == pytest.approx(expected)
    assert set(Noted.given) == {({5: 0.1, 4: 0.3}[level], (0.1, 0.2))}
    assert averaged == [(0.4, 0), (0.4, 1), (0.4, 2)]
    assert {row for rows in store.drawn for row in rows} == {0, 1, 2}


def test_found_not_repeated_and_named_by_what_it_uses(trained, root):
    trained.fit()
    runs = {run.name: run for run in trained.method.runs}
    names = ["vae-zebra-level5", "generator-zebra-level4", "generator-zebra-level3", "prior-zebra"]
    assert list(runs) == [*names, "inverter-zebra-level3"] and all(run.reused for run in runs.values())
    for run in runs.values():
        assert run.curve().notna().all().all()
    assert {"reconstruction", "kl"} < set(runs[names[0]].curve().columns)

    def changed(**changes) -> list[str]:
        other = model(root, **changes)
        other.method._run, ids = lambda name, used, inputs: Named(name, used, inputs, ids), {}
        with pytest.MonkeyPatch.context() as patch:  # the names alone; nothing is trained
            patch.setattr(deepvae, "train_vae", lambda *_: None)
            patch.setattr(deepvae, "train_generator", lambda *_: None)
            patch.setattr(deepvae, "train_prior", lambda *_: None)
            other._prior()
        return [name for name in names if ids[name] != runs[name].id]

    class Named(Run):
        def __init__(self, name, used, inputs, ids):
            super().__init__(name, used | {"seed": 0}, inputs, root=root / "runs")
            ids[name] = self.id

    assert changed() == []
    assert changed(beta=0.5) == changed(latent=7) == names
    assert changed(lambda_reconstruction=3.0) == changed(latent_below=5) == names[1:]
    assert changed(reconstruction_first=3) == names[1:]
    used = [json.loads((runs[name].folder / "settings.json").read_text())["settings"].keys() for name in names]
    each = {"seed", "batch", "betas", "components", "ema", "precision", "epochs", "learning_rate", "width"}
    assert used[0] == each | {"latent", "hidden", "halvings", "beta"} and used[3] == {"seed", "components"}
    # Without reconstruction_first: runs from before there was such a setting are found.
    of_generator = {"latent_below", "beta_below", "style", "style_width", "critic_width", "critic_steps"}
    assert used[1] == used[2] == each | of_generator | {"lambda_gp", "lambda_reconstruction"}
    assert changed(width=TINY["width"] | {3: 12}) == changed(critic_width={4: 8, 3: 12}) == names[2:]


def test_a_generator_learns_its_own_level(tmp_path):
    many = {"epochs": dict.fromkeys(LEVELS, 60.0), "learning_rate": dict.fromkeys(LEVELS, 3e-3), "beta": 0.0}
    made = model(tmp_path, (5, 4), **many, lambda_gp=1.0)
    made._part(4)
    log = made.method.runs[-1].curve()
    assert log["reconstruction"].iloc[-1] < 0.8 * log["reconstruction"].iloc[0]
    assert set(log.columns) - {"step", "seconds"} == {"critic", "penalty", "adversarial", "reconstruction", "kl"}


def test_steps_are_passes_over_the_rows():
    assert steps_of(Generation(), 5, 1917) == 47_925
    assert steps_of(Generation(epochs={4: 0.5}), 4, 20) == 1
    first = Generation(reconstruction_first=100)
    assert steps_of(first, 5, 1917) == 47_925 and steps_of(first, 4, 1917) == 48_025


def test_bf16_keeps_float32_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "has_bf16", lambda kind: True)
    made = model(tmp_path, (5, 4), precision="bf16", ema=0.0).fit()
    assert {p.dtype for part in (made._part(5), made._part(4)) for p in part.parameters()} == {torch.float32}
    with torch.no_grad(), autocast("bf16", torch.device("cpu")):
        assert made._part(5).decode(torch.zeros(1, 6)).isfinite().all()


# ---- the protocol of Table 3 -------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(5,), (5, 4), (5, 4, 3)])
def test_a_cascade_of_any_depth_gives_pictures(root, levels):
    made = model(root, levels).sample(2)
    assert made.shape == (2, 3, 32, 32) and made.dtype == torch.float32 and not made.requires_grad
    assert made.abs().max() <= 1 and made.std() > 0


def test_sampling_is_by_seed_whatever_the_batch(trained):
    made = trained.sample(5, seed=3)
    assert torch.equal(trained.sample(5, seed=3), made)
    assert (trained.sample(5, seed=4) - made).abs().max() > 1e-3
    for batch in (1, 2):
        torch.testing.assert_close(trained.decode(trained.draw(5, 3), batch), made, atol=1e-4, rtol=0)
    assert len({tuple(picture.flatten().tolist()) for picture in made}) == 5


def test_codes_are_drawn_for_all_levels_together(trained):
    codes = trained.draw(4000)
    assert {i: z.shape[1] for i, z in codes.items()} == {5: 6, 4: 4, 3: 4}
    store = trained.method.store("a")
    own = torch.cat([codes_of(trained._part(i), store, i) for i in LEVELS], dim=1)
    ours, scale = torch.cat(list(codes.values()), dim=1), own.std(0)
    assert (ours.mean(0) - own.mean(0)).abs().lt(scale).all() and ours.std(0).div(scale).sub(1).abs().lt(0.6).all()
    prior = trained._prior()
    assert prior.factors[:, 6:, :6].abs().max() > 0.01  # a style depends on the content


def test_of_the_other_domain_everything_is_its_own(tmp_path):
    made = DeepVAE(model(tmp_path, (5, 4)).method, "b").fit()
    assert [run.name for run in made.method.runs] == [
        "vae-giraffe-level5", "generator-giraffe-level4", "prior-giraffe", "inverter-giraffe-level4",
    ]  # fmt: skip
    assert {path.name[:13] for path in (tmp_path / "features").iterdir()} == {"giraffe-train"}
    assert made.reconstruct(pictures(1)).shape == (1, 3, 32, 32)  # without features of the first domain
    assert {path.name[:13] for path in (tmp_path / "features").iterdir()} == {"giraffe-train"}
    assert len(made.method.runs) == 4


def test_encoding_and_reconstructing_do_not_depend_on_the_batch(trained):
    x = pictures(3)
    whole, single = trained.encode(x), trained.encode(x, batch=1)
    statistics, maps = trained.method.store("a").statistics, trained.method.backbone(x)
    for i in LEVELS:
        torch.testing.assert_close(whole[i], single[i], atol=1e-5, rtol=1e-4)
        with torch.no_grad():
            expected = trained._part(i).encode(statistics[i].normalise(maps[i]))[0]
        torch.testing.assert_close(whole[i], expected, atol=1e-5, rtol=1e-4)
    assert trained.reconstruct(x).shape == x.shape


def test_the_ends_of_an_interpolation_are_reconstructions(trained):
    x, y = pictures(4).split(2)
    for t, end in ((0.0, x), (1.0, y)):
        torch.testing.assert_close(trained.interpolate(x, y, t), trained.reconstruct(end), atol=1e-5, rtol=0)
    left, right = trained.encode(x), trained.encode(y)
    middle = trained.decode({i: (left[i] + right[i]) / 2 for i in LEVELS})
    torch.testing.assert_close(trained.interpolate(x, y, 0.5), middle, atol=1e-5, rtol=0)


# ---- settings ----------------------------------------------------------------------------------------------


def test_defaults():
    s = Generation()
    assert s.latent == 128 and s.hidden == 512 and s.lambda_gp == 10 and s.ema == 0 and s.precision == "fp32"
    assert set(s.epochs.values()) == {400} and set(s.learning_rate.values()) == {1e-4}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_sets_every_level(profile):
    s = load(profile)
    assert set(s.levels) <= s.generation.epochs.keys() & s.generation.learning_rate.keys() & s.generation.width.keys()
    assert set(s.levels) - {5} <= s.generation.critic_width.keys()


@pytest.mark.parametrize(
    "given, named",
    [
        ({"laten": 3}, "generation.laten: .*there are epochs, .*latent"),
        ({"latent": 0}, "generation.latent: .*greater than 0"),
        ({"beta": -1.0}, "generation.beta: .*greater than or equal to 0"),
        ({"beta": "0.3"}, "generation.beta: .*valid number"),
        ({"batch": 1}, "generation.batch: .*greater than or equal to 2"),
        ({"epochs": {6: 1.0}}, "generation.epochs.6.*less than or equal to 5"),
        ({"width": {4: 2.5}}, "generation.width.4: .*valid integer"),
        ({"ema": 1.0}, "generation.ema: .*less than 1"),
    ],
)
def test_settings_refused_by_name(given, named):
    with pytest.raises(ValueError, match=named):
        load("demo", generation=given)


def test_levels_that_do_not_double_are_refused(tmp_path):
    with pytest.raises(ValueError, match="AlexNet's levels do not: use VGG-19"):
        DeepVAE(CascadedTranslation(load("smoke", backbone="embedded_alexnet"), {}, tmp_path), "a")


@pytest.mark.parametrize("name, levels", [("epochs", (5, 4, 3, 2)), ("critic_width", (5, 4, 3, 2))])
def test_a_level_without_settings_is_refused_before_anything_is_trained(tmp_path, name, levels):
    whole = {i: 8 for i in (5, 4, 3, 2)}
    given = {"epochs": {i: 1.0 for i in whole}, "learning_rate": {i: 1e-3 for i in whole}, "width": whole}
    given["critic_width"] = whole
    given[name] = {i: v for i, v in given[name].items() if i > 2}
    settings = load(
        "smoke", levels=levels, inversion={"steps": {2: 2}}, translation={2: {"width": 8}}, generation=given
    )
    with pytest.raises(ValueError, match=f"generation.{name}: nothing is set for level 2"):
        DeepVAE(CascadedTranslation(settings, {}, tmp_path), "a")

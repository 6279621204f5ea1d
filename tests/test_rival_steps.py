"""A training step of each rival, written out: the gradients that its optimizers are given, their rates and options."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as entropy

from cdtlib import losses
from cdtlib.cascade import OTHER
from cdtlib.features.backbones import embedded
from cdtlib.rivals import cyclegan, dfc_vae, drit, ganimorph, munit, vqvae2
from cdtlib.rivals.cyclegan import CycleGAN
from cdtlib.rivals.dfc_vae import DFCVAE, perceptual, scales_of
from cdtlib.rivals.drit import DRIT
from cdtlib.rivals.ganimorph import GANimorph, feature_matching, ms_ssim
from cdtlib.rivals.munit import MUNIT
from cdtlib.rivals.vqvae2 import VQVAE2
from cdtlib.settings import load

ADAM = {"betas": (0.3, 0.8)}


class Trained:
    """A rival's training loop on random pictures, whose optimizers note what they are asked for and do nothing.

    Random numbers are seeded with the number of each step. `drawn` are the pictures of all steps, by side; `things` are
    what is tracked; `updates` are of each optimizer step its options and gradients.
    """

    device = torch.device("cpu")
    reused = False

    def __init__(self, patch, method, module, tmp_path, steps=1, **options):
        options = ADAM | options if "betas" in method.Options.model_fields else options
        self.rival = method(load("smoke", data={"size": 32}), {}, tmp_path, **options)
        self.o, self.total = self.rival.options, steps
        self.drawn, self.updates, self.things, self.logged = {"a": [], "b": []}, [], {}, []
        self.random = torch.Generator().manual_seed(7)
        patch.setattr(module, "draw", self._draw)
        adam = module.Adam if hasattr(module, "Adam") else torch.optim.Adam
        patch.setattr(adam, "step", lambda optimizer: self._note(optimizer))
        torch.manual_seed(0)
        self.before(patch)
        self.train()
        for thing in self.things.values():
            if isinstance(thing, torch.nn.Module):
                thing.train().requires_grad_(True)

    def before(self, patch):
        pass

    def train(self):
        self.model = self.rival.model()
        progress = SimpleNamespace(moments=[1, self.total], look=lambda *_: None)  # whose last is the number of steps
        self.rival.train(self, self.model, Side("a"), Side("b"), progress)

    def _draw(self, side, n, device):
        pictures = torch.rand(n, 3, 32, 32, generator=self.random) * 2 - 1
        self.drawn[side.name].append(pictures)
        return pictures

    def _note(self, optimizer):
        (group,) = optimizer.param_groups
        gradients = [None if p.grad is None else p.grad.clone() for p in group["params"]]
        noted = {name: group[name] for name in ("lr", "betas", "weight_decay")}
        self.updates.append(SimpleNamespace(parameters=group["params"], gradients=gradients, **noted))

    def track(self, **things):
        self.things |= things

    track_training = track

    def log(self, **values):
        self.logged.append(values)

    def steps(self, total):
        for step in range(total):
            torch.manual_seed(step)
            yield step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Side:
    def __init__(self, name):
        self.name = name

    def images(self, rows):
        return torch.zeros(len(rows), 3, 32, 32)


def test_defaults_are_the_published_settings():
    adam = {"betas": (0.5, 0.999), "precision": "fp32"}
    published = {
        CycleGAN: adam | {
            "epochs": 200, "batch": 1, "learning_rate": 2e-4, "lambda_cycle": 10, "lambda_identity": 5, "pool": 50,
        },
        MUNIT: adam | {
            "steps": 1_000_000, "batch": 1, "learning_rate": 1e-4, "halving": 100_000, "weight_decay": 1e-4,
            "lambda_image": 10, "lambda_content": 1, "lambda_style": 1,
        },
        DRIT: adam | {
            "epochs": 1200, "batch": 2, "content_steps": 2, "learning_rate": 1e-4, "content_learning_rate": 4e-5,
            "weight_decay": 1e-4, "clip": 5, "lambda_content": 1, "lambda_cross": 10, "lambda_self": 10,
            "lambda_latent": 10, "lambda_prior": 0.01,
        },
        GANimorph: adam | {
            "steps": 300_000, "batch": 16, "learning_rate": 2e-4, "critic_every": 2, "memory": 0.9999,
        },
        DFCVAE: adam | {"batch": 64, "learning_rate": 5e-4, "halvings": 4, "latent": 100, "alpha": 64, "beta": 0.5},
        VQVAE2: {"learning_rate": 3e-4, "codes": 512, "length": 64, "decay": 0.99, "beta": 0.25, "precision": "fp32"},
    }  # fmt: skip
    for method, settings in published.items():
        ours = method.Options().model_dump()
        assert {name: ours[name] for name in settings} == settings


def assert_gradient(update, loss):
    """`update` was to take the gradient of `loss`."""
    wanted = torch.autograd.grad(loss, update.parameters, retain_graph=True, allow_unused=True)
    rounding = 1e-5 * max(float(by_hand.abs().max()) for by_hand in wanted if by_hand is not None)
    for gradient, by_hand in zip(update.gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, by_hand, rtol=1e-3, atol=rounding)  # None is None


def squares(scores, wanted):
    return sum((s - wanted).square().mean() for s in scores)


def l1(*pairs):
    return sum((x - y).abs().mean() for x, y in pairs)


def test_cyclegan(monkeypatch, tmp_path):
    factors = iter((0.5, -1.0))  # what the pools show is told apart by its size
    monkeypatch.setattr(cyclegan, "Pool", lambda size: partial(torch.mul, torch.tensor(next(factors))))
    options = {"lambda_cycle": 3.0, "lambda_identity": 7.0, "learning_rate": 0.1, "batch": 1}
    t = Trained(monkeypatch, CycleGAN, cyclegan, tmp_path, 4, **options)
    (x_a, *_), (x_b, *_), g, d_a, d_b = *t.drawn.values(), t.model, t.things["d_a"], t.things["d_b"]
    fake_a, fake_b = g.to_a(x_b), g.to_b(x_a)
    cycle = l1((g.to_a(fake_b), x_a), (g.to_b(fake_a), x_b))
    identity = l1((g.to_a(x_a), x_a), (g.to_b(x_b), x_b))
    assert_gradient(t.updates[0], squares([d_a(fake_a), d_b(fake_b)], 1) + 3 * cycle + 7 * identity)
    shown = d_a(0.5 * fake_a.detach()), d_b(-fake_b.detach())
    assert_gradient(t.updates[1], (squares([d_a(x_a), d_b(x_b)], 1) + squares(shown, 0)) / 2)
    assert [u.lr for u in t.updates] == pytest.approx([0.1] * 6 + [0.05] * 2)
    assert all(u.betas == (0.3, 0.8) and u.weight_decay == 0 for u in t.updates)


def test_munit(monkeypatch, tmp_path):
    options = {"lambda_image": 3.0, "lambda_content": 5.0, "lambda_style": 7.0, "weight_decay": 0.01}
    t = Trained(monkeypatch, MUNIT, munit, tmp_path, 5, halving=2, learning_rate=0.1, batch=1, **options)
    (x_a, *_), (x_b, *_), a, b = *t.drawn.values(), t.model.a, t.model.b
    torch.manual_seed(0)
    shown_a, shown_b, s_a, s_b = (torch.randn(1, 8) for _ in range(4))
    (content_a, style_a), (content_b, style_b) = a.encode(x_a), b.encode(x_b)
    d_a, d_b = t.things["d_a"], t.things["d_b"]
    told = squares(d_a(x_a) + d_b(x_b), 1)
    fakes = d_a(a.decode(content_b, shown_a).detach()) + d_b(b.decode(content_a, shown_b).detach())
    assert_gradient(t.updates[0], told + squares(fakes, 0))
    fake_a, fake_b = a.decode(content_b, s_a), b.decode(content_a, s_b)
    (again_b, again_s_a), (again_a, again_s_b) = a.encode(fake_a), b.encode(fake_b)
    image = l1((a.decode(content_a, style_a), x_a), (b.decode(content_b, style_b), x_b))
    content, style = l1((again_a, content_a), (again_b, content_b)), l1((again_s_a, s_a), (again_s_b, s_b))
    adversarial = squares(d_a(fake_a) + d_b(fake_b), 1)
    assert_gradient(t.updates[1], adversarial + 3 * image + 5 * content + 7 * style)
    assert [u.lr for u in t.updates] == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 2)
    assert all(u.betas == (0.3, 0.8) and u.weight_decay == 0.01 for u in t.updates)


def test_drit(monkeypatch, tmp_path):
    monkeypatch.setattr(drit.Noise, "forward", lambda _, x: x)
    weights = {"content": 2.0, "cross": 3.0, "self": 5.0, "latent": 7.0, "prior": 11.0}
    options = {f"lambda_{name}": weight for name, weight in weights.items()} | {"clip": 0.01, "weight_decay": 0.02}
    rates = {"learning_rate": 0.1, "content_learning_rate": 0.3}
    t = Trained(monkeypatch, DRIT, drit, tmp_path, 4, content_steps=1, batch=2, **options, **rates)
    model, teller, critics = t.model, t.things["teller"], t.things["critics"]

    def clipped(update, loss):
        gradients = torch.autograd.grad(loss, update.parameters, retain_graph=True)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        assert norm > 0.01
        assert_gradient(update, loss * 0.01 / norm.detach())

    def told(content_a, content_b):
        scores = teller(content_a.detach()), teller(content_b.detach())
        return sum(entropy(s, torch.full_like(s, side)) for s, side in zip(scores, (0.0, 1.0), strict=True))

    (only_a, both_a), (only_b, both_b) = (t.drawn[side][:2] for side in "ab")
    clipped(t.updates[0], told(model.content(only_a, "a"), model.content(only_b, "b")))

    torch.manual_seed(0)
    z = torch.randn(1, 8)
    x, shown = ({"a": a, "b": b} for a, b in zip(both_a.chunk(2), both_b.chunk(2), strict=True))
    content = {s: model.content(x[s], s) for s in "ab"}
    attribute = {s: model.attribute[s](x[s]) for s in "ab"}
    fake = {s: model.decode[s](content[OTHER[s]], attribute[s]) for s in "ab"}
    random = {s: model.decode[s](content[OTHER[s]], z) for s in "ab"}
    scored = [(critics[s], x[s], fake[s]) for s in "ab"] + [(critics[f"z{s}"], shown[s], random[s]) for s in "ab"]
    real, false = (sum((d(pair[i].detach()) for d, *pair in scored), []) for i in (0, 1))
    told_all = sum(entropy(s, torch.ones_like(s)) for s in real) + sum(entropy(s, torch.zeros_like(s)) for s in false)
    assert_gradient(t.updates[1], told_all)
    clipped(t.updates[2], told(content["a"], content["b"]))

    def fooled(of):
        return sum(entropy(s, torch.ones_like(s)) for d, _, made in of for s in d(made))

    back = {s: model.decode[s](model.content(fake[OTHER[s]], OTHER[s]), model.attribute[s](fake[s])) for s in "ab"}
    same = {s: model.decode[s](content[s], attribute[s]) for s in "ab"}
    loss = fooled(scored[:2]) + 2 * sum(entropy(c, torch.full_like(c, 0.5)) for c in map(teller, content.values()))
    loss += 3 * l1(*((back[s], x[s]) for s in "ab")) + 5 * l1(*((same[s], x[s]) for s in "ab"))
    loss += 11 * sum(code.square().mean() for code in (*content.values(), *attribute.values()))
    assert_gradient(t.updates[3], loss)
    second = fooled(scored[2:]) + 7 * l1(*((model.attribute[s](random[s]), z) for s in "ab"))
    encoders = {id(p) for p in model.attribute.parameters()}
    last = list(zip(t.updates[4].parameters, t.updates[4].gradients, strict=True))
    assert all(gradient is None for p, gradient in last if id(p) in encoders)
    parameters, gradients = zip(*(pair for pair in last if id(pair[0]) not in encoders), strict=True)
    assert_gradient(SimpleNamespace(parameters=parameters, gradients=gradients), second)

    decay = [f for f in (1.0, 1.0, 1.0, 0.5) for _ in range(5)]
    rates = [rate * f for rate, f in zip([0.3, 0.1, 0.3, 0.1, 0.1] * 4, decay, strict=True)]
    assert [u.lr for u in t.updates] == pytest.approx(rates)
    assert all(u.betas == (0.3, 0.8) and u.weight_decay == 0.02 for u in t.updates)
    assert t.rival.seen == 2 + 1  # a batch, and half of one that teaches the content critic


def test_ganimorph(monkeypatch, tmp_path):
    t = Trained(monkeypatch, GANimorph, ganimorph, tmp_path, 4, learning_rate=0.1, memory=0.75, critic_every=3)
    x_a, x_b = ((t.drawn[side][0] + 1) / 2 for side in "ab")
    g, d_a, d_b = t.model, t.things["d_a"], t.things["d_b"]
    fake_a, fake_b = g.to_a(x_b), g.to_b(x_a)
    sure = [(d(real)[0], d(fake.detach())[0]) for d, real, fake in ((d_a, x_a, fake_a), (d_b, x_b, fake_b))]
    told = sum(entropy(r, torch.ones_like(r)) + entropy(f, torch.zeros_like(f)) for r, f in sure)
    assert_gradient(t.updates[0], told / 2)
    judged = [(d(real)[1], *d(fake)) for d, real, fake in ((d_a, x_a, fake_a), (d_b, x_b, fake_b))]
    back_a, back_b = g.to_a(fake_b), g.to_b(fake_a)
    terms = [
        sum(entropy(scores, torch.ones_like(scores)) for _, scores, _ in judged),
        sum(feature_matching(real, fake) for real, _, fake in judged),
        2 - ms_ssim(back_a, x_a) - ms_ssim(back_b, x_b),
        l1((back_a, x_a), (back_b, x_b)),
    ]
    shares = (0.67 * 0.7, 0.67 * 0.3, 0.33 * 0.7, 0.33 * 0.3)
    kept = [0.75 + 0.25 * term.detach() for term in terms]
    assert_gradient(t.updates[1], sum(w * term / k for w, term, k in zip(shares, terms, kept, strict=True)))
    critics = {next(d_a.parameters())}
    assert [u.parameters[0] in critics for u in t.updates] == [True, False, False, False, True, False]
    assert [u.lr for u in t.updates] == pytest.approx([0.1] * 4 + [0.05] * 2)
    assert all(u.betas == (0.3, 0.8) and u.weight_decay == 0 for u in t.updates)


class Generated(Trained):
    def before(self, patch):
        patch.setattr(type(self.rival), "run", lambda *_, **used: self)
        side = Side("a")
        side.images = lambda rows, device: torch.linspace(-1, 1, 3072).view(1, 3, 32, 32)[rows]
        side.originals, side.resident, side.id = lambda: [0], lambda *_, **__: None, "0f"
        self.rival.training_pictures = self.pictures = side
        self.rival.domain = {"train": side}
        self.id = "1f"


def test_dfc_vae(monkeypatch, tmp_path):
    class Once(Generated):
        def train(self):
            self.model = self.rival.fitted

    options = {"alpha": 3.0, "beta": 5.0, "steps": 4, "halvings": 1, "sizes": {1: 2.0, 2: 3.0}, "learning_rate": 0.1}
    t = Once(monkeypatch, DFCVAE, dfc_vae, tmp_path, **options)
    model, backbone, x = t.model, embedded(), t.drawn["a"][0]
    torch.manual_seed(0)
    mean, log_variance = model.encode(x)
    made = backbone(model.decode(mean + log_variance.exp().sqrt() * torch.randn(mean.shape)), 2)
    scales = scales_of(backbone, t.pictures.images([0], "cpu"), t.o.sizes)
    loss = 3 * losses.kl(mean, log_variance) + 5 * perceptual(made, backbone(x, 2), scales)
    assert_gradient(t.updates[0], loss)
    assert [u.lr for u in t.updates] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert all(u.betas == (0.3, 0.8) for u in t.updates)


def test_vqvae2(monkeypatch, tmp_path):
    monkeypatch.setattr(vqvae2.Codebook, "learn", lambda *_: None)

    class Once(Generated):
        def train(self):
            self.total = 1
            self.rival.steps = lambda o: 1
            self.rival.training_pictures.__class__.__len__ = lambda _: 1
            self.model = self.rival.trained[0]

    t = Once(monkeypatch, VQVAE2, vqvae2, tmp_path, beta=3.0, learning_rate=0.1)
    model, x = t.model, t.drawn["a"][0]
    top, bottom = model.encode(x)
    code, commitment_top, _ = model.top(top)
    joined = model.join(torch.cat([model.decode_top(code), bottom], dim=1))
    code_bottom, commitment_bottom, _ = model.bottom(joined)
    reconstruction = (model.decode(code, code_bottom) - x).square().mean()
    assert_gradient(t.updates[0], reconstruction + 3 * (commitment_top + commitment_bottom))
    assert t.updates[0].lr == 0.1

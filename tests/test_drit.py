"""DRIT: its size, its losses, its pieces (see test_rivals.py for what it shares with others)."""

import math
from types import SimpleNamespace

import pytest
import torch

from cdtlib.rivals import drit
from cdtlib.rivals.common import parameters
from cdtlib.rivals.drit import DRIT, ContentCritic, Model, MultiScaleCritic
from cdtlib.settings import load


def test_full_width_has_the_published_number_of_parameters():
    o = drit.Options()
    with torch.device("meta"):
        critics = 4 * parameters(MultiScaleCritic(o.critic_width)) + parameters(ContentCritic(4 * o.width, 216 // 4))
        assert parameters(Model(o.width, o.attribute, o.hidden)) + critics == 75_462_691


def test_losses_by_hand():
    even, sure = torch.tensor([0.0]), torch.tensor([math.log(3), -math.log(3)])  # probabilities ½; ¾ and ¼
    half, quarters = math.log(2), -(math.log(3 / 4) + math.log(1 / 4)) / 2
    assert drit.critic_loss([even, sure], [even]) == pytest.approx(half + quarters + half)
    assert drit.translator_loss([even, sure[:1]]) == pytest.approx(half - math.log(3 / 4))
    assert drit.content_critic_loss(sure[1:], sure[:1]) == pytest.approx(-2 * math.log(3 / 4))
    assert drit.content_critic_loss(sure[:1], sure[1:]) == pytest.approx(-2 * math.log(1 / 4))
    assert drit.content_loss(sure[:1], even) == pytest.approx(quarters + half)
    assert drit.prior(torch.tensor([[3.0, -1.0]])) == 5


@pytest.mark.parametrize("pixels", [32, 48, 64, 96, 128, 216, 224])
def test_content_critic_judges_maps_of_every_size(pixels):
    side = pixels // 4
    scores = ContentCritic(2, side)(torch.rand(3, 2, side, side))
    assert scores.shape[:2] == (3, 1) and scores.numel() > 0
    if pixels >= 216:
        assert scores.shape == (3, 1, 1, 1)


def test_translation_takes_the_content_of_one_domain_and_a_given_attribute():
    torch.manual_seed(0)
    model, x, z = Model(width=4, hidden=8), torch.rand(2, 3, 32, 32), torch.randn(2, 8)
    assert model.attribute["a"](x).shape == (2, 8) and model.code == 8
    assert not torch.equal(model.content(x, "a"), model.content(x, "a"))  # noise, in training only
    content = model.eval().content(x, "a")
    assert content.shape == (2, 16, 8, 8)
    made = model(x, "b", z)
    assert made.shape == x.shape and torch.equal(made, model.decode["b"](content, z))
    assert not torch.allclose(made, model(x, "b", -z))


def test_a_step_takes_several_batches(tmp_path):
    rival = DRIT(load("smoke"), {}, tmp_path, epochs=30.0, batch=4, content_steps=2)
    assert rival.steps(100) == 30 * 100 / 4 / 3


def test_random_attributes_do_not_teach_the_attribute_encoders(tmp_path):
    class Pictures:
        shown = torch.rand(4, 3, 32, 32) * 2 - 1

        def __len__(self):
            return 4

        def images(self, rows, device="cpu"):
            return self.shown[rows]

    def moved(**changes):
        torch.manual_seed(0)
        rival = DRIT(load("smoke"), {}, tmp_path, **changes)
        model, pictures = rival.model(), Pictures()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        run = SimpleNamespace(device=torch.device("cpu"), track=dict, track_training=dict, log=dict, steps=range)
        rival.train(run, model, pictures, pictures, SimpleNamespace(moments=[1], look=lambda *_: None))
        return {name: p.detach() - before[name] for name, p in model.named_parameters()}

    with_latent, without = moved(), moved(lambda_latent=0.0)
    for name, move in with_latent.items():
        if name.startswith("attribute"):
            assert torch.equal(move, without[name]) and move.abs().max() < 1.01e-4  # one step of Adam, the first
        elif name.endswith("weight"):
            assert not torch.equal(move, without[name]) and move.abs().max() > 1.01e-4  # a second one

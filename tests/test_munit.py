"""MUNIT: its size, its losses, its pieces (see test_rivals.py for what it shares with others)."""

import pytest
import torch

from cdtlib.rivals import munit
from cdtlib.rivals.common import parameters
from cdtlib.rivals.munit import AutoEncoder, Model, MultiScaleCritic


def test_full_width_has_the_published_number_of_parameters():
    o = munit.Options()
    assert parameters(AutoEncoder(o.width, o.blocks, o.style, o.hidden)) == 15_026_187
    assert parameters(MultiScaleCritic(o.critic_width)) == 8_271_171


def test_losses_by_hand():
    real = [torch.tensor([1.0, 0.0]), torch.tensor([3.0])]
    fake = [torch.tensor([0.5, -1.0]), torch.tensor([2.0])]
    # by scale: (0² + 1²) / 2 + (0.25 + 1) / 2, and 2² + 2²
    assert munit.critic_loss(real, fake) == pytest.approx(0.5 + 0.625 + 4 + 4)
    assert munit.translator_loss(fake) == pytest.approx((0.25 + 4) / 2 + 1)
    assert munit.reconstruction(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])) == (0.5 + 4) / 2
    terms = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert munit.total(*terms) == 1 + 10 * 2 + 3 + 4
    assert munit.total(*terms, lambda_image=0.0, lambda_content=5.0, lambda_style=0.5) == 1 + 15 + 2


def test_critic_is_given_real_and_translated_pictures_together():
    torch.manual_seed(0)
    critic, real, fake = MultiScaleCritic(width=2), torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    for together, alone in zip(munit.beside(critic, real, fake), (critic(real), critic(fake)), strict=True):
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(together, alone, strict=True))


def test_initial_weights_are_larger_in_a_narrow_network():
    assert munit.deviation(64) == 0.02 and munit.deviation(16) == 0.04


def test_critic_sees_each_scale_at_half_the_side():
    critic, x = MultiScaleCritic(width=2), torch.rand(2, 3, 64, 96)
    scores = critic(x)
    assert [tuple(s.shape) for s in scores] == [(2, 1, 4, 6), (2, 1, 2, 3), (2, 1, 1, 1)]
    # an even grey stays what it is up to the border
    scores, grey = critic(torch.full((1, 3, 64, 64), 0.5)), torch.full((1, 3, 16, 16), 0.5)
    assert torch.allclose(scores[2], critic.scales[2](grey))
    assert len(critic(torch.zeros(1, 3, 32, 32))) == 2  # of 8 pixels nothing is left after four halvings


def test_translation_takes_the_content_of_one_domain_and_a_given_style():
    torch.manual_seed(0)
    model, x = Model(width=4, blocks=1, hidden=8), torch.rand(2, 3, 32, 32)
    content, style = model.a.encode(x)
    assert content.shape == (2, 16, 8, 8) and style.shape == (2, 8) and model.code == 8
    z = torch.randn(2, 8)
    made = model(x, "b", z)
    assert made.shape == x.shape and torch.equal(made, model.b.decode(content, z))
    assert not torch.allclose(made, model(x, "b", -z))

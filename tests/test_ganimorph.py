"""GANimorph: its size, its losses, their normalisation (see test_rivals.py for what it shares with others)."""

import math

import pytest
import torch

from cdtlib.models.blocks import InstanceNorm
from cdtlib.rivals import ganimorph
from cdtlib.rivals.common import parameters
from cdtlib.rivals.ganimorph import (
    LEVEL_WEIGHTS,
    Critic,
    Generator,
    Normalisation,
    adversarial_loss,
    critic_loss,
    feature_matching,
    ms_ssim,
    total,
)


def test_full_width_has_the_published_number_of_parameters():
    defaults = ganimorph.Options()
    assert parameters(Generator(defaults.width, defaults.blocks)) == 53_017_728
    assert parameters(Critic(defaults.critic_width)) == 16_798_208


def test_a_model_speaks_of_pictures_from_minus_one_and_its_generators_from_zero():
    torch.manual_seed(0)
    model, x = ganimorph.Model(width=2), torch.rand(2, 3, 32, 48)
    assert torch.allclose(model(2 * x - 1, "a"), 2 * model.to_a(x) - 1, atol=1e-5)
    with torch.no_grad():
        model.to_a.to_picture.weight *= 100  # far into both ends of the range
        made = model.to_a(x)
    assert made.shape == x.shape and 0 <= made.min() < 0.1 and 0.9 < made.max() <= 1


def test_a_patch_of_the_critic_sees_far():
    """A pixel's influence by the dilated layers alone: 2 + 4 + 8 maps' pixels further, one score in the corner."""
    critic, x = Critic(width=2), torch.rand(1, 3, 256, 256, requires_grad=True)
    for norm in [m for m in critic.modules() if isinstance(m, InstanceNorm)]:
        norm.forward = lambda maps: maps  # it looks at the whole picture
    scores, maps = critic(x)
    assert scores.shape == (1, 1, 32, 32) and [m.shape[1] for m in maps] == [4] + 6 * [8]
    scores[0, 0, 0, 0].backward()
    # 8 pixels a map's pixel: 2 of the score's, 1 + 14 + 1 of the 3×3 layers', and what the three halvings overlap
    assert 8 * 18 <= int(x.grad.abs().sum((0, 1, 2)).nonzero().max()) < 8 * 20


def test_adversarial_losses_by_hand():
    real, fake = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, -math.log(3)])
    # σ: ½, ¾ for the real ones, ½, ¼ for the others
    assert critic_loss(real, fake) == pytest.approx(0.5 * -(math.log(1 / 2) + math.log(3 / 4)))
    assert adversarial_loss(fake) == pytest.approx(-(math.log(1 / 2) + math.log(1 / 4)) / 2)


def test_feature_matching_by_hand():
    real = [torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.zeros(2, 2, 1, 1)]
    fake = [torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([[1.0, 2.0], [1.0, -2.0]]).view(2, 2, 1, 1)]
    # (2 - ½)² of the first layer; (1² + 0²) / 2 of the second
    assert feature_matching(real, fake) == pytest.approx((2.25 + 0.5) / 2)


def test_total_by_hand():
    assert total(1.0, 10.0, 100.0, 1000.0) == pytest.approx(0.469 + 2.01 + 23.1 + 99)


def test_ms_ssim_of_one_window_by_hand():
    """8×8 pixels: one scale, one window, whose statistics are written out."""
    x, y = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    y = (x + y) / 2  # alike, not the same
    weights = {(i, j): math.exp(-((i - 3) ** 2 + (j - 3) ** 2) / 4.5) for i in range(8) for j in range(8)}

    def mean(values):
        return sum(w * float(values[0, 0, i, j]) for (i, j), w in weights.items()) / sum(weights.values())

    m_x, m_y = mean(x), mean(y)
    v_x, v_y, v_xy = mean((x - m_x) ** 2), mean((y - m_y) ** 2), mean((x - m_x) * (y - m_y))
    contrast = (2 * v_xy + 0.0025) / (v_x + v_y + 0.0025)
    luminance = (2 * m_x * m_y + 0.0009) / (m_x**2 + m_y**2 + 0.0009)
    assert 0.3 < contrast < 0.98
    assert ms_ssim(x, y) == pytest.approx(contrast * luminance, abs=1e-5)


@pytest.mark.parametrize(("side", "levels"), [(128, 5), (96, 4), (64, 4), (32, 3)])
def test_ms_ssim_has_the_scales_that_fit(side, levels):
    """Plain pictures differ in luminance, which counts at the coarsest scale only."""
    x, y = torch.full((2, 3, side, side), 0.2), torch.full((2, 3, side, side), 0.6)
    luminance = (2 * 0.2 * 0.6 + 0.0009) / (0.2**2 + 0.6**2 + 0.0009)
    weight = LEVEL_WEIGHTS[levels - 1] / sum(LEVEL_WEIGHTS[:levels])
    assert ms_ssim(x, y) == pytest.approx(luminance**weight, abs=1e-5)


def test_ms_ssim_of_the_same_of_opposites_and_of_coarse_and_fine_change():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 32)
    opposite = (1 - x).requires_grad_(True)
    similarity = ms_ssim(opposite, x)
    similarity.backward()
    assert ms_ssim(x, x) == pytest.approx(1, abs=1e-5)
    assert similarity < 0.01 and opposite.grad.isfinite().all()
    # the finest of three scales weighs least
    fine = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16) / 10
    coarse = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat_interleave(8, 0).repeat_interleave(8, 1).repeat(2, 2) / 10
    plain = torch.full((1, 1, 32, 32), 0.5)
    assert ms_ssim(plain, plain + coarse) < ms_ssim(plain, plain + fine) < 1


def test_normalisation_divides_by_what_was_kept():
    normalise = Normalisation(2, memory=0.5)
    values, average, kept = torch.tensor([3.0, 0.0], requires_grad=True), [1.0, 1.0], None
    for step in range(91):
        average = [0.5 * m + 0.5 * v for m, v in zip(average, (3.0, 0.0), strict=True)]
        if step in (0, 36, 90):
            kept = list(average)
        out = normalise(values, torch.tensor(normalise.due(step)))
        assert out.tolist() == pytest.approx([3 / kept[0], 0.0], rel=1e-5)
    out[0].backward()
    assert values.grad[0] == pytest.approx(1 / kept[0])  # what it is divided by is a constant
    again = Normalisation(2, memory=0.5)
    again.load_state_dict(normalise.state_dict())
    assert torch.equal(*(n(values, torch.tensor(False)) for n in (again, normalise)))

"""CycleGAN: its size, its losses, its pool (see test_rivals.py for what it shares with others)."""

import pytest
import torch

from cdtlib.models.critic import PatchCritic
from cdtlib.rivals import cyclegan
from cdtlib.rivals.common import parameters
from cdtlib.rivals.cyclegan import Generator, Pool, critic_loss


def test_full_width_has_the_published_number_of_parameters():
    defaults = cyclegan.Options()
    assert parameters(Generator(defaults.width, defaults.blocks)) == 11_378_179
    assert parameters(PatchCritic(defaults.critic_width)) == 2_764_737


def test_critic_loss_by_hand():
    real, fake = torch.tensor([1.0, 0.0]), torch.tensor([0.5, -1.0])
    # ½ ((0² + 1²) / 2 + (0.25 + 1) / 2)
    assert critic_loss(real, fake) == pytest.approx(0.5 * (0.5 + 0.625))


def test_pool_keeps_then_exchanges():
    torch.manual_seed(0)
    pool = Pool(2)
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 1, 1)
    assert torch.equal(pool(pictures[:2]), pictures[:2])  # until it is full: kept, and shown
    shown = torch.cat([pool(pictures[2:3]) for _ in range(20)])
    assert {float(x) for x in shown[:, 0, 0, 0]} == {0.0, 1.0, 2.0}  # old ones come out, once each
    again = Pool(2)
    again.load_state_dict(pool.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(pool.kept, again.kept, strict=True))

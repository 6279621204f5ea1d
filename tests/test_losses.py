"""The equations of the paper's §3 against values computed by hand."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cdtlib import losses
from cdtlib.models.blocks import kaiming
from cdtlib.models.critic import Critic


def test_adversarial_terms_of_equation_1():
    fake, real = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([4.0, -2.0])
    assert losses.adversarial_critic(fake, real).item() == 3 - 1
    assert losses.adversarial_translator(fake).item() == -3


def test_cycle_and_identity_are_the_mean_absolute_difference():
    x = torch.tensor([1.0, -1.0, 0.0, 0.5]).view(1, 1, 2, 2)
    y = torch.tensor([0.5, -1.0, 1.0, -0.5]).view(1, 1, 2, 2)
    for loss in (losses.cycle, losses.identity):
        assert loss(y, x).item() == (0.5 + 0 + 1 + 1) / 4
        assert loss(x, x).item() == 0
        # A mean over elements: the size of the map and the batch do not change it.
        assert loss(y.repeat(3, 2, 4, 4), x.repeat(3, 2, 4, 4)).item() == 2.5 / 4


def test_total_is_equation_4():
    parts = torch.tensor(2.0), torch.tensor(0.5), torch.tensor(0.25)
    assert losses.total(*parts).item() == 2 + 100 * 0.5 + 100 * 0.25
    assert losses.total(*parts, lambda_cycle=4, lambda_identity=0).item() == 2 + 4 * 0.5


def test_least_squares_terms():
    scores = torch.tensor([[0.0, 3.0], [1.0, -1.0]])
    assert losses.least_squares_real(scores).item() == (1 + 4 + 0 + 4) / 4
    assert losses.least_squares_fake(scores).item() == (0 + 9 + 1 + 1) / 4
    assert losses.least_squares_critic(scores, scores - 1).item() == (0 + 9 + 1 + 1) / 4 + (4 + 1 + 1 + 9) / 4


# ---- the gradient penalty of equation 1 --------------------------------------------------------------------


def test_penalty_of_a_linear_critic_is_the_same_everywhere():
    w = torch.tensor([1.0, 2.0, 2.0, 4.0]).view(1, 1, 2, 2)  # the gradient; its length is 5
    real, fake, alpha = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2), torch.rand(3)
    penalty = losses.gradient_penalty(lambda x: (w * x).flatten(1).sum(1), real, fake, alpha)
    assert penalty.item() == pytest.approx((5 - 1) ** 2, rel=1e-6)


def test_penalty_takes_the_norm_over_the_whole_sample_not_per_channel_or_place():
    maps = torch.zeros(2, 3, 4, 5)
    penalty = losses.gradient_penalty(lambda x: x.flatten(1).sum(1), maps, maps, torch.zeros(2))
    assert penalty.item() == pytest.approx((math.sqrt(3 * 4 * 5) - 1) ** 2, rel=1e-6)


def test_penalty_of_a_quadratic_critic_shows_where_it_is_taken():
    # D(x) = ‖x‖² / 2 has the gradient x, so the penalty tells ŷ = alpha · real + (1 - alpha) · fake.
    real = torch.tensor([[3.0, 4.0], [9.0, 9.0], [4.0, 0.0]]).view(3, 1, 1, 2)
    fake = torch.tensor([[7.0, 7.0], [0.0, 3.0], [0.0, 4.0]]).view(3, 1, 1, 2)
    alpha = torch.tensor([1.0, 0.0, 0.25])  # one per sample: (3, 4), (0, 3), (1, 3)
    penalty = losses.gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, real, fake, alpha)
    expected = ((5 - 1) ** 2 + (3 - 1) ** 2 + (math.sqrt(10) - 1) ** 2) / 3
    assert penalty.item() == pytest.approx(expected, rel=1e-6)


def test_gradient_of_the_penalty_by_hand():
    # D(x) = θ ‖x‖² / 2 has the gradient θx: penalty (θn - 1)² with n = ‖ŷ‖ = 5, derivative 2 (θn - 1) n.
    theta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    real = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 2, 1, 1)
    alpha = torch.ones(1, dtype=torch.float64)
    penalty = losses.gradient_penalty(lambda x: theta * x.square().flatten(1).sum(1) / 2, real, -real, alpha)
    penalty.backward()
    assert penalty.item() == pytest.approx((0.6 * 5 - 1) ** 2)
    assert theta.grad.item() == pytest.approx(2 * (0.6 * 5 - 1) * 5)


def test_gradient_of_the_penalty_against_finite_differences():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    real, fake, alpha = random(3, 2, 2, 2), random(3, 2, 2, 2), torch.rand(3, generator=generator, dtype=torch.float64)
    weights = random(5, 8).requires_grad_(), random(5).requires_grad_(), random(5).requires_grad_()

    def penalty(w1, b1, w2):
        return losses.gradient_penalty(lambda x: torch.tanh(x.flatten(1) @ w1.T + b1) @ w2, real, fake, alpha)

    assert torch.autograd.gradcheck(penalty, weights)


def test_penalty_reaches_the_critic_alone():
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    real, fake = (torch.randn(2, 1, 2, 2, requires_grad=True) for _ in range(2))
    losses.gradient_penalty(critic, real, fake, torch.rand(2)).backward()
    assert real.grad is None and fake.grad is None
    assert critic[1].weight.grad.abs().sum() > 0


def test_penalty_of_a_flat_critic_is_one_with_a_finite_gradient():
    w = torch.zeros(4, requires_grad=True)  # the norm has no derivative at a gradient of zero
    penalty = losses.gradient_penalty(lambda x: x.flatten(1) @ w, *torch.randn(2, 3, 1, 2, 2), torch.rand(3))
    penalty.backward()
    assert penalty.item() == 1
    assert w.grad.isfinite().all()


class Rounded(TorchDispatchMode):
    """Convolutions and products of matrices take their inputs with `bits` of mantissa, and add up in float32.

    10 are those of TF32, as the tensor cores of GPUs round (and as PyTorch lets convolutions do there), 7 of bfloat16.
    """

    def __init__(self, bits: int):
        super().__init__()
        self.dropped = 23 - bits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if function._overloadpacket in (aten.convolution, aten.convolution_backward, aten.mm, aten.addmm):
            args = [self.round(a) if isinstance(a, torch.Tensor) else a for a in args]
        return function(*args, **(kwargs or {}))

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """To the nearest, ties to even."""
        i, n = x.contiguous().view(torch.int32), self.dropped
        return ((i + (1 << (n - 1)) - 1 + ((i >> n) & 1)) >> n << n).view(torch.float32)


def test_rounding_is_that_of_bfloat16():
    x = torch.randn(1000)
    assert torch.equal(Rounded(bits=7).round(x), x.bfloat16().float())


def penalty_and_gradient(device: str, context) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a critic of the paper's level 5 with a slope of about 3."""
    torch.manual_seed(0)
    critic = kaiming(Critic(channels=512, side=14, width=64))
    critic.layers[-1].weight.data *= 3
    real, fake = torch.randn(2, 4, 512, 14, 14).clamp(-1, 1)
    critic, real, fake, alpha = (x.to(device) for x in (critic, real, fake, torch.rand(4)))
    with context:
        penalty = losses.gradient_penalty(critic, real, fake, alpha)
        penalty.backward()
    gradients = [p.grad.flatten() for p in critic.parameters() if p.grad is not None]
    return penalty.detach().cpu(), torch.cat(gradients).cpu()


def differences(found, exact) -> list[float]:
    return [((one - other).norm() / other.norm()).item() for one, other in zip(found, exact, strict=True)]


def test_penalty_bears_tf32_but_not_bfloat16():
    """So critics compute in float32, whose convolutions may be TF32, while translators may compute in bfloat16."""
    exact = penalty_and_gradient("cpu", nullcontext())
    tf32 = differences(penalty_and_gradient("cpu", Rounded(bits=10)), exact)
    bf16 = differences(penalty_and_gradient("cpu", torch.autocast("cpu", torch.bfloat16)), exact)
    assert max(tf32) < 0.01
    assert bf16[0] > 5 * tf32[0] and bf16[1] > 5 * tf32[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_penalty_on_a_gpu_with_tf32():
    exact, rounded = (
        penalty_and_gradient("cuda", torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=allowed))
        for allowed in (False, True)
    )
    assert max(differences(rounded, exact)) < 0.01

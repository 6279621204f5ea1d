"""The losses of the paper's §3, one pure function per equation.

Scores are a critic's outputs (N,). Feature maps are (N, C, H, W) in [-1, 1]. Every function returns a scalar.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F


def adversarial_critic(fake_scores: torch.Tensor, real_scores: torch.Tensor) -> torch.Tensor:
    """Eq. (1), first two terms: E[D(G(x))] - E[D(y)], what the critic minimises."""
    return fake_scores.mean() - real_scores.mean()


def gradient_penalty(critic: Callable, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Eq. (1), last term without its factor: E[(‖∇D(ŷ)‖₂ - 1)²].

    ŷ = alpha · real + (1 - alpha) · fake lies on the line between a real and a translated map; alpha, (N,) in
    [0, 1], is drawn once per sample and the norm is taken over the whole sample (Gulrajani et al. 2017).
    """
    alpha = alpha.view(-1, 1, 1, 1)
    between = (alpha * real + (1 - alpha) * fake).detach().requires_grad_(True)  # (N, C, H, W)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def adversarial_translator(fake_scores: torch.Tensor) -> torch.Tensor:
    """Eq. (1) as the translator sees it: it maximises E[D(G(x))], so it minimises the negative."""
    return -fake_scores.mean()


def cycle(returned: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Eq. (2), one of its two terms: ‖G_X(G_Y(x)) - x‖₁, the mean over all elements.

    Below level 5 both translators are conditioned on level i+1: ‖G_A(G_B(a_i, b̃_{i+1}), a_{i+1}) - a_i‖₁.
    """
    return F.l1_loss(returned, x)


def identity(mapped: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Eq. (3), one of its two terms: ‖G_X(x) - x‖₁, the mean over all elements.

    Below level 5 conditioned: ‖G_A(a_i, a_{i+1}) - a_i‖₁.
    """
    return F.l1_loss(mapped, x)


def total(
    adversarial: torch.Tensor,
    cycles: torch.Tensor,
    identities: torch.Tensor,
    *,
    lambda_cycle: float = 100.0,
    lambda_identity: float = 100.0,
) -> torch.Tensor:
    """Eq. (4): the adversarial terms plus the weighted cycle and identity terms, each summed over both directions."""
    return adversarial + lambda_cycle * cycles + lambda_identity * identities


def least_squares_real(scores: torch.Tensor) -> torch.Tensor:
    """(D(x) - 1)², the least-squares adversarial loss towards "real" (Mao et al. 2017)."""
    return (scores - 1).square().mean()


def least_squares_fake(scores: torch.Tensor) -> torch.Tensor:
    """D(x)², the least-squares adversarial loss towards "not real" (Mao et al. 2017)."""
    return scores.square().mean()


def least_squares_critic(fake_scores: torch.Tensor, real_scores: torch.Tensor) -> torch.Tensor:
    """D(G(x))² + (D(y) - 1)², what a least-squares critic minimises (Mao et al. 2017), twice their eq. (2)."""
    return least_squares_fake(fake_scores) + least_squares_real(real_scores)


def reconstruction(made: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """‖decode(z) - x‖₁, the mean over all elements: a VAE's reconstruction term under Laplace noise (§4.3)."""
    return F.l1_loss(made, x)


def kl(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² - 1 - log σ²), in nats, the mean over the batch (§4.3).

    mean, log_variance: μ and log σ², (N, latent) each. Source: Kingma & Welling 2013, eq. (10) and appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()

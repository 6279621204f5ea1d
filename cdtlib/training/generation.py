"""Training DEEP-VAE (paper §4.3): the VAE of level 5, and the generators of the shallower levels."""

import copy
import math
import warnings
from collections.abc import Callable

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from cdtlib import losses, processes
from cdtlib.features.store import FeatureStore
from cdtlib.models.blocks import kaiming
from cdtlib.models.critic import Critic
from cdtlib.models.vae import VAE, ConditionalGenerator, Mixture
from cdtlib.processes import noise_like, share
from cdtlib.settings import Generation
from cdtlib.training.common import autocast, average


def train_vae(run, store: FeatureStore, shape: tuple[int, int, int], settings: Generation) -> VAE:
    """Learn codes of the level-5 maps, of `shape` (C, H, W), of one domain: reconstruction L1 + β KL.

    Both terms are sums over a map divided by its number of elements: β is the scale of the Laplace noise for which
    this is the evidence lower bound (Kingma & Welling 2013, eq. 10), whatever the map's size.
    """
    device = run.device
    vae = kaiming(make_vae(shape, settings)).to(device, memory_format=torch.channels_last)
    averaged = copy.deepcopy(vae).requires_grad_(False)
    rate = settings.learning_rate[5]
    opt = torch.optim.Adam(vae.parameters(), lr=rate, betas=settings.betas, fused=True)
    run.track(vae=averaged)
    run.track_training(training_vae=vae, opt=opt)
    steps = steps_of(settings, 5, len(store))
    for step in run.steps(steps):
        rows = share(torch.randint(len(store), (settings.batch,), device=device))
        x = store.level(5, rows, device)  # (B, C, s, s)
        with autocast(settings.precision, device):
            mean, log_variance = (y.float() for y in vae.encode(x))  # (B, latent) each
            made = vae.decode(drawn(mean, log_variance, noise_like)).float()
        reconstruction, kl = losses.reconstruction(made, x), losses.kl(mean, log_variance)
        opt.zero_grad()
        (reconstruction + settings.beta * kl / math.prod(shape)).backward()
        opt.step()
        average(averaged, vae, settings.ema, step)
        run.log(reconstruction=reconstruction, kl=kl)
        if step == steps - 1 and settings.components:
            fit_prior(averaged.prior, codes_of(averaged, store, 5))
    return averaged.eval()


def train_prior(run, prior: Mixture, codes: Callable[[], torch.Tensor]) -> Mixture:
    """One step: fit the prior of all levels together to `codes()`, (N, latent + …), those of the training maps."""
    run.track(prior=prior)
    for _ in run.steps(1):
        run.log(log_likelihood=fit_prior(prior, codes()))
    return prior


def fit_prior(prior: Mixture, codes: torch.Tensor) -> float:
    """Fit a mixture of Gaussians to codes (N, latent); returns their mean log-likelihood.

    The KL term asks each map's code to look like N(0, I), but their aggregate does not (maps with one animal and with
    two lie apart), and a code from between decodes to no animal. Source: Ghosh et al. 2020, §4, who fit ten Gaussians.
    """
    mixture = GaussianMixture(len(prior.weights), reg_covar=1e-3, max_iter=200, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture near the best will do
        mixture.fit(codes.double().cpu().numpy())
    prior.weights.copy_(torch.from_numpy(mixture.weights_))
    prior.means.copy_(torch.from_numpy(mixture.means_))
    prior.factors.copy_(torch.linalg.cholesky(torch.from_numpy(mixture.covariances_)))
    return float(mixture.lower_bound_)


@torch.no_grad()
def codes_of(network: VAE | ConditionalGenerator, store: FeatureStore, level: int, batch: int = 256) -> torch.Tensor:
    """A code of each of the store's maps of a level, drawn from its Gaussian: (N, latent)."""
    device = network.prior.means.device
    rows = (slice(start, start + batch) for start in range(0, len(store), batch))
    return torch.cat([drawn(*network.encode(store.level(level, r, device))) for r in rows])


def make_vae(shape: tuple[int, int, int], s: Generation) -> VAE:
    """The VAE of level-5 maps of `shape` (C, H, W)."""
    return VAE(*shape[:2], s.width[5], s.halvings, s.hidden, s.latent, max(1, s.components))


def train_generator(
    run, level: int, store: FeatureStore, deeper: Callable, shape: tuple, deeper_channels: int, s: Generation
) -> ConditionalGenerator:
    """Learn level i < 5, maps of `shape` (C, H, W), from level i+1: WGAN-GP (eq. 1), and L1 to the own map + β KL.

    `deeper(rows, n)` gives level i+1 as it is synthesised, in [-1, 1]: from the own codes of these rows of the store,
    then from n codes of the prior; of several processes, each is given its share of both (see `cdtlib.processes`).
    So a generator sees what it will be given, never a real deeper map. Its own codes are those of real maps of level i:
    of the row itself or, where the deeper map has no row, of any. What has a row is compared with its map; after
    `reconstruction_first` such updates the critic judges all. Source: the conditional VAE-GAN of BicycleGAN (Zhu et al.
    2017); without the code, L1 would ask for the mean of all colours.
    """
    device = run.device

    def placed(network):
        return network.to(device, memory_format=torch.channels_last)

    generator = placed(kaiming(make_generator(level, shape, deeper_channels, s)))
    critic = placed(kaiming(Critic(*shape[:2], s.critic_width[level])))
    averaged = copy.deepcopy(generator).requires_grad_(False)
    adam = {"lr": s.learning_rate[level], "betas": s.betas, "fused": True}
    opt, opt_critic = (torch.optim.Adam(network.parameters(), **adam) for network in (generator, critic))
    run.track(generator=averaged)
    run.track_training(training_generator=generator, critic=critic, opt=opt, opt_critic=opt_critic)

    half, steps = s.batch // 2, steps_of(s, level, len(store))
    same = half // processes.world()  # as many of a process's share are of the first half

    def batch(free: int = s.batch - half):
        """(maps, what is made with their codes, the KL term of these); all but the last `free` are to be the same."""
        rows = torch.randint(len(store), (half + free,), device=device)
        x = store.level(level, share(rows), device)  # (B, C, 2s, 2s)
        with autocast(s.precision, device):
            mean, log_variance = (y.float() for y in generator.encode(x))  # (B, latent) each
            made = generator(drawn(mean, log_variance, noise_like), deeper(rows[:half], free)).float()
        return x, made, losses.kl(mean, log_variance)

    for step in run.steps(steps):
        values, adversarially = {}, step >= s.reconstruction_first
        critic.requires_grad_(True)
        for _ in range(s.critic_steps if adversarially else 0):
            with torch.no_grad():
                x, made, _ = batch()
            critic_loss = losses.adversarial_critic(*critic(torch.cat([made, x])).chunk(2))
            alpha = share(torch.rand(s.batch, device=device))
            penalty = losses.gradient_penalty(critic, x, made, alpha)
            opt_critic.zero_grad()
            (critic_loss + s.lambda_gp * penalty).backward()
            opt_critic.step()
            values = {"critic": critic_loss, "penalty": penalty}

        critic.requires_grad_(False)
        x, made, kl = batch() if adversarially else batch(free=0)
        if adversarially:
            values["adversarial"] = losses.adversarial_translator(critic(made))
        reconstruction = losses.reconstruction(made[:same], x[:same])
        opt.zero_grad()
        (values.get("adversarial", 0.0) + s.lambda_reconstruction * (reconstruction + s.beta_below * kl)).backward()
        opt.step()
        average(averaged, generator, s.ema, step)
        run.log(**values, reconstruction=reconstruction, kl=kl)
        if step == steps - 1 and s.components:
            fit_prior(averaged.prior, codes_of(averaged, store, level))
    return averaged.eval()


def make_generator(level: int, shape: tuple, deeper_channels: int, s: Generation) -> ConditionalGenerator:
    """The generator of maps of `shape` (C, H, W) of level i < 5."""
    return ConditionalGenerator(shape[0], deeper_channels, s.width[level], s.style, s.style_width, s.latent_below)


def drawn(mean: torch.Tensor, log_variance: torch.Tensor, noise: Callable = torch.randn_like) -> torch.Tensor:
    """Codes from N(μ, σ²): z = μ + σ ε, so that gradients reach μ and σ (Kingma & Welling 2013, §2.4).

    `noise` gives ε: `processes.noise_like` where these are a share of a batch.
    """
    return mean + (0.5 * log_variance).exp() * noise(mean)


def steps_of(settings: Generation, level: int, rows: int) -> int:
    """Updates: a generator's without its critic, and `settings.epochs` passes over the rows of a domain."""
    first = settings.reconstruction_first if level < 5 else 0
    return first + math.ceil(settings.epochs[level] * rows / settings.batch)

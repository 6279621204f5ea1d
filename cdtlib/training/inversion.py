"""Training an inverter (paper §3, "Feature inversion"; losses after Dosovitskiy & Brox 2016)."""

import copy
from functools import partial

import torch
from torch.nn import functional as F

from cdtlib import losses
from cdtlib.features.backbones import Backbone
from cdtlib.features.store import FeatureStore
from cdtlib.models.blocks import initialise, kaiming
from cdtlib.models.critic import PatchCritic
from cdtlib.models.inverter import Inverter
from cdtlib.processes import mean, noise_like, share
from cdtlib.settings import Inversion
from cdtlib.training.common import Adam, autocast, average, captured


def train_inverter(run, store: FeatureStore, level: int, backbone: Backbone, settings: Inversion) -> Inverter:
    """Learn pictures from the normalised maps of `level` of one domain.

    Loss: image L1 + feature term (squared error of the ReLU of conv_i_1 relative to its size, weighted by level) +
    least-squares adversarial term of a PatchGAN, switched on after `adversarial_start` of the steps. Returns the
    averaged network.
    """
    device = run.device
    channels = backbone.channels[level]
    halvings = backbone.architecture.halvings[level]
    network = kaiming(Inverter(channels, settings.width[level], halvings, settings.refine))
    # The first pictures are grey, where tanh has a slope. With Kaiming's weights here, too, it saturated in the first
    # steps of some seeds (half of them at the demo's level 4), and the network stayed there.
    initialise(network.layers[-1])
    network = network.to(device, memory_format=torch.channels_last)
    averaged = copy.deepcopy(network).requires_grad_(False)
    critic = initialise(PatchCritic(settings.critic_width)).to(device, memory_format=torch.channels_last)
    opt, opt_critic = (Adam(n.parameters(), settings.learning_rate[level], settings.betas) for n in (network, critic))
    run.track(network=averaged)
    run.track_training(training_network=network, critic=critic, opt=opt, opt_critic=opt_critic)
    steps, crop, noise = settings.steps[level], settings.crop.get(level, 1), settings.noise.get(level, 0.0)
    n = len(store)
    feature_weights = {i: weight for i, weight in settings.feature_weights.items() if weight}
    deepest = max(feature_weights)

    def update(x, image, adversarially):
        """An update of the network and, once it is asked, of the critic."""
        with autocast(settings.precision, device):
            made = network(x).float()
            with torch.no_grad():
                wanted = backbone(image, deepest)
            got = backbone(made, deepest)
        image_loss = F.l1_loss(made, image)
        feature_loss = sum(
            weight * relative_squared_error(got[i].float().relu(), wanted[i].float().relu())
            for i, weight in feature_weights.items()
        ) / sum(feature_weights.values())
        loss = settings.image_weight * image_loss + settings.feature_weight * feature_loss
        values = {"image": image_loss, "feature": feature_loss}
        if adversarially:
            critic.requires_grad_(True)
            with autocast(settings.precision, device):
                real, fake = critic(image).float(), critic(made.detach()).float()
            critic_loss = losses.least_squares_critic(fake, real)
            opt_critic.zero_grad()
            critic_loss.backward()
            opt_critic.step()
            critic.requires_grad_(False)
            with autocast(settings.precision, device):
                adversarial = losses.least_squares_real(critic(made).float())
            loss = loss + settings.adversarial_weight * adversarial
            values |= {"adversarial": adversarial, "critic": critic_loss}
        opt.zero_grad()
        loss.backward()
        opt.step()
        return {name: value.detach() for name, value in values.items()}

    updates = captured(device, partial(update, adversarially=False), partial(update, adversarially=True))
    for step in run.steps(steps):
        rows = share(torch.randint(n, (settings.batch,), device=device))
        x = store.level(level, rows, device)  # (B, C, s, s)
        if noise:
            x = (x + noise * noise_like(x)).clamp(-1, 1)
        image = store.images(rows, device)  # (B, 3, H, W)
        if crop > 1:
            x, image = window(x, image, crop, 2 ** len(halvings))
        adversarially = settings.adversarial_weight > 0 and step >= settings.adversarial_start * steps
        run.log(**updates[adversarially](x, image))
        average(averaged, network, settings.ema, step)
    return averaged.eval()


def relative_squared_error(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """‖got - wanted‖² / ‖wanted‖²: the same for every backbone and level, whatever the range of its features.

    The norms are those of the whole batch: of several processes, each divides by the mean of all.
    """
    return (got - wanted).square().sum() / mean(wanted.square().sum()).clamp_min(1e-12)


def window(
    x: torch.Tensor, image: torch.Tensor, crop: int, scale: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same random square, 1 / crop of the side, of feature maps (B, C, s, s) and pictures (B, 3, H, H).

    A cell of the map is `scale` pixels, H / s if it is not given; what H has more, a window's picture has, too.
    """
    side, scale = x.shape[-1] // crop, scale or image.shape[-1] // x.shape[-1]
    pixels = scale * side + image.shape[-1] - scale * x.shape[-1]
    top, left = (int(v) for v in torch.randint(x.shape[-1] - side + 1, (2,)))
    return (
        x[..., top : top + side, left : left + side],
        image[..., scale * top : scale * top + pixels, scale * left : scale * left + pixels],
    )

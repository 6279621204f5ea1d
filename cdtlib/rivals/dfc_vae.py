"""DFC-VAE (Hou et al. 2017): a VAE whose pictures are compared as a classification network sees them."""

from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cdtlib import losses
from cdtlib.features.backbones import BACKBONES, Backbone
from cdtlib.models.blocks import initialise
from cdtlib.rivals.common import Generating, batched, draw
from cdtlib.settings import Level, Positive, Precision, Share, Strict, Weight
from cdtlib.training.common import autocast, set_rate

SAMPLE = 64  # training pictures that a backbone's own size is measured on


class Options(Strict):
    """Its settings; the defaults are the paper's and its authors' code's."""

    steps: Positive = 15_830  # the authors' 5 passes over CelebA's 202,599 faces
    halvings: Annotated[int, Field(ge=0)] = 4  # of the learning rate: after each of these passes but the last
    batch: Annotated[int, Field(ge=2)] = 64  # batch normalisation needs more than one
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    betas: tuple[Share, Share] = (0.5, 0.999)
    width: Positive = 32  # channels of the first convolution
    latent: Positive = 100
    # What is compared: the ReLU of conv_1_1, conv_2_1 and conv_3_1 (the authors' VAE-123), each with the root mean
    # square that it has in the authors' VGG-19, measured on 72 photos of animals of 128 pixels (see `scales_of`).
    sizes: dict[Level, Annotated[float, Field(gt=0)]] = {1: 43.0, 2: 211.0, 3: 271.0}
    alpha: Weight = 64.0  # weight of the KL term; the paper's is 1, but the authors' code sums it over the batch
    beta: Weight = 0.5  # weight of the feature perceptual loss
    precision: Precision = "fp32"


class Model(nn.Module):
    """The auto-encoder.

    `encode`: pictures (N, 3, size, size) in [-1, 1] → mean and log-variance of the code, (N, latent) each.
    `decode`: codes (N, latent) → pictures, of about that range: its last layer is linear, as published.

    Pictures are halved until less than 8 cells wide: four times at 64 pixels, as in the paper, and five times at 128,
    as in the authors' code, whose fifth halving widens no more, while its decoder begins twice as wide.
    """

    def __init__(self, size: int, width: int = 32, latent: int = 100):
        super().__init__()
        sides = [size]
        while sides[-1] >= 8:
            sides.append(sides[-1] // 2)
        levels, coarsest = len(sides) - 1, sides[-1]
        down = [width * min(2**i, 8) for i in range(levels)]
        up = [width * 2**i for i in reversed(range(levels))]

        encoder = []
        for c, following in zip([3, *down], down, strict=False):
            encoder += [nn.Conv2d(c, following, 4, stride=2, padding=1), nn.BatchNorm2d(following), nn.LeakyReLU(0.2)]
        self.encoder = nn.Sequential(*encoder, nn.Flatten())
        self.mean, self.log_variance = (nn.Linear(down[-1] * coarsest**2, latent) for _ in range(2))

        decoder = [nn.Linear(latent, up[0] * coarsest**2), nn.ReLU(), nn.Unflatten(1, (up[0], coarsest, coarsest))]
        for c, following, side in zip(up, [*up[1:], 3], sides[-2::-1], strict=True):
            decoder += [nn.Upsample(side), nn.Conv2d(c, following, 3, padding=1, padding_mode="replicate")]
            decoder += [nn.BatchNorm2d(following, eps=1e-3), nn.LeakyReLU(0.2)]
        self.decoder = nn.Sequential(*decoder[:-2])  # the last layer is the convolution alone

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.encoder(x)
        return self.mean(x), self.log_variance(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(z)


def perceptual(
    made: dict[int, torch.Tensor], wanted: dict[int, torch.Tensor], scales: dict[int, float]
) -> torch.Tensor:
    """Σ_l mean((Φ^l(x̄) - Φ^l(x))²), the feature perceptual loss (§3), from a backbone's maps by level.

    Φ^l(x) is the ReLU of level l, times the level's factor in `scales` (see `scales_of`).
    """
    return sum(scale**2 * F.mse_loss(made[i].float().relu(), wanted[i].float().relu()) for i, scale in scales.items())


@torch.no_grad()
def scales_of(backbone: Backbone, images: torch.Tensor, sizes: dict[int, float]) -> dict[int, float]:
    """By level, the factor that brings a backbone's features of `images` to the root mean square in `sizes`.

    How much the KL term weighs depends on their size. The authors' VGG-19 is the original one (Simonyan & Zisserman
    2015), given grey values; the embedded one's features are fifty to three hundred times smaller.
    """
    maps = backbone(images, max(sizes))
    return {i: size / maps[i].relu().square().mean().sqrt().item() for i, size in sizes.items()}


# Most of the loss, of the same size as published, is level 1's. So few steps by levels 2 and 3 end in a texture that is
# the same everywhere: 1,250 steps at the published sizes gave that, and a code of 10 nats; 490 of these gave a layout.
_SIZES = {1: 300.0, 2: 120.0, 3: 120.0}

# Small batches for more steps, at a larger rate: some 15 minutes of a CPU core, as long as DEEP-VAE's
_PHOTOS = {"steps": 1800, "batch": 8, "learning_rate": 2e-3, "sizes": _SIZES, "precision": "bf16"}


class DFCVAE(Generating):
    """Trained with `Options`; draws pictures from codes of N(0, I)."""

    name = "DFC-VAE"
    Options = Options
    PROFILES = {
        "photos": _PHOTOS,
        "photos-gpu": _PHOTOS,
        # At half the width three minutes. Levels 2 and 3 of the embedded backbone hardly see colours, too, and take a
        # chequerboard of pixels for stripes.
        "demo": _PHOTOS | {"steps": 2100, "width": 16},
        "smoke": {"steps": 4, "batch": 4, "width": 4, "latent": 8},
    }

    @cached_property
    def fitted(self) -> Model:
        """The trained auto-encoder."""
        o, pictures = self.options, self.training_pictures
        backbone = BACKBONES[self.settings.backbone]()
        inputs = {"pictures": pictures.id, "backbone": backbone.fingerprint}
        with self.run(self.domain["train"].name, inputs) as run:
            model = initialise(Model(self.settings.data.size, o.width, o.latent))
            model.to(run.device, memory_format=torch.channels_last)
            opt = torch.optim.Adam(model.parameters(), lr=o.learning_rate, betas=o.betas, fused=True)
            run.track(model=model, opt=opt)
            if not run.reused:
                pictures.resident("images", device=run.device)
                backbone.to(run.device, memory_format=torch.channels_last)
                scales = scales_of(backbone, pictures.images(pictures.originals()[:SAMPLE], run.device), o.sizes)
            for step in run.steps(o.steps):
                set_rate(o.learning_rate * halved(step, o.steps, o.halvings), opt)
                x = draw(pictures, o.batch, run.device)  # (B, 3, H, W)
                with autocast(o.precision, run.device):
                    mean, log_variance = (y.float() for y in model.encode(x))  # (B, latent) each
                    z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
                    made = backbone(model.decode(z).float(), max(o.sizes))
                    with torch.no_grad():
                        wanted = backbone(x, max(o.sizes))
                kl, feature = losses.kl(mean, log_variance), perceptual(made, wanted, scales)
                opt.zero_grad()
                (o.alpha * kl + o.beta * feature).backward()
                opt.step()
                run.log(feature=feature, kl=kl)
        return model.eval().requires_grad_(False)

    def fit(self) -> "DFCVAE":
        self.fitted  # noqa: B018 (found or trained when it is first asked for)
        return self

    def sample(self, n: int, seed: int = 0) -> torch.Tensor:
        return self._decode(torch.randn(n, self.options.latent, generator=torch.Generator().manual_seed(seed)))

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        return self._decode(self._encode(images))

    def interpolate(self, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
        return self._decode(torch.lerp(self._encode(x), self._encode(y), t))

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures → the means of their codes, (N, latent)."""
        model = self.fitted
        return batched(lambda x: model.encode(x)[0], images, self.device)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        return batched(self.fitted.decode, codes, self.device).clamp(-1, 1)


def halved(step: int, steps: int, halvings: int) -> float:
    """Factor of the learning rate: the steps are cut into `halvings` + 1 parts, and it is halved after each."""
    return 0.5 ** (step * (halvings + 1) // steps)

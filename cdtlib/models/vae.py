"""DEEP-VAE's networks (paper §4.3): a VAE of the deepest level, and conditional ones of the shallower levels."""

import torch
from torch import nn

from cdtlib.models.blocks import double, halve
from cdtlib.models.translator import Conditional, pooled


class Mixture(nn.Module):
    """A mixture of Gaussians over codes (N, latent), from which new codes are drawn; N(0, I) until it is fitted."""

    def __init__(self, latent: int, components: int):
        super().__init__()
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, latent))
        # Times its own transpose, each is a covariance.
        self.register_buffer("factors", torch.eye(latent).repeat(components, 1, 1))

    def draw(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """n codes, drawn on the CPU by `generator` or the global one: the same on every device."""
        chosen = torch.multinomial(self.weights.cpu(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], 1, generator=generator)
        chosen, noise = chosen.to(self.means.device), noise.to(self.means.device)
        return self.means[chosen] + (self.factors[chosen] @ noise).squeeze(2)


class VAE(nn.Module):
    """Variational auto-encoder of one domain's level-5 maps (Kingma & Welling 2013).

    `encode`: maps (N, channels, side, side) in [-1, 1] → mean and log-variance of the code, (N, latent) each.
    `decode`: codes (N, latent) → maps of that shape and range. Strided convolutions and a fully connected layer down,
    the same back up; GroupNorm and ReLU, tanh at the end. New codes come from `prior`.
    """

    def __init__(
        self,
        channels: int,  # of the feature map
        side: int,  # of the feature map
        width: int,  # channels inside
        halvings: int,  # strided convolutions: two make 14 → 7 → 4
        hidden: int,  # length of the fully connected layer
        latent: int,  # length of the code
        components: int = 1,  # Gaussians of the prior
    ):
        super().__init__()
        groups = min(32, width // 4)

        def normalised(layer):
            return nn.Sequential(layer, nn.GroupNorm(groups, width), nn.ReLU())

        sides = [side]
        down = [normalised(nn.Conv2d(channels, width, 3, padding=1))]
        for _ in range(halvings):
            down.append(normalised(halve(width, width)))
            sides.append((sides[-1] + 1) // 2)
        coarsest = (width, sides[-1], sides[-1])
        flat = width * sides[-1] ** 2
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, flat), nn.ReLU(), nn.Unflatten(1, coarsest),
            *(normalised(double(width, width, s)) for s in reversed(sides[:-1])),
            normalised(nn.Conv2d(width, width, 3, padding=1)),
            nn.Conv2d(width, channels, 3, padding=1),
        )  # fmt: skip
        self.prior = Mixture(latent, components)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(x).chunk(2, dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.decoder(z))


class ConditionalGenerator(Conditional):
    """Level i < 5 without a source picture, given level i+1 (§4.3, "in a cascaded fashion").

    `encode`: maps of level i, (N, channels, 2s, 2s) in [-1, 1] → mean and log-variance of their code, (N, latent) each.
    Call with codes (N, latent), from there or from `prior`, and level i+1, (N, deeper_channels, s, s) in [-1, 1]:
    returns maps of level i. It is the `ConditionalTranslator` with a bottleneck in its style branch, so that styles can
    be drawn. The mean of `deeper` joins the code: AdaIN's normalisation takes it from the content, and both must fit.
    """

    def __init__(
        self,
        channels: int,  # of level i
        deeper_channels: int,  # of level i+1
        width: int,  # channels of the content branch
        style: int,  # length of the style vector
        style_width: int,  # channels of the style branch
        latent: int,  # length of the code
    ):
        branch = nn.Sequential(
            nn.Linear(latent + deeper_channels, style), nn.ReLU(),
            nn.Linear(style, style), nn.ReLU(),
            nn.Linear(style, style), nn.ReLU(),
        )  # fmt: skip
        super().__init__(branch, channels, deeper_channels, width, style)
        self.encoder = nn.Sequential(
            *pooled(channels, style_width), nn.Linear(style_width, style), nn.ReLU(), nn.Linear(style, 2 * latent)
        )
        self.prior = Mixture(latent, 1)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(x).chunk(2, dim=1)

    def forward(self, code: torch.Tensor, deeper: torch.Tensor) -> torch.Tensor:
        return self.render(deeper, self.style(torch.cat([code, deeper.mean((2, 3))], dim=1)))

"""DRIT (Lee et al. 2018): contents of both domains in one space, attributes each in its own, and a cross-cycle."""

import math
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cdtlib.cascade import OTHER
from cdtlib.models.blocks import InstanceNorm
from cdtlib.rivals.common import Translating, draw, linear_decay
from cdtlib.rivals.cyclegan import Residual
from cdtlib.rivals.munit import MultiScaleCritic, beside, deviation, padded, reconstruction, style_encoder
from cdtlib.settings import Positive, Precision, Share, Strict, Weight
from cdtlib.training.common import Adam, autocast, captured, set_rate


class Options(Strict):
    """Attributes enter by a perceptron and without mode seeking (in the authors' code `--concat 0 --no_ms`)."""

    epochs: Annotated[float, Field(gt=0)] = 1200.0  # passes over the larger domain, half of them at a falling rate
    batch: Annotated[int, Field(gt=0, multiple_of=2)] = 2  # half of it is only shown to critics
    content_steps: Annotated[int, Field(ge=0)] = 2  # batches that teach only the content critic, before each other one
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    content_learning_rate: Annotated[float, Field(gt=0)] = 4e-5  # of the content critic
    betas: tuple[Share, Share] = (0.5, 0.999)
    weight_decay: Weight = 1e-4
    clip: Annotated[float, Field(gt=0)] = 5.0  # largest norm of the content critic's gradient
    width: Positive = 64  # channels of the first convolution
    attribute: Positive = 8  # length of the attribute code
    hidden: Positive = 256  # width of the perceptron between attribute code and decoder
    critic_width: Positive = 64
    lambda_content: Weight = 1.0  # of the content critic
    lambda_cross: Weight = 10.0
    lambda_self: Weight = 10.0
    lambda_latent: Weight = 10.0
    lambda_prior: Weight = 0.01
    precision: Precision = "fp32"


def content_encoder(width: int) -> nn.Sequential:
    """A domain's own layers: pictures (N, 3, H, W) in [-1, 1] → maps (N, 4 width, H/4, W/4)."""
    layers = [*padded(3, width, 7), nn.LeakyReLU(0.01)]
    for c in (width, 2 * width):
        layers += [*padded(c, 2 * c, 3, 2), InstanceNorm(2 * c), nn.ReLU()]
    return nn.Sequential(*layers, *(Residual(4 * width) for _ in range(3)))


class Noise(nn.Module):
    """x + N(0, 1), in training only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x) if self.training else x


class AttributedResidual(nn.Module):
    """x + two rounds of: a normalised 3×3 convolution, then two 1×1 convolutions of it and the attribute everywhere.

    Maps (N, channels, h, w), attribute (N, channels).
    """

    def __init__(self, channels: int):
        super().__init__()
        both = 2 * channels
        self.convolutions = nn.ModuleList(
            nn.Sequential(*padded(channels, channels, 3), InstanceNorm(channels)) for _ in range(2)
        )
        self.merges = nn.ModuleList(
            nn.Sequential(nn.Conv2d(both, both, 1), nn.ReLU(), nn.Conv2d(both, channels, 1), nn.ReLU())
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor, attribute: torch.Tensor) -> torch.Tensor:
        attribute, y = attribute[:, :, None, None].expand_as(x), x
        for convolution, merge in zip(self.convolutions, self.merges, strict=True):
            y = merge(torch.cat([convolution(y), attribute], dim=1))
        return x + y


class Decoder(nn.Module):
    """One domain's generator.

    Content (N, 4 width, h, w) and attribute (N, attribute), any range → pictures (N, 3, 4h, 4w) in [-1, 1].
    """

    def __init__(self, width: int, attribute: int, hidden: int):
        super().__init__()
        blocks = 4  # residual ones
        self.perceptron = nn.Sequential(
            nn.Linear(attribute, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, blocks * 4 * width),
        )  # fmt: skip
        self.blocks = nn.ModuleList(AttributedResidual(4 * width) for _ in range(blocks))
        layers = []
        for c in (4 * width, 2 * width):
            up = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)
            layers += [up, nn.GroupNorm(1, c // 2), nn.ReLU()]  # one group: layer normalisation
        self.picture = nn.Sequential(*layers, nn.Conv2d(width, 3, 1), nn.Tanh())

    def forward(self, content: torch.Tensor, attribute: torch.Tensor) -> torch.Tensor:
        attributes = self.perceptron(attribute).chunk(len(self.blocks), dim=1)
        y = content
        for block, part in zip(self.blocks, attributes, strict=True):
            y = block(y, part)
        return self.picture(y)


class Model(nn.Module):
    """Encoders of content and attribute and decoders of both domains; the last content layers are shared (§3.1).

    `content`: pictures (N, 3, H, W) of `side` in [-1, 1] → (N, 4 width, H/4, W/4), with noise in training.
    """

    def __init__(self, width: int = 64, attribute: int = 8, hidden: int = 256):
        super().__init__()
        self.code = attribute
        self.contents = nn.ModuleDict({side: content_encoder(width) for side in "ab"})
        self.shared = nn.Sequential(Residual(4 * width), Noise())
        self.attribute = nn.ModuleDict({side: style_encoder(width, attribute) for side in "ab"})
        self.decode = nn.ModuleDict({side: Decoder(width, attribute, hidden) for side in "ab"})

    def content(self, x: torch.Tensor, side: str) -> torch.Tensor:
        return self.shared(self.contents[side](x))

    def forward(self, x: torch.Tensor, to: str, z: torch.Tensor) -> torch.Tensor:
        return self.decode[to](self.content(x, OTHER[to]), z)


class ContentCritic(nn.Module):
    """Tells whose content it is: maps (N, channels, side, side) → scores (N, 1, h, w), high for domain b (§3.1).

    The side at the published 216 pixels, 54, becomes 25, 11, 4, 1. Smaller maps take fewer of the halving convolutions.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        layers = []
        while side > 8:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 7, stride=2), nn.LeakyReLU(0.01)]
            side = (side - 5) // 2 + 1
        layers += [nn.Conv2d(channels, channels, min(4, side)), nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).float()


def gaussian(network: nn.Module, width: int) -> nn.Module:
    """Convolutions' weights from N(0, deviation²) for this width; biases and perceptrons stay as PyTorch draws them."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, deviation(width))
    return network


def towards(scores: torch.Tensor, target: float) -> torch.Tensor:
    """Cross-entropy of the probabilities σ(scores) and `target`, the mean over all elements."""
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))


def critic_loss(real_scores: list[torch.Tensor], fake_scores: list[torch.Tensor]) -> torch.Tensor:
    """-E[log D(x)] - E[log(1 - D(G(…)))], the sum over the scales (§3.3, domain adversarial loss)."""
    return sum(towards(s, 1.0) for s in real_scores) + sum(towards(s, 0.0) for s in fake_scores)


def translator_loss(fake_scores: list[torch.Tensor]) -> torch.Tensor:
    """-E[log D(G(…))], the sum over the scales (§3.3)."""
    return sum(towards(s, 1.0) for s in fake_scores)


def content_critic_loss(scores_a: torch.Tensor, scores_b: torch.Tensor) -> torch.Tensor:
    """The content critic's loss: contents of a are 0, those of b 1 (§3.1)."""
    return towards(scores_a, 0.0) + towards(scores_b, 1.0)


def content_loss(scores_a: torch.Tensor, scores_b: torch.Tensor) -> torch.Tensor:
    """The encoders' content adversarial loss: least where the content critic cannot tell, at ½ (§3.1)."""
    return towards(scores_a, 0.5) + towards(scores_b, 0.5)


def prior(code: torch.Tensor) -> torch.Tensor:
    """KL(N(code, I) ‖ N(0, I)) up to a factor: the mean square (§3.3; the authors' code applies it to contents too)."""
    return code.float().square().mean()


# A quarter of the width, so a sixteenth of the work, and larger rates for few steps
_NARROW = {
    "learning_rate": 4e-4, "content_learning_rate": 1.6e-4, "precision": "bf16", "width": 16, "hidden": 64,
    "critic_width": 16,
}  # fmt: skip


class DRIT(Translating):
    """Trained with `Options`; translates the content, with a random attribute."""

    name = "DRIT"
    Options = Options
    PROFILES = {
        "photos": _NARROW | {"epochs": 9.0},  # some 30 minutes of a CPU core
        "photos-gpu": _NARROW | {  # not tried yet
            "epochs": 30.0, "learning_rate": 2e-4, "content_learning_rate": 8e-5, "width": 32, "critic_width": 32,
        },
        "demo": _NARROW | {"epochs": 4.0},  # some 15 minutes of a CPU core
        "smoke": {"epochs": 0.25, "width": 4, "hidden": 8, "critic_width": 4},
    }  # fmt: skip

    def model(self) -> Model:
        o = self.options
        return gaussian(Model(o.width, o.attribute, o.hidden), o.width)

    def steps(self, rows: int) -> int:
        """One step is one batch that teaches all, and the `content_steps` before it."""
        return math.ceil(self.options.epochs * rows / self.options.batch / (self.options.content_steps + 1))

    @property
    def seen(self) -> int:
        return self.options.batch + self.options.content_steps * (self.options.batch // 2)

    def train(self, run, model, a, b, progress) -> None:
        o, device = self.options, run.device
        model.to(memory_format=torch.channels_last)
        # Of each domain two critics: of translations with an encoded attribute, and with a random one
        critics = nn.ModuleDict({name: MultiScaleCritic(o.critic_width, slope=0.01) for name in ("a", "b", "za", "zb")})
        critics = gaussian(critics, o.critic_width).to(device)
        teller = gaussian(ContentCritic(4 * o.width, a.images([0]).shape[-1] // 4), o.width).to(device)
        adam = {"lr": o.learning_rate, "betas": o.betas, "weight_decay": o.weight_decay}
        opt_g, opt_d, opt_c = (Adam(m.parameters(), **adam) for m in (model, critics, teller))
        run.track(model=model, progress=progress)
        run.track_training(critics=critics, teller=teller, opt_g=opt_g, opt_d=opt_d, opt_c=opt_c)
        everything = list(model.parameters())
        but_attributes = [p for part in (model.contents, model.shared, model.decode) for p in part.parameters()]

        def content_of(side: str, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), autocast(o.precision, device):
                return model.content(x, side)

        def teach(content_a: torch.Tensor, content_b: torch.Tensor) -> torch.Tensor:
            """An update of the content critic."""
            with autocast(o.precision, device):
                loss = content_critic_loss(teller(content_a.detach()), teller(content_b.detach()))
            opt_c.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(teller.parameters(), o.clip)
            opt_c.step()
            return loss.detach()

        def descend(parameters: list[nn.Parameter], gradients: tuple[torch.Tensor, ...]) -> None:
            opt_g.zero_grad()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            opt_g.step()

        def update(x_a, shown_a, x_b, shown_b, z):
            """An update of all. `shown_…` are for the critics alone, beside translations with a random attribute z."""
            with autocast(o.precision, device):
                content_a, content_b = model.content(x_a, "a"), model.content(x_b, "b")
                attribute_a, attribute_b = model.attribute["a"](x_a), model.attribute["b"](x_b)
                # Decoded together: the translation, the picture itself, and a translation with a random attribute
                contents = torch.cat([content_b, content_a, content_b])
                made_a = model.decode["a"](contents, torch.cat([attribute_a, attribute_a, z.to(attribute_a)]))
                contents = torch.cat([content_a, content_b, content_a])
                made_b = model.decode["b"](contents, torch.cat([attribute_b, attribute_b, z.to(attribute_b)]))
                (u, same_a, random_a), (v, same_b, random_b) = made_a.chunk(3), made_b.chunk(3)
                # The cross-cycle: u has a's attribute and b's content, v the reverse; exchanged again, x_a and x_b
                back_a = model.decode["a"](model.content(v, "b"), model.attribute["a"](u))
                back_b = model.decode["b"](model.content(u, "a"), model.attribute["b"](v))
                z_a, z_b = model.attribute["a"](random_a), model.attribute["b"](random_b)

            pairs = {"a": (x_a, u), "b": (x_b, v), "za": (shown_a, random_a), "zb": (shown_b, random_b)}
            with autocast(o.precision, device):
                told = sum(critic_loss(*beside(critics[k], x, fake.detach())) for k, (x, fake) in pairs.items())
            opt_d.zero_grad()
            told.backward()
            opt_d.step()
            told_content = teach(content_a, content_b)

            with autocast(o.precision, device):
                fooled = {k: translator_loss(critics[k](fake)) for k, (_, fake) in pairs.items()}
                content = content_loss(teller(content_a), teller(content_b))
            cross = reconstruction(back_a, x_a) + reconstruction(back_b, x_b)
            same = reconstruction(same_a, x_a) + reconstruction(same_b, x_b)
            priors = sum(prior(code) for code in (attribute_a, attribute_b, content_a, content_b))
            latent = reconstruction(z_a, z) + reconstruction(z_b, z)
            weighted = o.lambda_cross * cross + o.lambda_self * same + o.lambda_prior * priors
            first = fooled["a"] + fooled["b"] + o.lambda_content * content + weighted
            second = fooled["za"] + fooled["zb"] + o.lambda_latent * latent
            # The authors' code takes the second gradient, which leaves out the attribute encoders, after the step with
            # the first: through weights that are not those of the forward pass any more. Here both come before.
            gradients = torch.autograd.grad(first, everything, retain_graph=True)
            later = torch.autograd.grad(second, but_attributes)
            descend(everything, gradients)
            descend(but_attributes, later)
            values = {"critic": told, "content_critic": told_content, "adversarial": sum(fooled.values())}
            values |= {"content": content, "cross": cross, "same": same, "latent": latent}
            return {name: value.detach() for name, value in values.items()}

        content_of_a, content_of_b, teach_beforehand, update = captured(
            device, partial(content_of, "a"), partial(content_of, "b"), teach, update
        )
        half, steps = o.batch // 2, progress.moments[-1]
        for step in run.steps(steps):
            decay = linear_decay(step, steps)
            set_rate(o.learning_rate * decay, opt_g, opt_d), set_rate(o.content_learning_rate * decay, opt_c)
            for _ in range(o.content_steps):
                content_a = content_of_a(draw(a, half, device))
                teach_beforehand(content_a, content_of_b(draw(b, half, device)))
            halves = (x for s in (a, b) for x in draw(s, o.batch, device).chunk(2))
            values = update(*halves, torch.randn(half, o.attribute, device=device))
            progress.look(model, step)
            run.log(**values)

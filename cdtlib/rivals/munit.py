"""MUNIT (Huang et al. 2018): a picture is a content and a style; a translation keeps its content, in a random style."""

import itertools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cdtlib import losses
from cdtlib.cascade import OTHER
from cdtlib.models.blocks import AdaIN, InstanceNorm, initialise, kaiming
from cdtlib.rivals.common import Translating, draw
from cdtlib.rivals.cyclegan import Residual
from cdtlib.settings import Positive, Precision, Share, Strict, Weight
from cdtlib.training.common import Adam, autocast, captured, set_rate


class Options(Strict):
    """Its settings; the defaults are the authors'."""

    steps: Positive = 1_000_000
    batch: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    halving: Positive = 100_000  # steps after which the learning rate is halved, again and again
    betas: tuple[Share, Share] = (0.5, 0.999)
    weight_decay: Weight = 1e-4
    width: Positive = 64  # channels of the first convolution
    blocks: Positive = 4  # residual blocks of a content encoder, and as many of a decoder
    style: Positive = 8  # length of the style code
    hidden: Positive = 256  # width of the perceptron between style code and AdaIN
    critic_width: Positive = 64
    lambda_image: Weight = 10.0
    lambda_content: Weight = 1.0
    lambda_style: Weight = 1.0
    precision: Precision = "fp32"


def padded(c_in: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Layers of a convolution padded by reflection: spatial side s → s / stride, s divisible by it."""
    return [nn.ReflectionPad2d((kernel - 1) // 2), nn.Conv2d(c_in, c_out, kernel, stride)]


def style_encoder(width: int, style: int) -> nn.Sequential:
    """Pictures (N, 3, H, W) in [-1, 1] → style codes (N, style), any range. No normalisation: it would take away the
    means and variances that make a style (§5.1)."""
    layers = [*padded(3, width, 7), nn.ReLU()]
    for c_in, c_out in itertools.pairwise([width, 2 * width, 4 * width, 4 * width, 4 * width]):
        layers += [*padded(c_in, c_out, 4, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * width, style, 1), nn.Flatten())


class StyledResidual(nn.Module):
    """x + two 3×3 convolutions of x, padded by reflection, with AdaIN: maps (N, channels, h, w), hidden (N, hidden)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.first, self.second = (nn.Sequential(*padded(channels, channels, 3)) for _ in range(2))
        self.adain = nn.ModuleList(AdaIN(channels, hidden) for _ in range(2))

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.adain[0](self.first(x), hidden))
        return x + self.adain[1](self.second(y), hidden)


class AutoEncoder(nn.Module):
    """One domain's encoders and decoder (§3.2 and appendix B). H and W divisible by 16.

    `encode`: pictures (N, 3, H, W) in [-1, 1] → content (N, 4 width, H/4, W/4) and style (N, style), any range.
    `decode`: these → pictures of that shape and range.
    """

    def __init__(self, width: int = 64, blocks: int = 4, style: int = 8, hidden: int = 256):
        super().__init__()
        self.style = style_encoder(width, style)

        # Statistics are those of the picture itself, as the paper says; the authors' code translates with running means
        layers = [*padded(3, width, 7), InstanceNorm(width), nn.ReLU()]
        for c in (width, 2 * width):
            layers += [*padded(c, 2 * c, 4, 2), InstanceNorm(2 * c), nn.ReLU()]
        self.content = nn.Sequential(*layers, *(Residual(4 * width) for _ in range(blocks)))

        # The perceptron's last layer is the affine one of each AdaIN: it scales by 1 + what it makes of the style
        self.perceptron = nn.Sequential(
            nn.Linear(style, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
        )  # fmt: skip
        self.blocks = nn.ModuleList(StyledResidual(4 * width, hidden) for _ in range(blocks))
        layers = []
        for c in (4 * width, 2 * width):
            norm = nn.GroupNorm(1, c // 2)  # layer normalisation: unlike IN, it keeps the style's means and variances
            nn.init.uniform_(norm.weight)
            layers += [nn.Upsample(scale_factor=2), *padded(c, c // 2, 5), norm, nn.ReLU()]
        self.picture = nn.Sequential(*layers, *padded(width, 3, 7), nn.Tanh())

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.content(x), self.style(x)

    def decode(self, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        hidden, y = self.perceptron(style), content
        for block in self.blocks:
            y = block(y, hidden)
        return self.picture(y)


class Model(nn.Module):
    """The two domains' auto-encoders."""

    def __init__(self, width: int = 64, blocks: int = 4, style: int = 8, hidden: int = 256):
        super().__init__()
        self.code = style
        self.a, self.b = (AutoEncoder(width, blocks, style, hidden) for _ in "ab")

    def forward(self, x: torch.Tensor, to: str, z: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(to).decode(self.get_submodule(OTHER[to]).content(x), z)


class MultiScaleCritic(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] → scores of patches, a list of (N, 1, h, w) by scale (Wang et al. 2018).

    Each of three scales has a network of its own and half the side of the one before. A picture of less than 16 pixels
    cannot be halved four times: its scale is left out.
    """

    def __init__(self, width: int = 64, slope: float = 0.2):
        super().__init__()

        def network() -> nn.Sequential:
            layers = []
            for c_in, c_out in itertools.pairwise([3, width, 2 * width, 4 * width, 8 * width]):
                layers += [*padded(c_in, c_out, 4, 2), nn.LeakyReLU(slope)]
            return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 1))

        self.scales = nn.ModuleList(network() for _ in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        scores = []
        for network in self.scales:
            if min(x.shape[2:]) >= 16:
                scores.append(network(x).float())
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return scores


def beside(critic: MultiScaleCritic, real: torch.Tensor, fake: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], ...]:
    """The scores of real and of translated pictures, by scale; as one batch, which a critic without norms allows."""
    return tuple(zip(*(scores.chunk(2) for scores in critic(torch.cat([real, fake]))), strict=True))


def deviation(width: int) -> float:
    """Of initial weights: 0.02 at the published width, more in a narrower network, so that signals keep their size.

    Otherwise a critic without norms, four times narrower, begins with a 1/16 of what it tells pictures apart by.
    """
    return 0.02 * math.sqrt(64 / width)


def critic_loss(real_scores: list[torch.Tensor], fake_scores: list[torch.Tensor]) -> torch.Tensor:
    """E[(D(x) - 1)²] + E[D(G(c, s))²], the sum over the scales: eq. (4) with least squares (§5.1)."""
    real = sum(losses.least_squares_real(scores) for scores in real_scores)
    return real + sum(losses.least_squares_fake(scores) for scores in fake_scores)


def translator_loss(fake_scores: list[torch.Tensor]) -> torch.Tensor:
    """E[(D(G(c, s)) - 1)²], the sum over the scales: eq. (4) as the auto-encoders see it."""
    return sum(losses.least_squares_real(scores) for scores in fake_scores)


def reconstruction(made: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Eqs. (1) to (3): ‖made - x‖₁ of pictures, contents or styles, the mean over all elements."""
    return F.l1_loss(made.float(), x.float())


def total(
    adversarial: torch.Tensor,
    image: torch.Tensor,
    content: torch.Tensor,
    style: torch.Tensor,
    *,
    lambda_image: float = 10.0,
    lambda_content: float = 1.0,
    lambda_style: float = 1.0,
) -> torch.Tensor:
    """Eq. (5): each term summed over both domains, the L1 terms of eqs. (1) to (3) weighted."""
    return adversarial + lambda_image * image + lambda_content * content + lambda_style * style


# A quarter of the width, so a sixteenth of the work, and a larger rate, which falls earlier, for few steps
_NARROW = {"learning_rate": 5e-4, "precision": "bf16", "width": 16, "hidden": 64, "critic_width": 16}


class MUNIT(Translating):
    """Trained with `Options`; translates the content, with a random style."""

    name = "MUNIT"
    Options = Options
    PROFILES = {
        "photos": _NARROW | {"steps": 4_000, "halving": 1_100},  # some 30 minutes of a CPU core
        "photos-gpu": _NARROW | {  # not tried yet
            "steps": 20_000, "halving": 6_000, "learning_rate": 2e-4, "width": 32, "critic_width": 32,
        },
        "demo": _NARROW | {"steps": 2_500, "halving": 700},  # some 15 minutes of a CPU core
        "smoke": {"steps": 4, "width": 4, "blocks": 1, "hidden": 8, "critic_width": 4},
    }  # fmt: skip

    def model(self) -> Model:
        o = self.options
        return kaiming(Model(o.width, o.blocks, o.style, o.hidden))

    def steps(self, rows: int) -> int:
        return self.options.steps

    def train(self, run, model, a, b, progress) -> None:
        o, device = self.options, run.device
        model.to(memory_format=torch.channels_last)
        d_a, d_b = (initialise(MultiScaleCritic(o.critic_width), deviation(o.critic_width)).to(device) for _ in "ab")
        adam = {"lr": o.learning_rate, "betas": o.betas, "weight_decay": o.weight_decay}
        opt_g = Adam(model.parameters(), **adam)
        opt_d = Adam(itertools.chain(d_a.parameters(), d_b.parameters()), **adam)
        run.track(model=model, progress=progress)
        run.track_training(d_a=d_a, d_b=d_b, opt_g=opt_g, opt_d=opt_d)

        def update(x_a, x_b, shown_a, shown_b, s_a, s_b):
            """An update of both critics, by translations with the random styles `shown_…`, then of both auto-encoders,
            with `s_…`: (B, style) each."""
            # The authors encode anew for each of the two updates; the first does not change what is encoded
            with autocast(o.precision, device):
                (content_a, style_a), (content_b, style_b) = model.a.encode(x_a), model.b.encode(x_b)

            d_a.requires_grad_(True), d_b.requires_grad_(True)
            with autocast(o.precision, device), torch.no_grad():
                fake_a, fake_b = model.a.decode(content_b, shown_a), model.b.decode(content_a, shown_b)
            with autocast(o.precision, device):
                critics = critic_loss(*beside(d_a, x_a, fake_a)) + critic_loss(*beside(d_b, x_b, fake_b))
            opt_d.zero_grad()
            critics.backward()
            opt_d.step()

            d_a.requires_grad_(False), d_b.requires_grad_(False)
            with autocast(o.precision, device):
                contents = torch.cat([content_a, content_b])
                same_a, fake_a = model.a.decode(contents, torch.cat([style_a, s_a])).chunk(2)
                fake_b, same_b = model.b.decode(contents, torch.cat([s_b, style_b])).chunk(2)
                again_b, again_s_a = model.a.encode(fake_a)  # content of b and the random style, read off again
                again_a, again_s_b = model.b.encode(fake_b)
                adversarial = translator_loss(d_a(fake_a)) + translator_loss(d_b(fake_b))
            image = reconstruction(same_a, x_a) + reconstruction(same_b, x_b)  # eq. (1)
            content = reconstruction(again_a, content_a) + reconstruction(again_b, content_b)  # eq. (2)
            style = reconstruction(again_s_a, s_a) + reconstruction(again_s_b, s_b)  # eq. (3)
            opt_g.zero_grad()
            total(
                adversarial, image, content, style,
                lambda_image=o.lambda_image, lambda_content=o.lambda_content, lambda_style=o.lambda_style,
            ).backward()  # fmt: skip
            opt_g.step()
            values = {"critic": critics, "adversarial": adversarial, "image": image, "content": content, "style": style}
            return {name: value.detach() for name, value in values.items()}

        (update,) = captured(device, update)
        for step in run.steps(progress.moments[-1]):
            set_rate(o.learning_rate * 0.5 ** (step // o.halving), opt_g, opt_d)
            x_a, x_b = draw(a, o.batch, device), draw(b, o.batch, device)
            values = update(x_a, x_b, *(torch.randn(o.batch, o.style, device=device) for _ in range(4)))
            progress.look(model, step)
            run.log(**values)

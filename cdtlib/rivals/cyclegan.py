"""CycleGAN (Zhu et al. 2017): two generators, two PatchGAN discriminators, cycle consistency."""

import itertools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from cdtlib import losses
from cdtlib.models.blocks import InstanceNorm, initialise
from cdtlib.models.critic import PatchCritic
from cdtlib.rivals.common import Translating, draw, linear_decay
from cdtlib.settings import Positive, Precision, Share, Strict, Weight
from cdtlib.training.common import Adam, autocast, captured, set_rate


class Options(Strict):
    """Its settings; the defaults are the authors'."""

    epochs: Annotated[float, Field(gt=0)] = 200.0  # passes over the larger domain, half of them at a falling rate
    batch: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[Share, Share] = (0.5, 0.999)
    width: Positive = 64  # channels of the first convolution
    blocks: Positive = 9  # residual blocks; the authors take 6 for pictures of 128 pixels or less
    critic_width: Positive = 64
    lambda_cycle: Weight = 10.0
    lambda_identity: Weight = 5.0  # half of lambda_cycle
    pool: Positive = 50  # earlier translations that the discriminators are shown
    precision: Precision = "fp32"


class Generator(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] → the same shape and range; H and W divisible by 4 (appendix 7.2)."""

    def __init__(self, width: int = 64, blocks: int = 9):
        super().__init__()

        def normalised(layer: nn.Module, channels: int) -> list[nn.Module]:
            return [layer, InstanceNorm(channels), nn.ReLU()]

        layers = [nn.ReflectionPad2d(3), *normalised(nn.Conv2d(3, width, 7), width)]
        for c in (width, 2 * width):
            layers += normalised(nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), 2 * c)
        layers += [Residual(4 * width) for _ in range(blocks)]
        for c in (4 * width, 2 * width):
            up = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)
            layers += normalised(up, c // 2)
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Residual(nn.Module):
    """x + two normalised 3×3 convolutions of x, padded by reflection."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm(channels), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm(channels),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class Model(nn.Module):
    """The two generators."""

    code = 0

    def __init__(self, width: int = 64, blocks: int = 9):
        super().__init__()
        self.to_a, self.to_b = Generator(width, blocks), Generator(width, blocks)

    def forward(self, x: torch.Tensor, to: str, z: torch.Tensor | None = None) -> torch.Tensor:
        return self.get_submodule(f"to_{to}")(x)


class Pool:
    """The last translations, of which a discriminator is shown as many old ones as new ones (Shrivastava et al. 2017).

    Until it is full, each picture is kept and shown; then each is shown as it is or, with probability ½, changes places
    with a kept one, which is shown instead.
    """

    def __init__(self, size: int = 50):
        self.size = size
        self.kept: list[torch.Tensor] = []  # (3, H, W) each

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        shown = []
        for picture in pictures.detach():
            if len(self.kept) < self.size:
                self.kept.append(picture.clone())
            elif torch.rand(()) < 0.5:
                i = int(torch.randint(self.size, ()))
                self.kept[i], picture = picture.clone(), self.kept[i].to(picture.device)
            shown.append(picture)
        return torch.stack(shown)

    def state_dict(self) -> dict:
        return {"kept": torch.stack([picture.cpu() for picture in self.kept])} if self.kept else {}

    def load_state_dict(self, state: dict) -> None:
        self.kept = list(state["kept"]) if state else []


def critic_loss(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """½ (E[(D(y) - 1)²] + E[D(G(x))²]) (§4): the least-squares loss of a discriminator, halved to slow it down."""
    return 0.5 * losses.least_squares_critic(fake_scores, real_scores)


# A quarter of the width, so a sixteenth of the work, and the authors' blocks for 128 pixels
_NARROW = {"width": 16, "blocks": 6, "critic_width": 16, "precision": "bf16"}


class CycleGAN(Translating):
    """Trained with `Options`; translates with one generator for each direction."""

    name = "CycleGAN"
    Options = Options
    PROFILES = {
        "photos": _NARROW | {"epochs": 27.0},  # six minutes of a GPU, three hours of a CPU core
        # As many updates, of twice the copies; not tried yet
        "photos-gpu": _NARROW | {"width": 32, "critic_width": 32, "epochs": 13.5},
        "demo": _NARROW | {"epochs": 2.0},  # some 15 minutes of a CPU core
        "smoke": {"epochs": 0.05, "width": 4, "blocks": 1, "critic_width": 4, "pool": 2},
    }

    def model(self) -> Model:
        return initialise(Model(self.options.width, self.options.blocks))

    def steps(self, rows: int) -> int:
        return math.ceil(self.options.epochs * rows / self.options.batch)

    def train(self, run, model, a, b, progress) -> None:
        o, device = self.options, run.device
        model.to(memory_format=torch.channels_last)
        d_a, d_b = (initialise(PatchCritic(o.critic_width)).to(device) for _ in "ab")
        opt_g = Adam(model.parameters(), o.learning_rate, o.betas)
        opt_d = Adam(itertools.chain(d_a.parameters(), d_b.parameters()), o.learning_rate, o.betas)
        pool_a, pool_b = Pool(o.pool), Pool(o.pool)
        run.track(model=model, progress=progress)
        run.track_training(d_a=d_a, d_b=d_b, opt_g=opt_g, opt_d=opt_d, pool_a=pool_a, pool_b=pool_b)

        def translated(x_a, x_b):
            """An update of both generators; also returns their translations, to a and to b."""
            d_a.requires_grad_(False), d_b.requires_grad_(False)
            with autocast(o.precision, device):
                fake_b, same_b = model.to_b(torch.cat([x_a, x_b])).float().chunk(2)  # G_B(a), G_B(b)
                fake_a, same_a = model.to_a(torch.cat([x_b, x_a])).float().chunk(2)
                back_a, back_b = model.to_a(fake_b).float(), model.to_b(fake_a).float()
                fooled = [d(fake).float() for d, fake in ((d_a, fake_a), (d_b, fake_b))]
            adversarial = sum(losses.least_squares_real(scores) for scores in fooled)
            cycles = losses.cycle(back_a, x_a) + losses.cycle(back_b, x_b)
            identities = losses.identity(same_a, x_a) + losses.identity(same_b, x_b)
            opt_g.zero_grad()
            losses.total(
                adversarial, cycles, identities, lambda_cycle=o.lambda_cycle, lambda_identity=o.lambda_identity
            ).backward()
            opt_g.step()
            return [x.detach() for x in (fake_a, fake_b, adversarial, cycles, identities)]

        def judged(x_a, shown_a, x_b, shown_b):
            """An update of both discriminators by real pictures and by translations, new or old ones."""
            d_a.requires_grad_(True), d_b.requires_grad_(True)
            critics = 0.0
            for d, real, fake in ((d_a, x_a, shown_a), (d_b, x_b, shown_b)):
                with autocast(o.precision, device):
                    scores = d(real).float(), d(fake).float()
                critics = critics + critic_loss(*scores)
            opt_d.zero_grad()
            critics.backward()
            opt_d.step()
            return critics.detach()

        translated, judged = captured(device, translated, judged)
        steps = progress.moments[-1]
        for step in run.steps(steps):
            set_rate(o.learning_rate * linear_decay(step, steps), opt_g, opt_d)
            x_a, x_b = draw(a, o.batch, device), draw(b, o.batch, device)
            fake_a, fake_b, adversarial, cycles, identities = translated(x_a, x_b)
            critics = judged(x_a, pool_a(fake_a), x_b, pool_b(fake_b))
            progress.look(model, step)
            run.log(critic=critics, adversarial=adversarial, cycle=cycles, identity=identities)

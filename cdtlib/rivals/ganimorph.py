"""GANimorph (Gokaslan et al. 2018): generators with skips, discriminators that see far, a cycle of many scales.

What the paper leaves open is as in its authors' code (brownvc/ganimorph). Networks and losses know pictures in [0, 1],
as theirs do; only `Model` speaks of [-1, 1].
"""

import itertools
from functools import cache, partial
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cdtlib import losses
from cdtlib.models.blocks import InstanceNorm
from cdtlib.rivals.common import Translating, draw, linear_decay
from cdtlib.settings import Positive, Precision, Share, Strict
from cdtlib.training.common import Adam, autocast, captured, set_rate

LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM's scales, finest first (Wang et al. 2003)
WINDOW = 8  # side of MS-SSIM's window, pixels: all that is left of 128 pixels at the fifth scale


class Options(Strict):
    """Its settings; the defaults are its authors' code's."""

    steps: Positive = 300_000  # of the generators; the rate falls over the second half
    batch: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[Share, Share] = (0.5, 0.999)
    width: Positive = 64  # channels of the generators' first convolution
    blocks: Positive = 3  # after a halving or before a doubling
    critic_width: Positive = 128  # channels of the discriminators' first convolution
    critic_every: Positive = 2  # generator updates per discriminator update
    memory: Share = 0.9999  # of the averages that losses are divided by
    precision: Precision = "fp32"


def normalised(layer: nn.Module) -> nn.Sequential:
    """A convolution without bias, instance norm with scale and shift, ReLU."""
    return nn.Sequential(layer, InstanceNorm(layer.out_channels, affine=True), nn.ReLU())


def conv(c_in: int, c_out: int, dilation: int = 1) -> nn.Sequential:
    return normalised(nn.Conv2d(c_in, c_out, 3, padding=dilation, dilation=dilation, bias=False))


def halve(c_in: int, c_out: int) -> nn.Sequential:
    return normalised(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False))


def double(c_in: int, c_out: int) -> nn.Sequential:
    return normalised(nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False))


class Block(nn.Module):
    """A residual block that concatenates where others add: two convolutions of x, then one of these beside x."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.two = nn.Sequential(conv(c_in, c_out), conv(c_out, c_out))
        self.merge = conv(c_in + c_out, c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.merge(torch.cat([self.two(x), x], dim=1))


class Generator(nn.Module):
    """Pictures (N, 3, H, W) in [0, 1] → the same shape and range; H and W divisible by 16.

    Weights are PyTorch's own initial ones, uniform within 1 / √fan_in, which the authors set their library to.
    """

    def __init__(self, width: int = 64, blocks: int = 3):
        super().__init__()
        w = width

        def several(c_in: int, c_out: int) -> nn.Sequential:
            return nn.Sequential(Block(c_in, c_out), *(Block(c_out, c_out) for _ in range(blocks - 1)))

        self.stem = nn.Sequential(nn.Conv2d(3, w, 4, stride=2, padding=1, bias=False), nn.ReLU())
        self.quarter = nn.Sequential(halve(w, 2 * w), several(2 * w, 2 * w))
        self.eighth = nn.Sequential(halve(2 * w, 4 * w), several(4 * w, 4 * w))
        self.deepest = nn.Sequential(halve(4 * w, 8 * w), several(8 * w, 8 * w), double(8 * w, 4 * w))
        self.to_quarter = nn.Sequential(several(8 * w, 4 * w), double(4 * w, 2 * w))
        self.to_half = nn.Sequential(several(4 * w, 2 * w), double(2 * w, w))
        self.to_picture = nn.ConvTranspose2d(w, 3, 4, stride=2, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarter = self.quarter(self.stem(x))  # (N, 2w, H/4, W/4)
        eighth = self.eighth(quarter)  # (N, 4w, H/8, W/8)
        x = torch.cat([self.deepest(eighth), eighth], dim=1)  # (N, 8w, H/8, W/8)
        x = torch.cat([self.to_quarter(x), quarter], dim=1)  # (N, 4w, H/4, W/4)
        return torch.sigmoid(self.to_picture(self.to_half(x)).float())


class Critic(nn.Module):
    """Pictures (N, 3, H, W) in [0, 1] → a logit per patch (N, 1, H/8, W/8), and the maps of the seven layers before it.

    Three convolutions of growing dilation let each patch's logit depend on far more of the picture than the patch.
    """

    def __init__(self, width: int = 128):
        super().__init__()
        w = width
        self.stem = nn.Sequential(nn.Conv2d(3, w, 4, stride=2, padding=1, bias=False), nn.ReLU())
        self.near = nn.ModuleList([halve(w, 2 * w), halve(2 * w, 4 * w), conv(4 * w, 4 * w)])
        self.far = nn.ModuleList([conv(4 * w, 4 * w, dilation) for dilation in (2, 4, 8)])
        self.merge = conv(8 * w, 4 * w)
        self.score = nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(4 * w, 1, 4, bias=False))
        for layer in self.far:
            nn.init.xavier_uniform_(layer[0].weight)  # these keep the authors' library's own initial weights

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        maps = [self.stem(x)]
        for layer in itertools.chain(self.near, self.far):
            maps.append(layer(maps[-1]))
        maps.append(self.merge(torch.cat([maps[3], maps[-1]], dim=1)))
        return self.score(maps[-1]), maps[1:]


class Model(nn.Module):
    """The two generators, of pictures in [-1, 1]."""

    code = 0

    def __init__(self, width: int = 64, blocks: int = 3):
        super().__init__()
        self.to_a, self.to_b = Generator(width, blocks), Generator(width, blocks)

    def forward(self, x: torch.Tensor, to: str, z: torch.Tensor | None = None) -> torch.Tensor:
        return 2 * self.get_submodule(f"to_{to}")((x + 1) / 2) - 1


def critic_loss(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """-½ (E[log σ(D(y))] + E[log(1 - σ(D(G(x))))]), what a discriminator minimises, from logits."""
    return 0.5 * (F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean())


def adversarial_loss(fake_scores: torch.Tensor) -> torch.Tensor:
    """-E[log σ(D(G(x)))], what a generator minimises, from logits."""
    return F.softplus(-fake_scores).mean()


def feature_matching(real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    """The squared difference of a layer's maps (N, C, h, w), averaged over the batch each; the mean over the layers."""
    return torch.stack([F.mse_loss(f.mean(0), r.mean(0)) for r, f in zip(real, fake, strict=True)]).mean()


@cache
def averages(n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix (n - 7, n) of Gaussian-weighted averages of 8 neighbours in n pixels: quicker than a convolution."""
    place = torch.arange(WINDOW) - (WINDOW - 1) // 2  # -3 … 4, as the authors' even window lies
    gaussian = torch.softmax(-(place**2) / (2 * 1.5**2), dim=0)
    matrix = torch.zeros(n - WINDOW + 1, n)
    for i, row in enumerate(matrix):
        row[i : i + WINDOW] = gaussian
    return matrix.to(device, dtype)


@cache
def level_weights(levels: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The weights of so many scales, (levels,), scaled to the sum 1."""
    weights = torch.tensor(LEVEL_WEIGHTS[:levels], dtype=dtype, device=device)
    return weights / weights.sum()


def ms_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Multi-scale structural similarity (Wang et al. 2003) of pictures (N, C, H, W) in [0, 1]: 1 if they are the same.

    Π_s cs_s^w_s, with the luminance in the last factor too, from windows weighted by a Gaussian of σ = 1.5. A scale's
    mean is over the batch, the result's over the channels, as in GANimorph's code, which sets K₁ = .03 and K₂ = .05.
    Five scales need 128 pixels; smaller pictures have as many as the window fits in (96 pixels: 4; 32: 3), and the
    weights of these are scaled to the sum 1.
    """
    side = min(x.shape[-2:])
    levels = sum(side // 2**s >= WINDOW for s in range(len(LEVEL_WEIGHTS)))
    similarity = x.new_ones(x.shape[1])
    for s, weight in enumerate(level_weights(levels, x.dtype, x.device)):
        rows, columns = (averages(n, x.dtype, x.device) for n in x.shape[-2:])
        m_x, m_y, xx, yy, xy = rows @ torch.stack([x, y, x * x, y * y, x * y]) @ columns.T  # (5, N, C, h, w)
        # Rounding can make a variance of nearly nothing negative
        spread = (xx - m_x**2).clamp(min=0) + (yy - m_y**2).clamp(min=0)
        alike = (2 * (xy - m_x * m_y) + 0.05**2) / (spread + 0.05**2)
        if s == levels - 1:
            alike = alike * (2 * m_x * m_y + 0.03**2) / (m_x**2 + m_y**2 + 0.03**2)
        # A fraction's power needs a positive number: pictures that are opposites count as having nothing in common
        similarity = similarity * alike.mean(dim=(0, 2, 3)).clamp(min=1e-4) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return similarity.mean()


class Normalisation(nn.Module):
    """The scheduled loss normalisation: losses (n,), each divided by what it used to be, so that weights mean shares.

    What it used to be is a moving average that starts at 1, looked up at step 36 and at every 90th, and kept between.
    """

    def __init__(self, n: int, memory: float = 0.9999):
        super().__init__()
        self.memory = memory
        self.register_buffer("average", torch.ones(n))
        self.register_buffer("kept", torch.ones(n))

    @staticmethod
    def due(step: int) -> bool:
        """Whether the average is to be looked up at this step, counted from 0."""
        return step == 36 or step % 90 == 0

    def forward(self, values: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
        """`due` is a bool on the device: a graph cannot decide (see `captured`)."""
        self.average.lerp_(values.detach(), 1 - self.memory)
        self.kept.copy_(torch.where(due, self.average, self.kept))
        return values / (self.kept + 1e-10)


def total(adversarial, matching, dissimilarity, difference) -> torch.Tensor:
    """What the generators minimise, of normalised losses: two thirds for the discriminators, a third for the cycle."""
    return 0.67 * (0.7 * adversarial + 0.3 * matching) + 0.33 * (0.7 * dissimilarity + 0.3 * difference)


# With three blocks the generators' first gradients are huge, and Adam with the published beta shrinks its steps for as
# long as it remembers them, a thousand steps: short trainings want fewer blocks and a beta that forgets. They also want
# narrow networks, small batches and a larger rate. `memory` is some 3 % of the training, as published.
_NARROW = {
    "batch": 4, "learning_rate": 1e-3, "betas": (0.5, 0.9), "width": 24, "blocks": 1, "critic_width": 32,
    "memory": 0.985, "precision": "bf16",
}  # fmt: skip


class GANimorph(Translating):
    """Trained with `Options`; translates with one generator for each direction."""

    name = "GANimorph"
    Options = Options
    PROFILES = {
        # Some 30 minutes of a CPU core. With 11,000 steps, it drew the same giraffe for every zebra
        "photos": _NARROW | {"steps": 2100},
        "photos-gpu": _NARROW | {  # not tried yet
            "steps": 10_000, "learning_rate": 4e-4, "memory": 0.997, "width": 32, "critic_width": 64,
        },
        "demo": _NARROW | {"steps": 1600},  # some 15 minutes of a CPU core
        "smoke": {"steps": 5, "batch": 2, "width": 4, "blocks": 1, "critic_width": 4},
    }  # fmt: skip

    def model(self) -> Model:
        return Model(self.options.width, self.options.blocks)

    def steps(self, rows: int) -> int:
        return self.options.steps

    def train(self, run, model, a, b, progress) -> None:
        o, device = self.options, run.device
        model.to(memory_format=torch.channels_last)
        d_a, d_b = (Critic(o.critic_width).to(device, memory_format=torch.channels_last) for _ in "ab")
        opt_g = Adam(model.parameters(), o.learning_rate, o.betas)
        opt_d = Adam(itertools.chain(d_a.parameters(), d_b.parameters()), o.learning_rate, o.betas)
        normalise = Normalisation(4, o.memory).to(device)
        run.track(model=model, progress=progress)
        run.track_training(d_a=d_a, d_b=d_b, opt_g=opt_g, opt_d=opt_d, normalise=normalise)

        def update(x_a, x_b, due, judging: bool):
            """An update of the generators, and before it one of the discriminators, if this is `judging`."""
            values = {}
            with autocast(o.precision, device):
                fake_b, fake_a = model.to_b(x_a), model.to_a(x_b)
            pairs = ((d_a, x_a, fake_a), (d_b, x_b, fake_b))

            if judging:
                d_a.requires_grad_(True), d_b.requires_grad_(True)
                critics = 0.0
                for d, real, fake in pairs:
                    with autocast(o.precision, device):
                        scores = d(real)[0].float(), d(fake.detach())[0].float()
                    critics = critics + critic_loss(*scores)
                opt_d.zero_grad()
                critics.backward()
                opt_d.step()
                values["critic"] = critics

            d_a.requires_grad_(False), d_b.requires_grad_(False)
            adversarial, matching = 0.0, 0.0
            for d, real, fake in pairs:
                with autocast(o.precision, device):
                    (_, real_maps), (scores, fake_maps) = d(real), d(fake)
                adversarial = adversarial + adversarial_loss(scores.float())
                matching = matching + feature_matching(*([m.float() for m in maps] for maps in (real_maps, fake_maps)))
            with autocast(o.precision, device):
                back_a, back_b = model.to_a(fake_b), model.to_b(fake_a)
            dissimilarity = (1 - ms_ssim(back_a, x_a)) + (1 - ms_ssim(back_b, x_b))
            difference = losses.cycle(back_a, x_a) + losses.cycle(back_b, x_b)
            terms = normalise(torch.stack([adversarial, matching, dissimilarity, difference]), due)
            opt_g.zero_grad()
            total(*terms).backward()
            opt_g.step()
            values |= {"adversarial": adversarial, "matching": matching}
            values |= {"dissimilarity": dissimilarity, "cycle": difference}
            return {name: value.detach() for name, value in values.items()}

        updates = captured(device, partial(update, judging=False), partial(update, judging=True))
        steps = progress.moments[-1]
        for step in run.steps(steps):
            set_rate(o.learning_rate * linear_decay(step, steps), opt_g, opt_d)
            x_a, x_b = ((draw(s, o.batch, device) + 1) / 2 for s in (a, b))
            due = torch.full((), normalise.due(step), device=device)
            values = updates[step % o.critic_every == 0](x_a, x_b, due)
            progress.look(model, step)
            run.log(**values)

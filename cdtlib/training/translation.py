"""Training the translators of one level (paper §3, "Deepest layer translation" and "Coarse to fine …")."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from cdtlib import losses
from cdtlib.models.blocks import initialise, kaiming
from cdtlib.models.critic import Critic
from cdtlib.models.translator import ConditionalTranslator, DeepestTranslator
from cdtlib.processes import share
from cdtlib.settings import Translation
from cdtlib.training.common import Adam, autocast, average, captured


@dataclass
class Translators:
    """The pair of one level: `to_b` is G_B^i, `to_a` is G_A^i. Level 5's take x, the others' x and level i+1."""

    to_a: nn.Module
    to_b: nn.Module
    run: str = ""  # id of the run that trained them

    def __getitem__(self, side: str) -> nn.Module:
        return {"a": self.to_a, "b": self.to_b}[side]


def make_translator(
    level: int,
    shape: tuple[int, int, int],
    deeper_channels: int | None,
    s: Translation,
    deeper_side: int | None = None,
) -> nn.Module:
    """G^i for maps of `shape` (C, H, W); without `deeper_channels` it is an unconditional one.

    Level i+1 is `deeper_side` wide, half as wide as level i if it is not given.
    """
    if deeper_channels is None:
        return DeepestTranslator(shape[0], shape[1], s.width, s.halvings, s.blocks, s.skip)
    side = shape[1] // 2 if deeper_side is None else deeper_side
    lost = None if side == shape[1] else shape[1] - 2 * side
    return ConditionalTranslator(shape[0], deeper_channels, s.width, s.style, s.style_width, lost)


def train_translators(
    run, level, a: tuple, b: tuple, settings: Translation, shape, deeper_channels, deeper_side=None
) -> Translators:
    """Train G_A^i, G_B^i and their critics together, eqs. (1)–(4); shapes as for `make_translator`.

    a and b each give batches by rows: `len(a)`, `a(rows) -> (x, own, translated)` with x the maps of level i,
    own the real maps of level i+1 of the same pictures, translated those maps translated to the other domain
    (both None at level 5). All are float32, (B, C, s, s) in [-1, 1].
    """
    device = run.device

    def placed(network):
        return network.to(device, memory_format=torch.channels_last)

    def critic():
        return placed(kaiming(Critic(*shape[:2], settings.critic_width, settings.critic_blocks)))

    first = initialise if deeper_channels is None else kaiming  # with 0.02, a style branch without norms starts dead
    made = (make_translator(level, shape, deeper_channels, settings, deeper_side) for _ in range(2))
    g_a, g_b = (placed(first(g)) for g in made)
    d_a, d_b = critic(), critic()
    mean_a, mean_b = (copy.deepcopy(g).requires_grad_(False) for g in (g_a, g_b))  # averaged weights: the result
    adam = {"lr": settings.learning_rate, "betas": settings.betas}
    opt_g = Adam([*g_a.parameters(), *g_b.parameters()], **adam)
    opt_d = Adam([*d_a.parameters(), *d_b.parameters()], **adam)
    run.track(to_a=mean_a, to_b=mean_b)
    run.track_training(g_a=g_a, g_b=g_b, d_a=d_a, d_b=d_b, opt_g=opt_g, opt_d=opt_d)

    def draw(domain):
        return domain(share(torch.randint(len(domain), (settings.batch,), device=device)))

    def draw_chances(sets):
        """Random numbers for `augmented`, for so many sets of maps; none if nothing is to be augmented."""
        drawn = sets if settings.augment else 0
        return [share(torch.rand(settings.batch, 5, device=device)) for _ in range(drawn)]

    def apply(g, *pairs):
        """g on several (x, condition) pairs at once: one large batch is cheaper than several small ones."""
        x = torch.cat([p[0] for p in pairs])
        with autocast(settings.precision, device):
            y = g(x) if deeper_channels is None else g(x, torch.cat([p[1] for p in pairs]))
        return y.float().split([len(p[0]) for p in pairs])

    def identities_of(x_a, own_a, x_b, own_b):
        """An update of both translators by eq. (3) alone."""
        (same_a,), (same_b,) = apply(g_a, (x_a, own_a)), apply(g_b, (x_b, own_b))
        identities = losses.identity(same_a, x_a) + losses.identity(same_b, x_b)
        opt_g.zero_grad()
        identities.backward()
        opt_g.step()
        return identities.detach()

    least_squares = settings.gan == "lsgan"
    of_critic = losses.least_squares_critic if least_squares else losses.adversarial_critic
    of_translator = losses.least_squares_real if least_squares else losses.adversarial_translator

    def judged(x_a, to_b, x_b, to_a, alpha_a, alpha_b, *chances):
        """An update of both critics by eq. (1), or by least squares."""
        d_a.requires_grad_(True), d_b.requires_grad_(True)
        with torch.no_grad():
            (fake_b,), (fake_a,) = apply(g_b, (x_a, to_b)), apply(g_a, (x_b, to_a))
        if chances:
            x_a, fake_a, x_b, fake_b = map(augmented, (x_a, fake_a, x_b, fake_b), chances)
        critic_loss, penalty = x_a.new_zeros(2)
        for d, real, fake, alpha in ((d_a, x_a, fake_a, alpha_a), (d_b, x_b, fake_b, alpha_b)):
            scores = d(torch.cat([fake, real]))
            critic_loss = critic_loss + of_critic(*scores.chunk(2))
            if not least_squares:
                penalty = penalty + losses.gradient_penalty(d, real, fake, alpha)
        opt_d.zero_grad()
        (critic_loss + settings.lambda_gp * penalty).backward()
        opt_d.step()
        return critic_loss.detach(), penalty.detach()

    def translated(x_a, own_a, to_b, x_b, own_b, to_a, *chances):
        """An update of both translators by eq. (4)."""
        d_a.requires_grad_(False), d_b.requires_grad_(False)
        fake_b, same_b = apply(g_b, (x_a, to_b), (x_b, own_b))  # G_B(a, b̃), G_B(b, b)
        fake_a, same_a, back_a = apply(g_a, (x_b, to_a), (x_a, own_a), (fake_b, own_a))
        (back_b,) = apply(g_b, (fake_a, own_b))
        seen_a, seen_b = map(augmented, (fake_a, fake_b), chances) if chances else (fake_a, fake_b)
        adversarial = of_translator(d_b(seen_b)) + of_translator(d_a(seen_a))
        cycles = losses.cycle(back_a, x_a) + losses.cycle(back_b, x_b)
        identities = losses.identity(same_a, x_a) + losses.identity(same_b, x_b)
        loss = losses.total(
            settings.adversarial * adversarial, cycles, identities,
            lambda_cycle=settings.lambda_cycle, lambda_identity=settings.lambda_identity,
        )  # fmt: skip
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        return adversarial.detach(), cycles.detach(), identities.detach()

    identities_of, judged, translated = captured(device, identities_of, judged, translated)
    for step in run.steps(steps_of(settings, len(a), len(b))):
        if step < settings.identity_first:
            (x_a, own_a, _), (x_b, own_b, _) = draw(a), draw(b)
            run.log(identity=identities_of(x_a, own_a, x_b, own_b))
        else:
            critic_loss = penalty = 0.0
            for _ in range(settings.critic_steps if settings.adversarial else 0):  # without eq. (1), none is asked
                (x_a, _, to_b), (x_b, _, to_a) = draw(a), draw(b)
                alphas = (share(torch.rand(settings.batch, device=device)) for _ in "ab")
                critic_loss, penalty = judged(x_a, to_b, x_b, to_a, *alphas, *draw_chances(4))
            adversarial, cycles, identities = translated(*draw(a), *draw(b), *draw_chances(2))
            run.log(critic=critic_loss, penalty=penalty, adversarial=adversarial, cycle=cycles, identity=identities)
        average(mean_a, g_a, settings.ema, step)
        average(mean_b, g_b, settings.ema, step)
    return Translators(mean_a.eval(), mean_b.eval(), run.id)


def augmented(x: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """Maps (N, C, H, W), mirrored, moved and masked, each by its own `chances` (N, 5), uniform in [0, 1).

    Half of them are mirrored; all are moved by up to a quarter of the side, and a square of half the side is masked at
    a random place. What comes in from outside and the mask are 0, a channel's mean. A critic is to see both real and
    translated maps so, and translators learn through it (Zhao et al. 2020, "DiffAugment").
    """

    def along(size: int, move: torch.Tensor, start: torch.Tensor):
        """Of each cell of a side, (N, size): where it comes from, if that is in the map, and if the mask covers it."""
        cells, reach, hole = torch.arange(size, device=x.device), max(1, size // 4), size // 2
        origin = cells + reach - (move * (2 * reach + 1)).long()[:, None]
        first = (start * (size + 1)).long()[:, None] - hole // 2
        return (
            origin.clamp(0, size - 1),
            (origin == origin.clamp(0, size - 1)),
            (cells >= first) & (cells < first + hole),
        )

    n, _, height, width = x.shape
    mirror, down, right, top, left = chances.unbind(1)
    (rows, inside_y, masked_y), (columns, inside_x, masked_x) = along(height, down, top), along(width, right, left)
    columns = torch.where(mirror[:, None] < 0.5, width - 1 - columns, columns)
    shown = inside_y[:, :, None] & inside_x[:, None] & ~(masked_y[:, :, None] & masked_x[:, None])  # (N, H, W)
    moved = x.permute(0, 2, 3, 1)[torch.arange(n, device=x.device)[:, None, None], rows[:, :, None], columns[:, None]]
    return (moved * shown[..., None]).permute(0, 3, 1, 2)


def steps_of(settings: Translation, len_a: int, len_b: int) -> int:
    """Translator updates: those by eq. (3) alone, and `settings.epochs` passes over the larger domain."""
    return settings.identity_first + math.ceil(settings.epochs * max(len_a, len_b) / settings.batch)


def pictures_of(settings: Translation, updates: int) -> int:
    """Pictures of each domain that so many translator updates draw, for themselves and for the critics."""
    of_critics = settings.critic_steps * max(0, updates - settings.identity_first) if settings.adversarial else 0
    return settings.batch * (updates + of_critics)

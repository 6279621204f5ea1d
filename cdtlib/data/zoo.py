"""The drawn zoo: an embedded data set of animals, drawn with Pillow from a seed.

Zebras, giraffes, elephants and some twenty invented species stand on a savanna: one to three animals of one
species, all facing the same way. Every picture comes with its ground truth, so that what Katzir et al.
(arXiv 1906.01526) can only show (pose, number and place of the animals are kept) can be measured here.

**The guarantee.** The layout (count, facing, and each animal's place, scale, gait and head height), the background
and the shadows are drawn from random streams that know nothing of the species. Hence `draw(a, index, seed=s)` and
`draw(b, index, seed=s)` are a counterfactual pair: the same scene, equal pixel for pixel outside of the two masks,
with other animals in the same poses. `ZooDomain` derives its seed from its name and split, so that two domains are
*not* paired; `ZooDomain.counterpart` gives the paired one.

All lengths are fractions of the frame or, within an animal, multiples of its scale: a picture shows the same at every
size.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw

RGB = tuple[int, int, int]

SUPERSAMPLING = 4  # pictures are drawn this much larger, then averaged over SUPERSAMPLING by SUPERSAMPLING boxes
MIN_SIZE, MAX_SIZE = 32, 512
ANIMALS = ("zebra", "giraffe", "elephant")
DRAWING = "zoo"  # to be renamed with a change of what is drawn that four pictures of a domain may not show
FRONT, BACK = 1.10, 0.68  # how far an animal may reach before and behind the centre of its body, in scales


# --- Species ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Species:
    """Proportions and coat of a species. Lengths are multiples of an animal's scale, angles are in degrees."""

    name: str
    # Torso.
    body: float = 0.90  # length
    depth: float = 0.40  # height of the torso
    slope: float = 0.0  # how much the back rises towards the shoulder
    hump: float = 0.0  # height of a hump on the back
    # Neck and head.
    neck: float = 0.30  # length
    neck_width: float = 0.20  # at half its length
    neck_angle: float = 45.0  # above the horizon, at head height 0
    neck_swing: float = 28.0  # change of that angle at head height ±1
    head: float = 0.30  # length
    head_depth: float = 0.17
    muzzle: float = 0.10  # depth of the head's front end
    head_tilt: float = -35.0  # direction of the muzzle, below the horizon
    # Limbs.
    legs: float = 0.42  # length, from the ground to the belly
    leg_width: float = 0.085
    trunk: float = 0.0  # length, 0 for none
    tusks: float = 0.0  # length, 0 for none
    tail: float = 0.36  # length
    tuft: bool = True  # whether the tail ends in a tuft
    ears: str = "pointed"  # pointed, round, long, or fan (an elephant's)
    ear: float = 0.11  # length of an ear
    horns: str = "none"  # none, ossicones, horns (curved back), or spikes (straight, long)
    mane: float = 0.0  # height of the mane along the neck, 0 for none
    # Coat.
    coat: str = "plain"  # plain, stripes, patches, spots, banded, or two-tone
    base: RGB = (170, 140, 110)
    mark: RGB = (70, 50, 40)  # colour of the stripes, patches, spots, bands, or of the upper half
    crest: RGB = (60, 45, 40)  # mane and tuft
    nose: RGB = (60, 50, 48)  # muzzle
    marked_legs: bool = True  # whether the coat's marks go down the legs


_REAL = [
    Species(
        "zebra", body=0.90, depth=0.40, neck=0.34, neck_width=0.20, neck_angle=44, neck_swing=32, head=0.32,
        head_depth=0.17, muzzle=0.105, head_tilt=-40, legs=0.44, leg_width=0.080, tail=0.38, ears="pointed", ear=0.12,
        mane=0.06, coat="stripes", base=(246, 243, 236), mark=(28, 26, 30), crest=(34, 30, 32), nose=(48, 42, 44),
    ),
    Species(
        "giraffe", body=0.64, depth=0.35, slope=16, neck=0.66, neck_width=0.14, neck_angle=60, neck_swing=20, head=0.25,
        head_depth=0.125, muzzle=0.085, head_tilt=-28, legs=0.60, leg_width=0.070, tail=0.36, ears="pointed", ear=0.09,
        horns="ossicones", mane=0.03, coat="patches", base=(248, 220, 158), mark=(166, 92, 38), crest=(128, 70, 34),
        nose=(206, 160, 108),
    ),
    Species(
        "elephant", body=0.92, depth=0.62, hump=0.03, neck=0.12, neck_width=0.34, neck_angle=30, neck_swing=18,
        head=0.30, head_depth=0.36, muzzle=0.25, head_tilt=-48, legs=0.36, leg_width=0.17, trunk=0.48, tusks=0.20,
        tail=0.30, ears="fan", ear=0.34, coat="plain", base=(142, 144, 154), mark=(112, 114, 124), crest=(70, 70, 76),
        nose=(142, 144, 154),
    ),
]  # fmt: skip

# The invented species: eight builds, each in several coats.
_BUILDS = {
    "pony": dict(body=0.92, depth=0.42, neck=0.32, neck_angle=44, head=0.31, legs=0.42, mane=0.05),
    "tower": dict(
        body=0.66, depth=0.36, slope=12, neck=0.62, neck_width=0.15, neck_angle=60, neck_swing=20, head=0.25,
        head_depth=0.13, muzzle=0.09, head_tilt=-28, legs=0.56, leg_width=0.075, ear=0.09,
    ),
    "giant": dict(
        body=0.92, depth=0.60, neck=0.12, neck_width=0.34, neck_angle=30, neck_swing=18, head=0.30, head_depth=0.34,
        muzzle=0.24, head_tilt=-48, legs=0.36, leg_width=0.165, trunk=0.47, tail=0.30, ears="fan", ear=0.32,
    ),
    "llama": dict(
        body=0.74, depth=0.38, neck=0.46, neck_width=0.18, neck_angle=72, neck_swing=16, head=0.25, head_depth=0.15,
        muzzle=0.10, head_tilt=-18, legs=0.46, leg_width=0.085, ears="long", ear=0.14, tail=0.16, tuft=False,
    ),
    "camel": dict(
        body=0.86, depth=0.40, hump=0.24, neck=0.46, neck_width=0.16, neck_angle=36, neck_swing=22, head=0.28,
        head_depth=0.15, muzzle=0.12, head_tilt=-12, legs=0.48, leg_width=0.080, ears="round", ear=0.07,
    ),
    "tank": dict(
        body=1.02, depth=0.52, neck=0.16, neck_width=0.36, neck_angle=12, neck_swing=22, head=0.40, head_depth=0.28,
        muzzle=0.22, head_tilt=-30, legs=0.26, leg_width=0.16, ears="round", ear=0.09, tail=0.20, tuft=False,
    ),
    "tapir": dict(
        body=0.90, depth=0.46, slope=-6, neck=0.22, neck_width=0.26, neck_angle=24, neck_swing=24, head=0.32,
        head_depth=0.20, muzzle=0.14, head_tilt=-34, legs=0.34, leg_width=0.11, trunk=0.22, ears="round", ear=0.11,
        tail=0.10, tuft=False,
    ),
    "gazelle": dict(
        body=0.76, depth=0.32, neck=0.34, neck_width=0.14, neck_angle=58, neck_swing=26, head=0.25, head_depth=0.14,
        muzzle=0.08, legs=0.52, leg_width=0.060, ears="long", ear=0.14, tail=0.18,
    ),
}  # fmt: skip


def _invent(name: str, build: str, coat: str, base: RGB, mark: RGB, **more) -> Species:
    colours = dict(coat=coat, base=base, mark=mark, crest=_shade(mark, 0.8), nose=_shade(base, 0.55))
    return Species(name, **(_BUILDS[build] | colours | more))


def _rgb(colour: Sequence[float] | np.ndarray) -> RGB:
    return tuple(int(min(max(c, 0.0), 255.0)) for c in colour)


def _shade(colour: RGB, factor: float) -> RGB:
    return _rgb([c * factor for c in colour])


_INVENTED = [
    _invent("orrum", "giant", "stripes", (242, 240, 234), (40, 38, 42), tusks=0.2),
    _invent("patalu", "giant", "patches", (240, 212, 160), (150, 86, 44)),
    _invent("grubo", "giant", "plain", (156, 92, 66), (110, 60, 44), ears="round", ear=0.16, hump=0.14),
    _invent("telune", "giant", "spots", (214, 196, 160), (84, 72, 70), tusks=0.16),
    _invent("vantir", "tower", "stripes", (244, 240, 232), (36, 32, 36), mane=0.05),
    _invent("sellow", "tower", "plain", (142, 146, 156), (96, 98, 108)),
    _invent("krivva", "tower", "banded", (232, 186, 116), (120, 62, 34), horns="spikes", neck=0.54),
    _invent("ombrel", "tower", "two-tone", (238, 230, 216), (88, 100, 116), trunk=0.24, ears="round", ear=0.12),
    _invent("pintuk", "pony", "patches", (244, 214, 152), (158, 88, 40)),
    _invent("mirrow", "pony", "plain", (140, 142, 150), (74, 74, 82), ears="long", ear=0.22),
    _invent("tazzel", "pony", "spots", (246, 242, 236), (44, 40, 44)),
    _invent("dovane", "pony", "two-tone", (240, 226, 204), (120, 70, 48), horns="horns"),
    _invent("lumari", "llama", "stripes", (236, 208, 160), (116, 66, 38)),
    _invent("quessa", "llama", "spots", (250, 244, 232), (150, 96, 60), horns="ossicones"),
    _invent("norrik", "llama", "plain", (90, 66, 58), (60, 44, 40), mane=0.06),
    _invent("hadrik", "camel", "plain", (206, 158, 98), (140, 92, 52), mane=0.04),
    _invent("bostal", "camel", "stripes", (226, 226, 228), (72, 78, 96)),
    _invent("murvo", "tank", "banded", (176, 178, 184), (64, 62, 70), horns="spikes"),
    _invent("skarn", "tank", "patches", (246, 244, 240), (52, 46, 46), horns="horns"),
    _invent("tapuro", "tapir", "two-tone", (238, 234, 228), (50, 48, 54)),
    _invent("nokkel", "tapir", "stripes", (190, 120, 76), (248, 232, 204)),
    _invent("falene", "gazelle", "two-tone", (250, 240, 222), (204, 126, 60), horns="spikes"),
    _invent("rillet", "gazelle", "spots", (186, 120, 72), (250, 238, 216), horns="horns"),
    _invent("wendo", "gazelle", "banded", (236, 232, 226), (84, 80, 90), mane=0.05),
]  # fmt: skip

SPECIES: dict[str, Species] = {species.name: species for species in _REAL + _INVENTED}
INVENTED: tuple[str, ...] = tuple(species.name for species in _INVENTED)


# --- Ground truth ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pose:
    """Where and how one animal stands; drawn without knowledge of the species."""

    gait: float  # phase of the legs, from -1 (those of the near side together) to 1 (apart)
    head: float  # head height, from -1 (lowered) to 1 (raised)
    scale: float  # nominal body length, fraction of the frame
    x: float  # centre of the body, fraction of the frame, from the left
    y: float  # line on which the animal stands, fraction of the frame, from the top


@dataclass(frozen=True)
class Layout:
    """What of a picture is common to all species."""

    facing: str  # "left" or "right"
    horizon: float  # fraction of the frame, from the top
    poses: tuple[Pose, ...]  # from the farthest to the nearest animal


@dataclass(frozen=True)
class Animal:
    """Ground truth of one animal. `box`, `neck`, `legs` and `body` are in pixels of the picture."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 of the part inside the frame, hidden parts included
    facing: str
    gait: float
    head: float
    scale: float
    x: float
    y: float
    neck: float  # length of the neck
    legs: float  # length of the legs
    body: float  # length of the torso


@dataclass(frozen=True)
class Truth:
    """Ground truth of one picture."""

    species: str
    count: int
    facing: str
    animals: tuple[Animal, ...]  # from the farthest to the nearest
    mask: np.ndarray = field(repr=False, compare=False)  # (H, W) uint8: 0 background, k where animals[k - 1] shows


# --- Layout ----------------------------------------------------------------------------------------------------

_LAYOUT, _SCENERY, _COAT = range(3)  # the random streams of a picture


def _stream(seed: int, index: int, which: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, which])))


def layout(index: int, *, seed: int = 0) -> Layout:
    """Layout of picture `index`: the same for every species."""
    rng = _stream(seed, index, _LAYOUT)
    count = int(rng.choice(3, p=(0.60, 0.28, 0.12))) + 1
    facing = "right" if rng.random() < 0.5 else "left"
    horizon = rng.uniform(0.60, 0.72)
    low, high = ((0.37, 0.45), (0.26, 0.32), (0.20, 0.235))[count - 1]
    scales = rng.uniform(low, high) * rng.uniform(0.95, 1.05, count)
    ground = rng.uniform(0.86, 0.93) if count == 1 else rng.uniform(0.84, 0.90)
    y = np.full(count, ground) if count == 1 else ground + rng.uniform(-0.035, 0.035, count)
    y = np.maximum(y, horizon + 0.08)

    # The animals side by side, for one facing right: each takes (BACK + FRONT) times its scale. What is left of the
    # width is shared out at random between them; if they do not fit, they overlap a little.
    need = scales * (BACK + FRONT)
    gaps = rng.dirichlet(np.ones(count + 1)) * max(0.0, 1 - need.sum())
    overlap = max(0.0, need.sum() - 1) / max(1, count - 1)
    start = np.concatenate([[0.0], np.cumsum(need - overlap)[:-1]]) + np.cumsum(gaps[:-1])
    x = start + scales * BACK
    if rng.random() < 0.08:  # the frame cuts the last animal's rump, or the first one's head
        if rng.random() < 0.5:
            x[0] = scales[0] * rng.uniform(0.25, 0.45)
        else:
            x[-1] = 1 - scales[-1] * rng.uniform(0.35, 0.55)
    if facing == "left":
        x = 1 - x
    gaits = rng.uniform(-1, 1, count)
    heads = np.clip(rng.uniform(-1, 1) + rng.uniform(-0.4, 0.4, count), -1, 1)
    poses = [
        Pose(float(g), float(h), float(s), float(px), float(py))
        for g, h, s, px, py in zip(gaits, heads, scales, x, y, strict=True)
    ]
    return Layout(facing, float(horizon), tuple(sorted(poses, key=lambda pose: pose.y)))


# --- Scenery ---------------------------------------------------------------------------------------------------

# Sky at the top, sky at the horizon, ground at the horizon, ground in front, leaves.
_PALETTES = (
    ((104, 170, 226), (206, 230, 242), (198, 186, 112), (150, 148, 76), (88, 112, 58)),  # day
    ((126, 186, 216), (232, 238, 226), (176, 184, 104), (118, 142, 70), (70, 104, 58)),  # after the rain
    ((132, 140, 190), (250, 206, 160), (196, 160, 98), (142, 116, 68), (92, 88, 54)),  # dusk
    ((170, 190, 206), (236, 226, 208), (214, 190, 126), (168, 146, 84), (104, 108, 66)),  # haze
    ((146, 196, 222), (250, 234, 196), (208, 178, 104), (164, 138, 70), (98, 104, 56)),  # morning
)


def _scenery(rng: np.random.Generator, horizon: float, side: int) -> Image.Image:
    """Sky, far trees and ground, in a picture of `side` pixels."""
    top, low, far, near, leaf = np.asarray(_PALETTES[rng.integers(len(_PALETTES))], float) + rng.normal(0, 5, (5, 3))
    line = round(horizon * side)
    sky = np.linspace(0, 1, line)[:, None]
    ground = np.linspace(0, 1, side - line)[:, None]
    column = np.concatenate([top + (low - top) * sky, far + (near - far) * ground])
    image = Image.fromarray(column.clip(0, 255).astype(np.uint8)[:, None])  # one pixel wide
    image = image.resize((side, side), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        pen.ellipse([(x - rx) * side, (y - ry) * side, (x + rx) * side, (y + ry) * side], fill=colour)

    if rng.random() < 0.35:  # the sun
        x, y, r = rng.uniform(0.1, 0.9), rng.uniform(0.10, 0.30), rng.uniform(0.035, 0.05)
        ellipse(x, y, r, r, _rgb(low + 0.75 * (np.array([255, 246, 214]) - low)))
    for _ in range(rng.integers(0, 3)):  # clouds
        x, y, r = rng.uniform(0, 1), rng.uniform(0.06, 0.30), rng.uniform(0.05, 0.10)
        white = _rgb(top + 0.55 * (255 - top))
        ellipse(x, y, r, r * 0.22, white)
        ellipse(x - 0.3 * r, y - 0.12 * r, r * 0.5, r * 0.25, white)
    # Far hills, a shade between sky and leaves.
    knots = np.linspace(0, 1, 9)
    heights = horizon - 0.012 - 0.035 * rng.random(9)
    t = np.linspace(0, 1, 33)
    ridge = np.interp(t, knots, heights)
    ridge = np.convolve(np.pad(ridge, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    hills = [*zip(t * side, ridge * side, strict=True), (side, line), (0, line)]
    pen.polygon(hills, fill=_rgb(0.55 * low + 0.45 * leaf))
    for _ in range(rng.integers(1, 4)):  # acacias and bushes
        x, h = rng.uniform(0.02, 0.98), rng.uniform(0.05, 0.11)
        foot = horizon + rng.uniform(0.0, 0.02)
        colour = _rgb(0.78 * leaf + 0.22 * low)
        if rng.random() < 0.65:
            width = max(1, round(h * 0.09 * side))
            for lean in (-0.25, 0.2):
                pen.line(
                    [(x * side, foot * side), ((x + lean * h) * side, (foot - h) * side)],
                    fill=_rgb(0.6 * leaf + 0.1 * low), width=width,
                )  # fmt: skip
            ellipse(x, foot - h, h * 0.75, h * 0.2, colour)
            ellipse(x - 0.2 * h, foot - 1.15 * h, h * 0.42, h * 0.16, colour)
        else:
            ellipse(x, foot - 0.12 * h, h * 0.4, h * 0.28, colour)
            ellipse(x + 0.35 * h, foot - 0.06 * h, h * 0.3, h * 0.2, colour)
    for _ in range(rng.integers(5, 10)):  # tufts of grass
        x, y = rng.uniform(0, 1), rng.uniform(horizon + 0.06, 0.99)
        h = 0.012 + 0.05 * (y - horizon)
        colour = _rgb(near * (0.86 if rng.random() < 0.5 else 1.12))
        for lean in (-0.6, 0.0, 0.6):
            pen.line(
                [(x * side, y * side), ((x + lean * h) * side, (y - h) * side)],
                fill=colour, width=max(1, round(0.006 * side)),
            )  # fmt: skip
    return image


def _shadow(image: Image.Image, pose: Pose) -> None:
    """Darken the ground under an animal; the same for all species."""
    side = image.width
    rx, ry = 0.46 * pose.scale * side, 0.05 * pose.scale * side
    box = [round(v) for v in (pose.x * side - rx, pose.y * side - ry, pose.x * side + rx, pose.y * side + ry)]
    mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
    ImageDraw.Draw(mask).ellipse([0, 0, mask.width - 1, mask.height - 1], fill=90)
    image.paste((44, 40, 34), (box[0], box[1]), mask)


# --- Geometry --------------------------------------------------------------------------------------------------
# Within an animal: u points forward, v up, the origin is on the ground below the centre of the body, and the unit
# is the animal's scale.


def _heading(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def _headings(degrees: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=-1)


def _spline_weights(samples: int) -> np.ndarray:
    """Catmull-Rom weights (samples, 4) of the four knots around a segment."""
    t = np.arange(samples)[:, None] / samples
    t2, t3 = t**2, t**3
    before, here, there, after = -t + 2 * t2 - t3, 2 - 5 * t2 + 3 * t3, t + 4 * t2 - 3 * t3, t3 - t2
    return 0.5 * np.concatenate([before, here, there, after], axis=1)


_SPLINE = _spline_weights(5)
_CAP = _headings(np.array([60, 30, 0, -30, -60]))  # the round end of a limb


def _blob(knots: Sequence | np.ndarray) -> np.ndarray:
    """Closed Catmull-Rom spline through `knots` (n, 2) -> outline (5 n, 2)."""
    p = np.asarray(knots, float)
    n = len(p)
    around = np.concatenate([p[-1:], p, p[:2]])[np.arange(n)[:, None] + np.arange(4)]  # (n, 4, 2)
    return (_SPLINE @ around).reshape(-1, 2)


def _along(path: np.ndarray) -> np.ndarray:
    """Unit tangents (n, 2) of `path` (n, 2)."""
    along = np.empty_like(path)
    along[1:-1], along[0], along[-1] = path[2:] - path[:-2], path[1] - path[0], path[-1] - path[-2]
    return along / np.hypot(along[:, :1], along[:, 1:])


def _limb(path: Sequence | np.ndarray, widths: Sequence[float] | np.ndarray) -> np.ndarray:
    """Outline of a limb of given widths (n,) along `path` (n, 2), with round ends."""
    p, w = np.asarray(path, float), np.asarray(widths, float)[:, None] / 2
    along = _along(p) * w
    side = along[:, ::-1] * (-1, 1)
    end = p[-1] + _CAP @ np.stack([along[-1], side[-1]])
    start = p[0] - _CAP @ np.stack([along[0], side[0]])
    return np.concatenate([p + side, end, (p - side)[::-1], start])


@dataclass(frozen=True)
class _Part:
    """A piece of an animal that carries its coat."""

    kind: str  # torso, neck, head, trunk or leg
    outline: np.ndarray  # (n, 2)
    axis: np.ndarray  # (k, 2) the line along which a limb's marks are set
    width: float


class _Body:
    """The pieces of one animal, in its own coordinates."""

    def __init__(self, species: Species, pose: Pose):
        self.species, self.pose = species, pose
        self.middle = species.legs + 0.44 * species.depth  # height of the torso's axis above the feet
        self.rise = math.tan(math.radians(species.slope))
        self.torso = self._torso()
        self.neck = self._neck()
        self.head = self._head()
        self.trunk = self._trunk() if species.trunk else None
        self.near_legs, self.near_hooves = self._legs(far=False)
        self.far_legs, self.far_hooves = self._legs(far=True)
        self.tail = self._tail()
        near = [self.torso, *self.near_legs, self.neck, self.head]
        self.near = near + [self.trunk] if self.trunk else near

    def at(self, along: float, across: float) -> np.ndarray:
        """Point of the head: `along` in head lengths from the neck, `across` in head depths upwards."""
        s = self.species
        return self.tip + along * s.head * self.look + across * s.head_depth * self.up

    def _torso(self) -> _Part:
        s, half = self.species, self.species.body / 2
        knots = np.array([
            (-1.0, 0.04), (-0.90, 0.34), (-0.50, 0.47), (0.05, 0.46), (0.50, 0.49), (0.86, 0.40), (1.0, 0.0),
            (0.82, -0.34), (0.40, -0.47), (-0.10, -0.50), (-0.55, -0.42), (-0.90, -0.24),
        ])  # fmt: skip
        bump = s.hump * np.exp(-(((knots[:, 0] - 0.1) / 0.35) ** 2)) * (knots[:, 1] > 0.4)
        knots *= (half, s.depth)
        knots[:, 1] += self.middle + self.rise * knots[:, 0] + bump
        axis = np.array([(-half, self.middle - self.rise * half), (half, self.middle + self.rise * half)])
        return _Part("torso", _blob(knots), axis, s.depth)

    def _neck(self) -> _Part:
        s, u = self.species, 0.37 * self.species.body
        # A thick neck starts lower, so that it does not stick out of the back.
        v = self.middle + 0.16 * s.depth + self.rise * u - 0.4 * max(0.0, s.neck_width - 0.2)
        base = np.array([u, v])
        angle = s.neck_angle + s.neck_swing * self.pose.head
        length = s.neck + 0.25 * s.neck_width
        self.tip = base + length * _heading(angle)
        bend = base + 0.5 * length * _heading(angle - 12 + 4 * self.pose.head)
        t = np.linspace(0, 1, 7)[:, None]
        axis = (1 - t) ** 2 * base + 2 * t * (1 - t) * bend + t**2 * self.tip
        self.girth = s.neck_width * (1.55 - 0.85 * t[:, 0] + 0.15 * (1 - t[:, 0]) ** 2)
        return _Part("neck", _limb(axis, self.girth), axis, float(self.girth[0]))

    def _head(self) -> _Part:
        s = self.species
        self.look = _heading(s.head_tilt + 16 * self.pose.head)  # from the neck to the muzzle
        self.up = np.array([-self.look[1], self.look[0]])
        m = s.muzzle / s.head_depth
        knots = [
            (-0.16, 0.0), (-0.05, 0.46), (0.22, 0.50), (0.62, 0.30 + 0.2 * m), (0.96, 0.44 * m),
            (1.03, -0.05 * m), (0.95, -0.52 * m), (0.6, -0.40 * m - 0.1), (0.22, -0.50), (-0.06, -0.40),
        ]  # fmt: skip
        outline = _blob([self.at(*knot) for knot in knots])
        return _Part("head", outline, np.stack([self.tip, self.at(1, 0)]), s.head_depth)

    def _trunk(self) -> _Part:
        """It hangs from the front of the head, and curls up with the head."""
        s, lift = self.species, 0.5 + 0.5 * self.pose.head
        start = self.at(0.72, -0.04)
        steps = _headings(np.linspace(-78 + 22 * lift, -96 + 190 * lift**1.4, 12))  # (12, 2)
        drop = -np.cumsum(steps[:, 1]).min() / 12
        length = min(s.trunk, (start[1] - 0.05) / max(drop, 0.1))  # not into the ground
        axis = np.concatenate([[start], start + np.cumsum(steps, axis=0) * length / 12])
        widths = np.linspace(0.64, 0.26, 13) * s.muzzle
        return _Part("trunk", _limb(axis, widths), axis, float(widths[0]))

    def _legs(self, far: bool) -> tuple[list[_Part], list[np.ndarray]]:
        """The hind and the fore leg of one side, and their hooves; diagonal pairs swing together."""
        s, w = self.species, self.species.leg_width
        stout = min(1.0, max(0.0, (w - 0.08) / 0.1))  # 0 for a thin leg, 1 for a column
        legs, hooves = [], []
        for end, place, thigh, bend in ((-1, -0.35, 2.5, -0.035), (1, 0.32, 2.0, 0.02)):
            u = place * s.body
            hip = np.array([u - 0.09 * end * far, self.middle + self.rise * u - 0.06 * s.depth])
            swing = 0.24 * self.pose.gait * s.legs * end * (-1 if far else 1)
            foot = np.array([hip[0] + swing, 0.03 * far])
            knee = 0.46 * hip + 0.54 * foot + (bend * min(1.0, 0.09 / w), 0.0)
            axis = np.stack([hip, 0.5 * (hip + knee), knee, 0.35 * knee + 0.65 * foot, foot])
            thigh -= 1.1 * stout
            widths = w * np.array([thigh, 0.75 * thigh + 0.1, 1.0, 0.78 + 0.2 * stout, 0.92 + 0.1 * stout])
            outline = _limb(axis, widths)
            outline[:, 1] = outline[:, 1].clip(foot[1])  # a flat foot
            legs.append(_Part("leg", outline, axis, float(widths[0])))
            hooves.append(foot + np.array([(-0.55 * w, 0), (0.6 * w, 0), (0.46 * w, 0.05), (-0.46 * w, 0.05)]))
        return legs, hooves

    def _tail(self) -> np.ndarray:
        s, half, t = self.species, self.species.body / 2, np.linspace(0, 1, 6)
        u = -0.95 * half - 0.13 * np.sin(1.9 * t) + 0.03 * self.pose.gait * t**2
        v = self.middle + 0.26 * s.depth - self.rise * half + 0.02 * np.sin(3 * t) - s.tail * t**1.4
        self.tail_axis = np.stack([u, v], axis=1)
        return _limb(self.tail_axis, np.linspace(0.03 + 0.05 * (s.leg_width > 0.12), 0.022, 6))

    def ear(self, back: float) -> np.ndarray:
        """Outline of an ear, `back` head lengths behind its usual place."""
        s = self.species
        if s.ears == "fan":
            knots = np.array([
                (0.05, 0.02), (-0.25, 0.22), (-0.72, 0.20), (-0.98, -0.25), (-0.82, -0.80), (-0.45, -1.12),
                (-0.12, -0.78), (0.06, -0.35),
            ])  # fmt: skip
            return _blob(self.at(0.02 - back, 0.30) + knots * s.ear)
        lean, lift = (-0.9, 0.55) if s.ears == "long" else (-0.35, 1.0)
        up = lean * self.look + lift * self.up
        up = s.ear * up / np.hypot(*up)
        width = {"pointed": 0.30, "round": 0.48, "long": 0.24}[s.ears]
        side = np.array([up[1], -up[0]]) * width
        tip = 0.3 if s.ears == "pointed" else 0.8
        knots = [(-0.6, 0), (-1, 0.45), (-tip, 0.9), (0, 1), (tip, 0.9), (1, 0.45), (0.6, 0)]
        return _blob(self.at(0.02 - back, 0.42) + np.array(knots) @ np.stack([side, up]))

    def mane(self) -> np.ndarray:
        """Outline of a mane behind the neck, up to between the ears."""
        axis, height = self.neck.axis[1:], self.species.mane
        outer = axis + _along(axis)[:, ::-1] * (-1, 1) * (self.girth[1:, None] / 2 + height)
        return np.concatenate([axis, [self.at(0.1, 0.0), self.at(0.12, 0.5) + height * self.up], outer[::-1]])

    def tusk(self) -> np.ndarray:
        root, length = self.at(0.66, -0.30), self.species.tusks
        return _limb([root, root + length * np.array([0.42, -0.42]), root + length * np.array([0.98, -0.36])],
                     [0.062, 0.052, 0.02])  # fmt: skip


# --- Coats -----------------------------------------------------------------------------------------------------
# A coat's marks on one part of the body are polygons (n, corners, 2); they may stick out of the part, to which they
# are clipped. They are never finer than a picture of 64 pixels can show: hence the divisions by the pose's scale.


def _marks(part: _Part, body: _Body, phase: float, rng: np.random.Generator) -> np.ndarray:
    s = body.species
    nothing = np.empty((0, 4, 2))
    if part.kind == "leg" and not s.marked_legs:
        return nothing
    if s.coat == "stripes":
        return _stripes(part, body, phase)
    if s.coat == "banded":
        return _bands(part, body) if part.kind in ("torso", "leg") or s.neck > 0.2 else nothing
    if s.coat == "two-tone":
        return _upper_half(part, body) if part.kind != "leg" else nothing
    if s.coat == "patches" and part.kind not in ("head", "trunk"):
        return _cells(part, body, max(0.15, 0.066 / body.pose.scale), 0.90, 6, rng)
    if s.coat == "spots":
        return _cells(part, body, max(0.15, 0.070 / body.pose.scale), 0.56, 8, rng)
    return nothing


def _stripes(part: _Part, body: _Body, phase: float) -> np.ndarray:
    """Stripes across the torso, which lean over the rump and taper to the belly, and across every limb."""
    s = body.species
    period = max(0.115, 0.056 / body.pose.scale)
    if part.kind == "head":
        return _across(part, period * 0.9, 0.35 + phase, 0.5)[:3]
    if part.kind == "leg":
        return _across(part, period * 0.9, 1.6 + phase, 0.5)
    if part.kind != "torso":
        return _across(part, period, 0.4 + phase, 0.5)
    n = max(4, round(s.body / period))
    f = (np.arange(n + 1) + phase) / n  # from 0 at the rump to 1 at the chest
    u = (f - 0.5) * s.body
    spine = body.middle + body.rise * u
    lean = -0.42 * s.depth * np.maximum(0, 1 - f / 0.55)
    w = 0.27 * s.body / n
    top, bottom = spine + (0.62 + s.hump) * s.depth, spine - 0.40 * s.depth
    us = np.stack([u + lean - w, u + lean + w, u - 0.35 * lean + 0.55 * w, u - 0.35 * lean - 0.55 * w], axis=1)
    return np.stack([us, np.stack([top, top, bottom, bottom], axis=1)], axis=2)


def _across(part: _Part, period: float, start: float, duty: float) -> np.ndarray:
    """Bands across a limb, every `period` of its length from `start` periods on."""
    run = np.concatenate([[0.0], np.hypot(*np.diff(part.axis, axis=0).T).cumsum()])
    at = np.arange(start * period, run[-1], period)

    def point(x: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(x, run, part.axis[:, 0]), np.interp(x, run, part.axis[:, 1])], axis=1)

    centre, along = point(at), point(at + 0.01) - point(at - 0.01)
    along /= np.hypot(along[:, :1], along[:, 1:])
    across, along = along[:, ::-1] * (-1, 1) * 0.75 * part.width, along * duty * period / 2
    corners = across - along, across + along, along - across, -across - along
    return np.stack([centre + corner for corner in corners], axis=1)


def _bands(part: _Part, body: _Body) -> np.ndarray:
    """Two broad bands around the torso, one around the neck, and stockings."""
    s, low, high = body.species, part.outline.min(0), part.outline.max(0)
    if part.kind == "torso":
        return np.array([_box((u - 0.1) * s.body, low[1], (u + 0.1) * s.body, high[1]) for u in (-0.30, 0.06)])
    if part.kind == "leg":
        return _box(low[0], low[1], high[0], 0.48 * s.legs)[None]
    return _across(part, 0.5 * s.neck + 0.1, 0.65, 0.45)


def _upper_half(part: _Part, body: _Body) -> np.ndarray:
    """The upper half of the torso, and the whole of the neck and head."""
    low, high = part.outline.min(0), part.outline.max(0)
    box = _box(*low, *high)
    if part.kind == "torso":
        box[:2, 1] = body.middle - 0.05 * body.species.depth + body.rise * box[:2, 0]
    return box[None]


def _box(u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    return np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])


def _cells(part: _Part, body: _Body, pitch: float, fill: float, corners: int, rng: np.random.Generator) -> np.ndarray:
    """Irregular polygons on a shaken hexagonal grid; on the legs, above the knee only."""
    low, high = part.outline.min(0), part.outline.max(0)
    floor = 0.42 * body.species.legs if part.kind == "leg" else low[1]
    rows = np.arange(floor, high[1] + 0.4 * pitch, 0.87 * pitch)
    columns = np.arange(low[0] - 0.5 * pitch, high[0] + 0.4 * pitch, pitch)
    v, u = np.meshgrid(rows, columns, indexing="ij")
    u = u + 0.5 * pitch * (np.arange(len(rows)) % 2)[:, None]
    centres = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    if part.kind == "neck":  # a slanted limb fills little of its box
        away = np.hypot(*np.moveaxis(centres - part.axis, -1, 0)).min(1)
        centres = centres[away < 0.5 * part.width + 0.5 * pitch]
    centres = centres + rng.uniform(-0.13, 0.13, centres.shape) * pitch
    shape = (len(centres), corners)
    angles = 360 * (np.arange(corners) + 0.5) / corners + rng.uniform(-14, 14, shape)
    return centres + 0.5 * pitch * fill * rng.uniform(0.88, 1.12, shape)[..., None] * _headings(angles)


# --- Painting --------------------------------------------------------------------------------------------------


class _Brush:
    """Draws an animal's shapes on a canvas of its own, and keeps track of its silhouette."""

    def __init__(self, body: _Body, facing: str, side: int):
        pose = body.pose
        self.unit = pose.scale * side
        self.gain = np.array([1 if facing == "right" else -1, -1]) * self.unit
        cloud = np.concatenate([part.outline for part in (*body.near, *body.far_legs)] + [body.tail])
        reach = np.array([cloud.min(0) - 0.26, cloud.max(0) + 0.32])  # room for ears, horns, tusks and the tuft
        corners = reach * self.gain + (pose.x * side, pose.y * side)
        self.x0, self.y0 = (int(v) for v in np.floor(corners.min(0)))
        x1, y1 = (int(v) for v in np.ceil(corners.max(0)))
        self.shift = np.array([pose.x * side - self.x0, pose.y * side - self.y0])
        self.image = Image.new("RGB", (x1 - self.x0, y1 - self.y0))
        self.silhouette = Image.new("L", self.image.size, 0)
        self._pen, self._trace = ImageDraw.Draw(self.image), ImageDraw.Draw(self.silhouette)
        self._line = max(1, round(0.008 * side))

    def px(self, points: np.ndarray) -> np.ndarray:
        """From an animal's coordinates (..., 2) to pixels of this canvas."""
        return points * self.gain + self.shift

    def fill(self, outline: np.ndarray, colour: RGB) -> None:
        xy = self.px(outline).ravel().tolist()
        self._pen.polygon(xy, fill=colour)
        self._trace.polygon(xy, fill=255)

    def edge(self, outline: np.ndarray, colour: RGB) -> None:
        """The outline as a line; its inner half will be covered by the fill."""
        xy = self.px(np.concatenate([outline, outline[:1]])).ravel().tolist()
        self._pen.line(xy, fill=colour, width=self._line)
        self._trace.line(xy, fill=255, width=self._line)

    def dot(self, centre: np.ndarray, radius: float, colour: RGB) -> None:
        (x, y), r = self.px(centre), radius * self.unit
        self._pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)
        self._trace.ellipse([x - r, y - r, x + r, y + r], fill=255)

    def clipped(self, outline: np.ndarray) -> tuple[Image.Image, tuple[int, int], np.ndarray]:
        """A shape as a mask of its own, no larger than it must be; its place, and the outline in it."""
        xy = self.px(outline)
        low = np.floor(xy.min(0))
        width, height = (np.ceil(xy.max(0)) - low + 1).astype(int).tolist()
        mask = Image.new("L", (width, height), 0)
        ImageDraw.Draw(mask).polygon((xy - low).ravel().tolist(), fill=255)
        return mask, (int(low[0]), int(low[1])), low


def _paint(body: _Body, facing: str, side: int, rng: np.random.Generator) -> _Brush:
    """Draw one animal, from its far side to its near side."""
    s, scale = body.species, body.pose.scale
    phase, light, tint = rng.uniform(0, 1), rng.uniform(0.95, 1.05), rng.normal(0, 3, 3)
    base, mark, crest, nose = (_rgb(np.array(c) * light + tint) for c in (s.base, s.mark, s.crest, s.nose))
    ink = _rgb([0.42 * b + 0.10 * m for b, m in zip(base, mark, strict=True)])
    brush = _Brush(body, facing, side)

    _coat(brush, body, body.far_legs, _shade(base, 0.74), _shade(mark, 0.74), ink, phase, rng)
    for hoof in body.far_hooves:
        brush.fill(hoof, _shade(ink, 0.6))
    brush.edge(body.tail, ink)
    brush.fill(body.tail, _shade(base, 0.88))
    if s.tuft:
        before, end = body.tail_axis[-2:]
        brush.fill(_limb([before, end, end - (0.0, 0.07)], [0.03, 0.07, 0.035]), crest)
    if s.mane:
        brush.fill(body.mane(), crest)
    _horns(brush, body, crest, ink)
    if s.ears != "fan":
        far_ear = body.ear(0.07)
        brush.edge(far_ear, ink)
        brush.fill(far_ear, _shade(base, 0.72))
    if s.tusks:
        brush.edge(body.tusk(), ink)

    _coat(brush, body, body.near, base, mark, ink, phase, rng)
    for hoof in body.near_hooves:
        brush.fill(hoof, _shade(ink, 0.7))
    _belly(brush, body)

    if not s.trunk:
        outline = body.head.outline
        brush.fill(outline[(outline - body.tip) @ body.look > 0.74 * s.head], nose)
    ear = body.ear(0.0)
    if s.ears == "fan":
        root = body.at(0.02, 0.1)
        brush.edge(ear, _shade(base, 0.55))
        brush.fill(ear, _shade(base, 1.07))
        brush.fill(root + 0.74 * (ear - root), _shade(base, 0.96))
    else:
        brush.edge(ear, ink)
        brush.fill(ear, base)
    if s.tusks:
        brush.fill(body.tusk(), (250, 244, 226))
    eye, r = body.at(0.34, 0.16), max(0.021, 0.009 / scale)
    brush.dot(eye, r, (20, 16, 16))
    brush.dot(eye + (0.3 * r, 0.35 * r), 0.34 * r, (255, 255, 255))
    return brush


def _coat(
    brush: _Brush, body: _Body, parts: list[_Part], base: RGB, mark: RGB, ink: RGB, phase: float,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Paint `parts`: outlines, base colour, marks. All outlines come first, so that only their union is outlined."""
    for part in parts:
        brush.edge(part.outline, ink)
    for part in parts:
        brush.fill(part.outline, base)
    if body.species.coat == "plain":
        return
    marks = Image.new("L", brush.image.size, 0)
    for part in parts:
        shape, place, low = brush.clipped(part.outline)
        own = Image.new("L", shape.size, 0)
        pen = ImageDraw.Draw(own)
        polygons = brush.px(_marks(part, body, phase, rng)) - low
        for xy in polygons.reshape(len(polygons), 2 * polygons.shape[1]).tolist():
            pen.polygon(xy, fill=255)
        marks.paste(own, place, shape)  # over the marks of the parts below
    brush.image.paste(mark, (0, 0), marks)


def _belly(brush: _Brush, body: _Body) -> None:
    """Darken the lower half of the torso."""
    shape, place, low = brush.clipped(body.torso.outline)
    axis, half = body.middle * brush.gain[1] + brush.shift[1] - low[1], 0.5 * body.species.depth * brush.unit
    rows = ((np.arange(shape.height) - axis) / half).clip(0, 1) * 77
    fade = Image.fromarray(rows.astype(np.uint8)[:, None]).resize(shape.size, Image.Resampling.NEAREST)
    brush.image.paste((30, 24, 24), place, ImageChops.multiply(shape, fade))


def _horns(brush: _Brush, body: _Body, crest: RGB, ink: RGB) -> None:
    back, up = -body.look, body.up
    for place in (0.02, 0.16):
        root = body.at(place, 0.40)
        if body.species.horns == "ossicones":
            tip = root + 0.12 * up + 0.05 * back
            brush.fill(_limb([root, tip], [0.038, 0.034]), _shade(crest, 1.15))
            brush.dot(tip, 0.030, _shade(crest, 0.6))
        elif body.species.horns == "horns":
            path = [root, root + 0.12 * up + 0.04 * back, root + 0.20 * up + 0.16 * back,
                    root + 0.20 * up + 0.28 * back]  # fmt: skip
            brush.fill(_limb(path, [0.06, 0.05, 0.04, 0.02]), _shade(ink, 0.55))
        elif body.species.horns == "spikes":
            brush.fill(_limb([root, root + 0.27 * up + 0.13 * back], [0.05, 0.015]), _shade(ink, 0.55))


# --- Pictures --------------------------------------------------------------------------------------------------


def _species(name: str) -> Species:
    if name not in SPECIES:
        raise ValueError(f"unknown species {name!r}: the zoo has {', '.join(ANIMALS + INVENTED)}")
    return SPECIES[name]


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size is {size!r}: the zoo draws pictures of {MIN_SIZE} to {MAX_SIZE} pixels (an integer)")


def draw(
    species: str, index: int, *, size: int = 64, seed: int = 0, posed: Callable[[Pose], Pose] = lambda pose: pose
) -> tuple[Image.Image, Truth]:
    """Draw picture `index` of a species: an RGB image of `size` by `size` pixels, and its ground truth.

    `posed` gives each animal another pose. The result depends on the arguments only. Two species with the same `index`
    and `seed` give a counterfactual pair: equal layouts, and equal pixels wherever both masks are 0.

    Raises ValueError for an unknown species, a size outside of [32, 512] or a negative seed, IndexError for a
    negative index.
    """
    kind = _species(species)
    _check_size(size)
    if index < 0:
        raise IndexError(f"index is {index}: pictures are numbered from 0")
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must not be negative")
    plan = layout(index, seed=seed)
    side = size * SUPERSAMPLING
    image = _scenery(_stream(seed, index, _SCENERY), plan.horizon, side)
    coat_rng = _stream(seed, index, _COAT)
    for pose in plan.poses:
        _shadow(image, pose)
    ids = Image.new("L", (side, side), 0)
    animals = []
    for k, pose in enumerate(map(posed, plan.poses), start=1):
        brush = _paint(_Body(kind, pose), plan.facing, side, coat_rng)
        image.paste(brush.image, (brush.x0, brush.y0), brush.silhouette)
        ids.paste(k, (brush.x0, brush.y0), brush.silhouette)
        x0, y0, x1, y1 = brush.silhouette.getbbox()
        box = [min(max(v, 0), side) / SUPERSAMPLING
               for v in (x0 + brush.x0, y0 + brush.y0, x1 + brush.x0, y1 + brush.y0)]  # fmt: skip
        unit = pose.scale * size
        animals.append(
            Animal(tuple(box), plan.facing, pose.gait, pose.head, pose.scale, pose.x, pose.y,
                   kind.neck * unit, kind.legs * unit, kind.body * unit)
        )  # fmt: skip
    truth = Truth(species, len(animals), plan.facing, tuple(animals), _mask(ids, len(animals)))
    return image.reduce(SUPERSAMPLING), truth


def _mask(ids: Image.Image, count: int) -> np.ndarray:
    """Reduce the numbers of the animals, (H', W') at the drawing's resolution, to (H, W) uint8.

    A pixel shows the animal that covers most of it; it is background only where no animal reaches it at all.
    """
    share = []
    for k in range(1, count + 1):
        lone = ids.point([255 if value == k else 0 for value in range(256)])
        share.append(np.asarray(lone.reduce(SUPERSAMPLING)))
    share = np.stack(share)  # (count, H, W)
    return np.where(share.any(0), share.argmax(0) + 1, 0).astype(np.uint8)


def _draw_many(species: str, indices: Sequence[int], size: int, seed: int) -> np.ndarray:
    """(n, size, size, 3) uint8."""
    pictures = np.empty((len(indices), size, size, 3), np.uint8)
    for row, index in enumerate(indices):
        pictures[row] = np.asarray(draw(species, index, size=size, seed=seed)[0])
    return pictures


@dataclass(frozen=True)
class ZooDomain:
    """A domain of the drawn zoo: `count` pictures of one species, drawn when asked for.

    The seed of the pictures is derived from `seed`, `split` and `name`: train and test share no picture, and two
    domains are not paired. Raises ValueError for an unknown species or split, a count below 1, or a size outside of
    [32, 512].
    """

    name: str
    split: str  # "train" or "test"
    count: int
    size: int = 64
    seed: int = 0
    layouts: str = ""  # the domain whose layouts these are; "" for its own (see `counterpart`)

    def __post_init__(self):
        _species(self.name)
        _check_size(self.size)
        if self.layouts:
            _species(self.layouts)
        if self.split not in ("train", "test"):
            raise ValueError(f'split is {self.split!r}: it must be "train" or "test"')
        if self.count < 1:
            raise ValueError(f"count is {self.count}: a domain needs at least one picture")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must not be negative")

    @cached_property
    def picture_seed(self) -> int:
        """The seed to give to `draw`."""
        text = f"zoo/{self.layouts or self.name}/{self.split}/{self.seed}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of what determines the pictures: the arguments, and four pictures to probe the drawing code."""
        digest = hashlib.sha256(f"{DRAWING}/{self.name}/{self.picture_seed}/{self.count}/{self.size}".encode())
        digest.update(_draw_many(self.name, range(4), self.size, self.picture_seed).tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.count

    def counterpart(self, species: str) -> "ZooDomain":
        """The same scenes, picture by picture, with another species in the same poses."""
        origin = self.layouts or self.name
        return replace(self, name=species, layouts="" if species == origin else origin)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Pictures, uint8 (len(indices), 3, size, size). Raises IndexError outside of [0, count)."""
        indices = [self._check(index) for index in indices]
        pictures = _draw_many(self.name, indices, self.size, self.picture_seed)
        return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))

    def images(self) -> torch.Tensor:
        """All pictures, uint8 (count, 3, size, size)."""
        return self.batch(range(self.count))

    def _check(self, index: int) -> int:
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is out of range: {self.name}/{self.split} has {self.count} pictures")
        return index

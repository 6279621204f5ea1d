"""Is it the right animal, in the same number, place and pose? Measured on the drawn zoo; beyond the paper.

Katzir et al. (arXiv 1906.01526) show that a translation becomes the other animal, in shape too, and keeps the number,
the place and the pose of the animals. The zoo knows the truth of its scenes, and can draw the perfect translation of
each: the *counterpart*, the same scene with the other species. What a translated picture shows is read by probes
(`cdtlib.training.probes`), whose accuracy on held-out pictures, `Probes.accuracy`, belongs beside every number::

    probes = zoo_probes(root / "runs")
    measures = evaluate(probes, zebras_test, translated, giraffes_test)

Each measure comes with what the same probes say of three other sets: the untouched source pictures, real pictures of
the target species (other scenes), and the counterparts, which are the ceiling.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.nn import functional as F

from cdtlib.data import to_float
from cdtlib.data.zoo import ANIMALS, Pose, Truth, ZooDomain, draw
from cdtlib.features.backbones import full_precision
from cdtlib.training.probes import Probe, blur, train_probe
from cdtlib.training.run import Run

#: Seed of the probes' training pictures, to have other scenes than any translation.
PROBE_SEED = 1_000_000_000

#: A column or row belongs to the animals if at least so many of its pixels do: one may be a speck.
MIN_PIXELS = 2


# --- Labelled pictures -----------------------------------------------------------------------------------------


def _draw(domain: ZooDomain) -> tuple[Tensor, tuple[Truth, ...]]:
    drawn = [draw(domain.name, i, size=domain.size, seed=domain.picture_seed) for i in range(len(domain))]
    pictures = np.stack([np.asarray(image) for image, _ in drawn])  # (N, H, W, 3)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), tuple(truth for _, truth in drawn)


@lru_cache(maxsize=8)  # each method that is compared asks for the same few hundred pictures
def labelled(domain: ZooDomain) -> tuple[Tensor, tuple[Truth, ...]]:
    """All pictures of a domain, uint8 (N, 3, H, W), and their ground truth."""
    return _draw(domain)


def _masks(truths: Sequence[Truth]) -> np.ndarray:
    return np.stack([truth.mask > 0 for truth in truths])  # (N, H, W)


def _counts(truths: Sequence[Truth]) -> np.ndarray:
    return np.array([truth.count for truth in truths])


def _facing_right(truths: Sequence[Truth]) -> np.ndarray:
    return np.array([truth.facing == "right" for truth in truths])


# --- Probes ----------------------------------------------------------------------------------------------------


def _resized(x: Tensor, size: int) -> Tensor:
    """(N, C, H, W) → (N, C, size, size); smoothed first if it becomes smaller."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)


@dataclass(frozen=True)
class Reading:
    """What the probes see in N pictures. Arrays of numpy."""

    species: np.ndarray  # (N, S + 1) probabilities of the species and, last, of none of them
    silhouette: np.ndarray  # (N, S + 1) the same, judged by the animals' mask alone
    count: np.ndarray  # (N,) number of animals, 1 to 3
    facing_right: np.ndarray  # (N,) bool
    mask: np.ndarray  # (N, H, W) probability that an animal is there

    @property
    def animals(self) -> np.ndarray:
        """(N, H, W) bool: where an animal more likely is than not."""
        return self.mask > 0.5

    def __getitem__(self, rows) -> "Reading":
        return Reading(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class Probes:
    """A trained `Probe`, the names of its `species` and the `size` of the pictures it saw; `run` is its training."""

    def __init__(self, network: Probe, species: Sequence[str], size: int, run: Run | None = None):
        self.network, self.species, self.size, self.run = network.eval(), tuple(species), size, run

    @torch.inference_mode()
    def read(self, pictures: Tensor) -> Reading:
        """Read square pictures (N, 3, H, H), uint8 or float in [-1, 1]. The result does not depend on N.

        Pictures of another size than `size` are resized to it, and the masks that are found back to theirs.
        Raises ValueError for another shape, no picture at all, or values that are not finite.
        """
        height, width = pictures.shape[-2:]
        if pictures.ndim != 4 or pictures.shape[1] != 3 or height != width or not len(pictures):
            raise ValueError(f"the probes read pictures (N, 3, H, H) with N at least 1, not {tuple(pictures.shape)}")
        device = next(self.network.parameters()).device
        parts = []
        for batch in pictures.split(64):
            x = batch.to(device)
            x = to_float(x) if x.dtype == torch.uint8 else x.float()
            if not x.isfinite().all():
                raise ValueError("the pictures to read have values that are NaN or infinite")
            x = _resized(x, self.size).contiguous(memory_format=torch.channels_last)
            with full_precision():
                mask, species, count, facing = self.network(x)
                silhouette = self.network.silhouette((mask > 0).float()[:, None])
            mask = _resized(mask[:, None], height)[:, 0].sigmoid()
            parts.append((species.softmax(1), silhouette.softmax(1), count.argmax(1) + 1, facing > 0, mask))
        return Reading(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))

    def taken_for_animals(self, pictures: Tensor) -> dict[str, float]:
        """The shares of pictures (see `read`) that show any animal to the probes: by all that is in them, and by the
        silhouette alone."""
        reading = self.read(pictures)
        kinds = {"species": reading.species, "silhouette": reading.silhouette}
        return {of: float((shares.argmax(1) < len(self.species)).mean()) for of, shares in kinds.items()}

    def accuracy(self, domain: ZooDomain, blurred_to: int | None = None) -> dict[str, float]:
        """Accuracy on the pictures of a domain: shares read right, and the mean IoU of the masks.

        With `blurred_to`, the pictures are first made so many pixels small and enlarged again, as a check that the
        probes can read the blurry pictures of an inverter. The domain must not be one the probes were trained on;
        those of the translations never are.
        """
        pictures, truths = labelled(domain)
        pictures = to_float(pictures)
        reading = self.read(pictures if blurred_to is None else blur(pictures, blurred_to))
        k = self.species.index(domain.name)
        return {
            "species": float((reading.species.argmax(1) == k).mean()),
            "silhouette": float((reading.silhouette.argmax(1) == k).mean()),
            "count": float((reading.count == _counts(truths)).mean()),
            "facing": float((reading.facing_right == _facing_right(truths)).mean()),
            "mask": float(overlap(reading.animals, _masks(truths)).mean()),
        }


def zoo_probes(
    root: str | Path,
    *,
    pictures: int = 500,
    epochs: float = 16.0,
    size: int = 64,
    device: str | torch.device = "cpu",
) -> Probes:
    """The probes for the zoo's animals: found under `root`, or trained on `pictures` pictures of each species.

    They do not depend on the pair that is translated, nor on its seed. By default, 45 seconds on one CPU core, for
    labels that are right on 99 % or more of held-out pictures. They are trained at `size` pixels and read any size.
    Raises ValueError for fewer than one picture or a size that is not a multiple of 16.
    """
    if pictures < 1 or epochs <= 0 or size % 16:
        raise ValueError(
            f"probes need at least one picture (got {pictures}), more than 0 epochs (got {epochs}) and a size that is "
            f"a multiple of 16 (got {size})"
        )
    domains = [ZooDomain(name, "train", pictures, size=size, seed=PROBE_SEED) for name in ANIMALS]
    settings = {
        "pictures": pictures, "epochs": float(epochs), "size": size, "batch": 32, "learning_rate": 4e-3, "wrecks": 0.25,
        "seed": 0,
    }  # fmt: skip

    def training_pictures() -> tuple[Tensor, dict[str, Tensor]]:
        drawn = [_draw(domain) for domain in domains]
        truths = [truth for _, own in drawn for truth in own]
        labels = {
            "mask": torch.from_numpy(_masks(truths)),
            "species": torch.arange(len(domains)).repeat_interleave(pictures),
            "count": torch.from_numpy(_counts(truths)),
            "facing_right": torch.from_numpy(_facing_right(truths)),
        }
        return torch.cat([own for own, _ in drawn]), labels

    inputs = {domain.name: domain.fingerprint for domain in domains}
    with Run("probes-zoo", settings, inputs, root=root, device=device) as run:
        network = train_probe(
            run,
            training_pictures,
            species=len(domains),
            steps=max(1, round(epochs * pictures * len(domains) / settings["batch"])),
            batch=settings["batch"],
            learning_rate=settings["learning_rate"],
            wrecks=settings["wrecks"],
        )
    return Probes(network, ANIMALS, size, run)


# --- Place -----------------------------------------------------------------------------------------------------


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of two sets of masks, bool (N, …) → (N,); 0 where both are empty."""
    if a.shape != b.shape:
        raise ValueError(f"overlap: masks of shapes {a.shape} and {b.shape} cannot be compared")
    axes = tuple(range(1, a.ndim))
    return (a & b).sum(axes) / np.maximum((a | b).sum(axes), 1)


def columns(masks: np.ndarray) -> np.ndarray:
    """Which columns the animals take up: bool masks (N, H, W) → bool (N, W).

    This is what another species in the same place shares: a giraffe's neck rises above a zebra's place, its shorter
    body takes up a little less of the width, but animals side by side stay where they were.
    """
    return masks.sum(1) >= MIN_PIXELS


def foot_line(masks: np.ndarray) -> np.ndarray:
    """Row of the lowest foot, in pixels from the top: bool masks (N, H, W) → (N,), NaN without an animal."""
    rows = masks.sum(2) >= MIN_PIXELS  # (N, H)
    lowest = masks.shape[1] - 1 - rows[:, ::-1].argmax(1)
    return np.where(rows.any(1), lowest, np.nan)


# --- Shape -----------------------------------------------------------------------------------------------------

SILHOUETTE = {
    "aspect": "height of the silhouette by its length",
    "neck": "height of the head above the back, by the back's height",
    "legs": "height of the belly, by the back's height",
    "fullness": "share of its bounding box that the silhouette fills",
}


def silhouettes(masks: np.ndarray, facing_right: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of `SILHOUETTE` for masks of one animal each, bool (N, H, W), facing as told (N,): (N,) each.

    Only ratios, so none depends on the animal's size. The back and the belly are taken where the torso is without
    neck and tail: from 12 % to 55 % of the length, counted from the rear. The back is the median height there; the
    belly is the lowest row of which 85 % are filled there, above the gaps between the legs. Only the largest connected
    piece of a mask counts. NaN without an animal; `legs` is NaN also where no belly can be found.

    At 64 pixels `legs` is the weakest of them for zebras and giraffes: the gaps between a giraffe's legs are two pixels
    wide, and the probes miss some, so that a zebra painted like a giraffe is said to have come half of the way.

    Raises ValueError if there are not as many directions as masks.
    """
    if masks.ndim != 3 or len(masks) != len(facing_right):
        raise ValueError(f"silhouettes: {len(facing_right)} directions for masks of shape {masks.shape}")
    rows = [_silhouette(mask if right else mask[:, ::-1]) for mask, right in zip(masks, facing_right, strict=True)]
    return dict(zip(SILHOUETTE, np.array(rows, float).reshape(-1, len(SILHOUETTE)).T, strict=True))


def _silhouette(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The statistics of one mask (H, W) whose animal faces right."""
    pieces, number = ndimage.label(mask, structure=np.ones((3, 3)))
    if not number:
        return (np.nan,) * 4
    largest = 1 + np.bincount(pieces.ravel())[1:].argmax()
    box = ndimage.find_objects(pieces)[largest - 1]
    piece = pieces[box] == largest
    height, length = piece.shape
    if height < 4 or length < 4:
        return (np.nan,) * 4  # a speck
    torso = piece[:, round(0.12 * length) : round(0.55 * length)]
    back = np.median(height - torso.argmax(0)[torso.any(0)])
    filled = torso[::-1].mean(1) >= 0.85  # from the feet up
    belly = filled.argmax() if filled.any() else np.nan
    return height / length, height / back - 1, belly / back, piece.mean()


def shift(moved: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    """How far a statistic's distribution moved from the source's to the target's: 0 not at all, 1 arrived.

    1 - W(moved, target) / W(source, target), with W the Wasserstein-1 distance between samples. Negative if it went
    the other way. NaN if the source's distribution is the target's, or if a sample is empty.
    """
    moved, source, target = (values[~np.isnan(values)] for values in (moved, source, target))
    if not (len(moved) and len(source) and len(target)):
        return float("nan")
    way = wasserstein_distance(source, target)
    return 1 - wasserstein_distance(moved, target) / way if way > 0 else float("nan")


def background(pictures: Tensor, source: Tensor, animals: np.ndarray) -> np.ndarray:
    """How far pictures are from their sources, both (N, 3, H, W) in [-1, 1], outside of the `animals`, bool (N, H, W).

    Returns (N,): the mean absolute difference of the pixels without an animal, 0 to 2; NaN where there are none.
    """
    outside = torch.from_numpy(~animals)
    difference = (pictures - source).abs().mean(1) * outside  # (N, H, W)
    return (difference.sum((1, 2)) / outside.sum((1, 2))).numpy()


def _whole(truths: Sequence[Truth]) -> np.ndarray:
    """Which pictures show exactly one animal, not cut by the frame: bool (N,)."""

    def inside(truth: Truth) -> bool:
        height, width = truth.mask.shape
        x0, y0, x1, y1 = truth.animals[0].box
        return truth.count == 1 and x0 > 0 and y0 > 0 and x1 < width and y1 < height

    return np.array([inside(truth) for truth in truths])


# --- Cropping --------------------------------------------------------------------------------------------------


def cut(truths: Sequence[Truth]) -> np.ndarray:
    """Where the frame cuts an animal off: bool (N, 2), on its left and on its right."""
    width = truths[0].mask.shape[1]
    boxes = ([animal.box for animal in truth.animals] for truth in truths)
    return np.array([[any(x0 <= 0 for x0, *_ in own), any(x1 >= width for _, _, x1, _ in own)] for own in boxes])


def touching(masks: np.ndarray) -> np.ndarray:
    """Whether the animals reach the frame: bool masks (N, H, W) → bool (N, 2), on its left and on its right.

    They do if the outermost fiftieth of the columns has them in at least a fiftieth of its rows, and in three.
    """
    size = masks.shape[2]
    rim, rows = max(1, round(0.02 * size)), max(3, round(0.02 * size))
    sides = masks[:, :, :rim], masks[:, :, -rim:]
    return np.stack([side.any(2).sum(1) >= rows for side in sides], axis=1)


# --- Pose ------------------------------------------------------------------------------------------------------

#: How far from level a head must be held for its height to count.
HEAD_HELD = 0.4


def _other_head(pose: Pose) -> Pose:
    return replace(pose, head=-pose.head)


def _other_legs(pose: Pose) -> Pose:
    return replace(pose, gait=pose.gait + (1 if pose.gait < 0 else -1))


@lru_cache(maxsize=8)
def _other_poses(domain: ZooDomain) -> dict[str, np.ndarray]:
    """The masks of all scenes of a domain, bool (N, H, W), were the animals' heads high for low, or their legs apart
    for together."""
    size, seed = domain.size, domain.picture_seed

    def masks(posed: Callable[[Pose], Pose]) -> np.ndarray:
        return _masks([draw(domain.name, i, size=size, seed=seed, posed=posed)[1] for i in range(len(domain))])

    return {HEAD: masks(_other_head), LEGS: masks(_other_legs)}


def pose_kept(found: np.ndarray, twins: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of two scenes that differ in the pose alone the masks `found` cover better, bool (N, H, W) each.

    Returns (N,): 1 for `twins`, those in the right pose, 0 for `others`, and 0.5 where it cannot be told.
    """
    right, wrong = overlap(found, twins), overlap(found, others)
    return np.where(right == wrong, 0.5, right > wrong)


# --- All of it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One measure of a set of translations, and the same measure of the sets it is to be compared with."""

    name: str
    value: float
    n: int  # pictures that the value rests on
    unit: str
    better: str  # "higher" or "lower"
    kept: bool  # whether a translation is to keep this, not to change it
    source: float  # for the untouched source pictures
    target: float  # for real pictures of the target species, in other scenes
    counterpart: float | None = None  # for perfect translations, the same scenes redrawn; photos have none

    def as_metric(self) -> dict:
        """As the results' JSON has it. `upper` is the perfect translation; for photos, which have none, the real target
        pictures or, for what is to be kept, the untouched source. `lower` is what takes no translation: for what is to
        change, the untouched source; for what is to be kept, a real picture of the target, whatever the source (for the
        background, the median of all sources)."""
        lower, upper = (self.target, self.source) if self.kept else (self.source, self.target)
        return {
            "name": self.name, "value": self.value, "n": self.n, "lower": lower,
            "upper": upper if self.counterpart is None else self.counterpart, "unit": self.unit, "better": self.better,
        }  # fmt: skip


def clearly_more(one, other) -> bool:
    """Whether a share (`value`, of `n` pictures) is larger than another by more than twice the standard error of their
    difference."""
    error = sum(share.value * (1 - share.value) / share.n for share in (one, other)) ** 0.5
    return bool(one.value - other.value > 2 * error)


BACKGROUND = "background: difference from the source's"
HEAD, LEGS = "pose: heads held as high", "pose: legs as far apart"
STILL_CUT = "cut by the frame: on the same side"

# name: (unit, better, whether it is to be kept). The species is recognised by its coat above all: a zebra with a
# giraffe's coat passes for a giraffe. The silhouette alone tells a translation from such a repaint.
_PER_PICTURE = {
    "recognised as the target species": ("share", "higher", False),
    "silhouette alone recognised as the target species": ("share", "higher", False),
    "number of animals kept": ("share", "higher", True),
    "facing kept": ("share", "higher", True),
    "species, silhouette, number and facing all right": ("share", "higher", False),
    "place: overlap of the columns taken up": ("IoU", "higher", True),
    "place: distance of the foot lines": ("pixels", "lower", True),
    "overlap with the counterpart's silhouette": ("IoU", "higher", False),
    HEAD: ("share", "higher", True),
    LEGS: ("share", "higher", True),
    BACKGROUND: ("of 2", "lower", True),
    STILL_CUT: ("share", "higher", True),
}


def compare(truths: Sequence[Truth], twins: Sequence[Truth], reading: Reading, target: int) -> dict[str, np.ndarray]:
    """Per picture, how a reading agrees with the source's ground truth and its counterpart's: (N,) for each name.

    target: the column of the target species in the reading's probabilities. The foot lines' distance is NaN where no
    animal is found; there the overlaps are 0. `STILL_CUT` is NaN where the frame cuts no animal.
    """
    if not len(truths) == len(twins) == len(reading.count):
        raise ValueError(
            f"compare: {len(reading.count)} pictures were read, but there are {len(truths)} source scenes and "
            f"{len(twins)} counterparts"
        )
    own, found = _masks(truths), reading.animals
    species = reading.species.argmax(1) == target
    silhouette = reading.silhouette.argmax(1) == target
    count = reading.count == _counts(truths)
    facing = reading.facing_right == _facing_right(truths)
    sides = cut(truths)
    values = {
        "recognised as the target species": species,
        "silhouette alone recognised as the target species": silhouette,
        "number of animals kept": count,
        "facing kept": facing,
        "species, silhouette, number and facing all right": species & silhouette & count & facing,
        "place: overlap of the columns taken up": overlap(columns(found), columns(own)),
        "place: distance of the foot lines": np.abs(foot_line(found) - foot_line(own)),
        "overlap with the counterpart's silhouette": overlap(found, _masks(twins)),
        STILL_CUT: np.where(sides.any(1), (touching(found) & sides).any(1), np.nan),
    }
    return {name: value.astype(float) for name, value in values.items()}


@dataclass(frozen=True)
class _Compared:
    """What the probes read from translations of some pictures, and from what these are to be seen beside."""

    truths: list[Truth]
    twins: list[Truth]
    readings: dict[str, Reading]
    agreement: dict[str, dict[str, np.ndarray]]  # of each reading: (N,) by name (see `compare`)

    def measures(self, names: Iterable[str], prefix: str = "") -> list[Measure]:
        """Means over the pictures; one that no picture allows is left out."""
        found = []
        for name in names:
            unit, better, kept = _PER_PICTURE[name]
            valid = {which: values[name][~np.isnan(values[name])] for which, values in self.agreement.items()}
            if all(len(values) for values in valid.values()):
                means = {which: float(values.mean()) for which, values in valid.items()}
                found.append(
                    Measure(prefix + name, n=len(valid["value"]), unit=unit, better=better, kept=kept, **means)
                )
        return found


def _compared(probes: Probes, source: ZooDomain, rows: list[int], translated: Tensor, target: ZooDomain) -> _Compared:
    """Read translations of the pictures `rows` of `source`, these, their counterparts, and as many of `target`."""
    (pictures, truths), (twin_pictures, twins) = labelled(source), labelled(source.counterpart(target.name))
    truths, twins = ([of[row] for row in rows] for of in (truths, twins))
    real_pictures, _ = labelled(target)
    readings = {
        "value": probes.read(translated),
        "source": probes.read(pictures[rows]),
        "target": probes.read(real_pictures)[np.arange(len(rows)) % len(real_pictures)],
        "counterpart": probes.read(twin_pictures[rows]),
    }
    k = probes.species.index(target.name)
    return _Compared(truths, twins, readings, {which: compare(truths, twins, r, k) for which, r in readings.items()})


def evaluate(probes: Probes, source: ZooDomain, translated: Tensor, target: ZooDomain) -> list[Measure]:
    """Measure translations of the first N pictures of `source`, uint8 or float in [-1, 1], (N, 3, H, W).

    target: real pictures of the target species, held out. In the column of the real pictures, source picture i is
    compared with real picture i, which has nothing to do with it; the background, with the median of all sources.
    Poses, facing apart, are judged by which the silhouette covers better, the perfect translation or the same in
    another pose: heads high for low or low for high (of those that are not level), legs together for apart. By chance
    that is a half. The shape's statistics are taken over pictures with one animal that the frame does not cut; a
    measure that no picture allows is left out.

    Raises TypeError if the domains have no ground truth, ValueError for numbers, sizes or species that do not fit.
    """
    for domain in (source, target):
        if not isinstance(domain, ZooDomain):
            raise TypeError(f"semantics are measured against the drawn zoo's ground truth; {domain.name!r} has none")
        if domain.name not in probes.species:
            raise ValueError(f"the probes know {', '.join(probes.species)}, not {domain.name!r}")
    if source.name == target.name:
        raise ValueError(f"source and target are both {source.name!r}: nothing is to be translated")
    n = len(translated)
    if not 0 < n <= len(source):
        raise ValueError(f"{n} translations of the {len(source)} pictures of {source.name}/{source.split}")

    source = replace(source, count=n)
    counterpart = source.counterpart(target.name)
    (pictures, truths), (twin_pictures, twins), (_, reals) = map(labelled, (source, counterpart, target))
    made = _compared(probes, source, list(range(n)), translated, target)

    originals = to_float(pictures)
    always = originals.median(0).values.expand_as(originals)  # a background that knows nothing of its source
    shown = {"value": translated, "source": originals, "target": always, "counterpart": twin_pictures}
    shown = {which: own.cpu() if own.is_floating_point() else to_float(own) for which, own in shown.items()}
    poses = _other_poses(counterpart)
    held = np.array([all(abs(animal.head) > HEAD_HELD for animal in truth.animals) for truth in truths])
    for which, reading in made.readings.items():
        agreement = made.agreement[which]
        agreement[BACKGROUND] = background(shown[which], originals, _masks(truths) | _masks(twins))
        agreement |= {name: pose_kept(reading.animals, _masks(twins), other) for name, other in poses.items()}
        agreement[HEAD][~held] = np.nan
    measures = made.measures(name for name in _PER_PICTURE if name != STILL_CUT)

    alone = _whole(truths) & _whole(twins)
    shapes = {which: silhouettes(r.animals[alone], r.facing_right[alone]) for which, r in made.readings.items()}
    real, alone = probes.read(labelled(target)[0]), _whole(reals)
    shapes["target"] = silhouettes(real.animals[alone], real.facing_right[alone])
    for statistic in SILHOUETTE:
        own, ideal = shapes["source"][statistic], shapes["target"][statistic]
        shifts = {which: shift(values[statistic], own, ideal) for which, values in shapes.items()}
        if not np.isnan(list(shifts.values())).any():
            found = int((~np.isnan(shapes["value"][statistic])).sum())
            name = f"shape: {statistic} moved to the target's"
            measures.append(Measure(name, n=found, unit="of the way", better="higher", kept=False, **shifts))
    return measures


def evaluate_cut(probes: Probes, source: ZooDomain, translated: Tensor, target: ZooDomain) -> list[Measure]:
    """Is "cropping by the image boundaries" (§4) reproduced?

    translated: translations, (n, 3, H, W) in [-1, 1], of those n pictures of `source` in which the frame cuts an animal
    (`cut`). As in `evaluate`, `target` are real pictures, in other scenes. No measures without such a picture.
    """
    rows = np.flatnonzero(cut(labelled(source)[1]).any(1)).tolist()
    if not rows:
        return []
    made = _compared(probes, source, rows, translated, target)
    others = "species, silhouette, number and facing all right", "overlap with the counterpart's silhouette"
    return made.measures([STILL_CUT]) + made.measures(others, "cut by the frame: ")


def table(measures: Sequence[Measure]) -> pd.DataFrame:
    """The measures as a table to show: a row each, what it is compared with beside it."""
    rows = [
        {
            "measure": m.name,
            "untouched source": m.source,
            "translated": m.value,
            "perfect translation": m.counterpart,
            "other real target pictures": m.target,
            "unit": m.unit,
            "better": m.better,
            "n": m.n,
        }
        for m in measures
    ]
    return pd.DataFrame(rows).dropna(axis="columns", how="all")

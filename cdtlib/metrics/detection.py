"""Is the right animal there, in the same number and place? Read off photos by a detector; beyond the paper.

The drawn zoo knows what its pictures show (`cdtlib.metrics.semantics`); photos do not say. A detector trained on COCO's
photos is asked instead, about translations, their sources, and real pictures of the target::

    detector = load_detector()
    measures = evaluate(*(detector.read(x) for x in (translated, zebras, giraffes)), ("zebra", "giraffe"))

It is torchvision's Faster R-CNN (Ren et al. 2015) with a ResNet-50 and a feature pyramid, in the form of Li et al.
2021 ("v2"), 46.7 box mAP on COCO's val2017. Its own transform enlarges pictures to 800 pixels, small ones too. A thing
counts as detected from a score of `THRESHOLD` on.

What to keep in mind. The detector makes mistakes, and it was trained on sharp photos: a translation may go undetected
for its blur alone. How often it finds the animal in real held-out pictures is in the references beside the numbers; if
these are COCO's, it may have been trained on them. It goes by the coat, too: a giraffe's coat on a zebra may pass for a
giraffe. And no photo shows the perfect translation: a giraffe's box in a zebra's place is taller than the zebra's, so
an overlap of 1 is out of reach; only that of the columns is blind to height.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights, fasterrcnn_resnet50_fpn_v2
from torchvision.ops import box_iou, nms

from cdtlib.data import to_uint8
from cdtlib.data.download import COCO_CLASSES
from cdtlib.features.backbones import full_precision, load_state
from cdtlib.metrics.semantics import Measure, columns, overlap
from cdtlib.metrics.weights import published

PUBLISHED = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1
URL = PUBLISHED.url
FILE = URL.rpartition("/")[2]  # fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth, 167 MB
HASH = Path(FILE).stem.rpartition("-")[2]  # the first digits of its SHA-256: torchvision puts them in the name
CATEGORIES = tuple(PUBLISHED.meta["categories"])  # by label; some are only placeholders

#: A detection counts from this score on. At 0.5 a box is more likely of its class than of all others together, going by
#: the detector's softmax, so one box cannot count as two classes.
THRESHOLD = 0.5

#: Two boxes that overlap (IoU) by more than this are of one animal. It is what the detector uses within a class.
SAME = 0.5


class Unmeasurable(ValueError):
    """Domains that the detector cannot tell."""


def coco_classes(source: str, target: str) -> tuple[str, str]:
    """COCO's names for two domains, which are called so but for capitals and underscores: "Teddy_bear".

    Raises Unmeasurable if one of them is none of the 80 classes, or if both are the same.
    """
    names = tuple(name.casefold().replace("_", " ") for name in (source, target))
    if unknown := [given for given, name in zip((source, target), names, strict=True) if name not in COCO_CLASSES]:
        raise Unmeasurable(
            f"the detector knows the 80 classes of COCO, and {' and '.join(map(repr, unknown))} "
            f"{'is' if len(unknown) == 1 else 'are'} not among them. If it is one under another name, call the folder "
            f"of photos by COCO's: {', '.join(COCO_CLASSES)}"
        )
    if names[0] == names[1]:
        raise Unmeasurable(f"{source!r} and {target!r} are one class of COCO: the detector sees no change")
    return names


# --- The detector ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What is found in one picture: K things, the likeliest first. Arrays of numpy."""

    boxes: np.ndarray  # (K, 4): left, top, right, bottom in pixels of the picture, from its upper left corner
    names: np.ndarray  # (K,) classes of COCO
    scores: np.ndarray  # (K,) in [0, 1]
    shape: tuple[int, int]  # the picture's height and width

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows) -> "Found":
        return Found(self.boxes[rows], self.names[rows], self.scores[rows], self.shape)

    def instances(self, classes: Sequence[str]) -> "Found":
        """Those of the given classes. One animal that was found as two of them counts once, as the likelier."""
        own = self[np.isin(self.names, classes)]
        return own[nms(torch.from_numpy(own.boxes), torch.from_numpy(own.scores), SAME).numpy()]

    @property
    def covered(self) -> np.ndarray:
        """Bool (H, W): the pixels whose centre lies in a box, the union of the boxes."""
        height, width = self.shape
        left, top, right, bottom = self.boxes.T[..., None]  # (K, 1) each
        y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
        rows, own = (top <= y) & (y < bottom), (left <= x) & (x < right)  # (K, H), (K, W)
        return (rows[:, :, None] & own[:, None, :]).any(0)


class Detector:
    """A detector with torchvision's interface: float (3, H, W) pictures in [0, 1] → boxes, labels and scores.

    categories: the names of its labels; threshold: the least score of what counts.
    """

    def __init__(self, network: nn.Module, categories: Sequence[str] = CATEGORIES, threshold: float = THRESHOLD):
        self.network, self.categories, self.threshold = network.eval(), np.array(categories), threshold

    @torch.inference_mode()
    def read(self, pictures: Tensor) -> list[Found]:
        """What is in pictures (N, 3, H, W), uint8 or float in [-1, 1]; the latter are rounded to 8 bits, as a file is.

        They are read one by one, so the result does not depend on N. With `load_detector`, each takes some 7 s on one
        CPU core. Raises ValueError for another shape, or values that are not finite.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"a detector reads pictures (N, 3, H, W), not {tuple(pictures.shape)}")
        if pictures.dtype != torch.uint8:
            if not pictures.isfinite().all():
                raise ValueError("the pictures to read have values that are NaN or infinite")
            pictures = to_uint8(pictures)
        device = next(self.network.parameters(), pictures).device
        found = []
        with full_precision():
            for picture in pictures:
                (seen,) = self.network([picture.to(device).float() / 255])
                boxes, labels, scores = (seen[key].cpu().numpy() for key in ("boxes", "labels", "scores"))
                rows = np.argsort(-scores, kind="stable")
                rows = rows[scores[rows] >= self.threshold]
                names = self.categories[labels[rows]]
                found.append(Found(boxes[rows], names, scores[rows], tuple(picture.shape[1:])))
        return found


def load_detector(weights: str | Path | None = None, device: str | torch.device = "cpu") -> Detector:
    """The detector described above, with the weights that `detector_weights` finds. Raises what that raises, and
    ValueError if the file cannot be read."""
    state = load_state(detector_weights(weights))
    network = _network()
    network.load_state_dict(state)
    return Detector(network.requires_grad_(False).to(device))


def _network() -> nn.Module:
    return fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)


def detector_weights(weights: str | Path | None = None) -> Path:
    """The file with the detector's weights (167 MB), given, found or downloaded, and checked: see
    `weights.published`."""
    return published(URL, HASH, weights)


# --- Measures --------------------------------------------------------------------------------------------------


_KEPT = {
    "number of animals kept": "share",
    "place: overlap of the columns taken up": "IoU",
    "place: overlap of all boxes": "IoU",
    "place: overlap of matched boxes": "IoU",
}


def recognised(found: Sequence[Found], name: str) -> np.ndarray:
    """In which pictures a class is detected, whatever else is there: bool (N,)."""
    return np.array([name in own.names for own in found])


def matched(a: Found, b: Found) -> float:
    """Overlap of two pictures' boxes, matched one to one so that the sum of their IoU is largest: that sum, divided by
    the number of boxes where there are more, so that one without a partner counts as 0. NaN if there is none at all."""
    if not max(len(a), len(b)):
        return float("nan")
    iou = box_iou(torch.from_numpy(a.boxes), torch.from_numpy(b.boxes)).double().numpy()
    return float(iou[linear_sum_assignment(iou, maximize=True)].sum() / max(len(a), len(b)))


def compare(source: Sequence[Found], seen: Sequence[Found], classes: tuple[str, str]) -> dict[str, np.ndarray]:
    """Per picture, how much of its source's number and place of animals it keeps: (N,) for each name of `_KEPT`.

    In both, the animals are the instances of either class (see `Found.instances`): whether they are of the right one is
    told elsewhere. The overlaps are intersections over unions: of the columns that the boxes take up, of the areas that
    all boxes cover together, and of `matched` boxes. NaN where no animal was found in the source.

    Raises ValueError if there are not as many pictures as sources, or if their shapes differ.
    """
    if len(source) != len(seen):
        raise ValueError(f"compare: {len(seen)} pictures were read, but there are {len(source)} sources")
    a, b = ([own.instances(classes) for own in found] for found in (source, seen))
    if different := [(x.shape, y.shape) for x, y in zip(a, b, strict=True) if x.shape != y.shape]:
        raise ValueError(f"compare: places in pictures of {different[0][1]} and {different[0][0]} pixels differ")
    covered = [np.stack([own.covered for own in found]) for found in (a, b)]  # (N, H, W) each
    values = (
        np.array([len(x) == len(y) for x, y in zip(a, b, strict=True)]),
        overlap(*map(columns, covered)),
        overlap(*covered),
        np.array([matched(x, y) for x, y in zip(a, b, strict=True)]),
    )
    there = np.array([len(own) > 0 for own in a])
    return {name: np.where(there, value, np.nan) for name, value in zip(_KEPT, values, strict=True)}


def evaluate(
    translated: Sequence[Found], source: Sequence[Found], target: Sequence[Found], classes: tuple[str, str]
) -> list[Measure]:
    """Measure translations by what was found in them, in their sources, one by one, and in real target pictures.

    classes: COCO's names of source and target (`coco_classes`). In the column of the real pictures, source i is
    compared with real picture i, which has nothing to do with it. What is to be kept is measured where an animal was
    found in the source; if that is nowhere, it is left out.

    Raises ValueError for numbers that do not fit.
    """
    n = len(translated)
    if not n or len(source) != n or not target:
        raise ValueError(f"{n} translations of {len(source)} pictures, and {len(target)} real ones to compare with")
    sets = {"value": translated, "source": source, "target": target}
    measures = []
    for name, species, better in zip(
        ("recognised as the target species", "still recognised as the source species"),
        reversed(classes),
        ("higher", "lower"),
        strict=True,
    ):
        means = {which: float(recognised(found, species).mean()) for which, found in sets.items()}
        measures.append(Measure(name, n=n, unit="share", better=better, kept=False, **means))
    sets["target"] = [target[i % len(target)] for i in range(n)]
    agreement = {which: compare(source, found, classes) for which, found in sets.items()}
    for name, unit in _KEPT.items():
        there = int((~np.isnan(agreement["value"][name])).sum())
        if there:
            means = {which: float(np.nanmean(values[name])) for which, values in agreement.items()}
            measures.append(Measure(name, n=there, unit=unit, better="higher", kept=True, **means))
    return measures

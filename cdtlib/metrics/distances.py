"""Distances between two sets of pictures: FID, KID, precision and recall, all of them torch-fidelity's.

In every function `x` is the set that is judged (the translations) and `y` the reference (real target pictures).

FID and KID are defined by one network, the Inception-v3 of 2015-12-05, and its 2048-d features. The same distances
on other features (an earlier layer of that network, or a backbone of ours) are useful, but their values are not
comparable with FID and KID, so they have other names here.

All of them depend on the number of pictures: the Fréchet distance is biased upwards, the more so the fewer there
are, and below d + 1 pictures the covariance of d-d features is singular. The kernel distance is unbiased. Hence both
sides are cut to the same number, which is returned as `n` and must be stated.
"""

import io
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from cdtlib.features.backbones import full_precision
from cdtlib.files import DamagedFile
from cdtlib.metrics.weights import published

FULL = URL_INCEPTION_V3.rpartition("/")[2]  # weights-inception-2015-12-05-6726825d.pth, 96 MB
FULL_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PARTIAL = "inception_fid768.safetensors"  # the same network up to its 768-d layer, torch-fidelity's key names

NEIGHBOURS = 3  # k of precision and recall; Kynkäänniemi et al. 2019
SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance; Binkowski et al. 2018


# --- On features -----------------------------------------------------------------------------------------


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians with the means and covariances of `x` and `y`.

    x (n, d), y (m, d): float features, n, m, d >= 2. Computed in double precision, whatever theirs is.
    Values just below 0 are rounding. Source: Heusel et al. 2017, eq. 6. Raises TypeError, ValueError.
    """
    x, y = checked(x=x, y=y)
    statistics = fid_features_to_statistics(x), fid_features_to_statistics(y)
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def kernel_distance(
    x: Tensor, y: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> float:
    """The squared maximum mean discrepancy of `x` and `y` with the kernel (x·y / d + 1)³, an unbiased estimate.

    x (n, d), y (m, d): float features, n, m, d >= 2. The mean over `subsets` random subsets of `subset_size`; if a side
    has no more than that, one subset as large as the smaller side. The estimate can be below 0 if x and y are alike.
    Source: Binkowski et al. 2018, section 4. Raises TypeError, ValueError.
    """
    x, y = checked(x=x, y=y)
    options = _subsets(min(len(x), len(y)), subsets, subset_size)
    return kid_features_to_metric(x, y, rng_seed=seed, verbose=False, **options)[KEY_METRIC_KID_MEAN]


def precision_recall(x: Tensor, y: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision, the share of `x` that lies where `y` is; and recall, the share of `y` that lies where `x` is.

    A set is where a ball around one of its points, reaching to that point's k-th nearest neighbour, reaches.
    x (n, d), y (m, d): float features, n, m > k, d >= 2. Source: Kynkäänniemi et al. 2019, eqs. 1 and 2, but on the
    features given instead of VGG-16's. Raises TypeError, ValueError.
    """
    x, y = checked(at_least=k + 1, x=x, y=y)
    metric = prc_features_to_metric(x, y, prc_neighborhood=k, save_cpu_ram=True, verbose=False)
    return metric[KEY_METRIC_PRECISION], metric[KEY_METRIC_RECALL]


def backbone_distances(features_x: Tensor, features_y: Tensor, seed: int = 0) -> dict[str, float]:
    """All distances on the features of a backbone of ours: no download, and never to be called FID or KID.

    features_x (n, d), features_y (m, d): float, y the reference. The larger set is cut to the size of the other at
    random (`seed`). Both are shifted and divided by a number, so that the mean of y is 0 and its variances have the
    mean 1, and the Fréchet distance is divided by d: at 1 it is as large as the variance of y, the trace of its
    covariance. Features of VGG-19 are hundreds of times as large as those of the embedded backbone, and far from 0,
    and the kernel takes the sixth power of that.
    Returns "fréchet_backbone", "kernel_backbone", "precision", "recall" and "n". Raises TypeError, and ValueError also
    where all of y are the same.
    """
    x, y = checked(at_least=NEIGHBOURS + 1, x=features_x, y=features_y)
    variance = float(y.var(0).mean())
    if not variance:
        raise ValueError(f"the features y of all {len(y)} pictures are the same: their spread is to be the unit")
    x, y = _equal(*((z - y.mean(0)) / variance**0.5 for z in (x, y)), seed)
    precision, recall = precision_recall(x, y)
    return {
        "fréchet_backbone": frechet_distance(x, y) / x.shape[1],
        "kernel_backbone": kernel_distance(x, y, seed=seed),
        "precision": precision,
        "recall": recall,
        "n": len(x),
    }


def spread(x: Tensor) -> float:
    """Mean Euclidean distance between two pictures of a set, features (n, d), n >= 2: 0 if all are the same."""
    return float(torch.pdist(checked(x=x)[0]).mean())


def speckle(pictures: Tensor) -> float:
    """Mean absolute difference between a pixel and the median of the 3×3 around it: pictures (N, 3, H, W) in [-1, 1].

    Noise raises it, flat areas and straight edges do not, and blur lowers it: compare it with that of real pictures.
    Features that are averaged over a picture hardly see it, nor do the distances on them.
    """
    found = []
    for part in pictures.split(16):
        padded = functional.pad(part.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")  # (n · 3, 1, H + 2, W + 2)
        windows = functional.unfold(padded, 3)  # (n · 3, 9, H · W)
        found.append((windows[:, 4] - windows.median(1).values).abs().mean(1).cpu())
    return float(torch.cat(found).mean())


def checked(at_least: int = 2, narrowest: int = 2, **sets: Tensor) -> list[Tensor]:
    """Sets of features (n, d) as double precision on the CPU, once they are known to be features of one layer.

    n is `at_least` and d `narrowest`, or more. Raises TypeError, ValueError that name the set; the latter also for
    values that are not finite.
    """
    for name, features in sets.items():
        if not torch.is_tensor(features) or not features.is_floating_point():
            kind = features.dtype if torch.is_tensor(features) else type(features).__name__
            raise TypeError(f"{name} must be a float tensor of features, not {kind}")
        if features.ndim != 2 or features.shape[1] < narrowest:
            raise ValueError(f"{name} must have the shape (n, d), d >= {narrowest}, not {tuple(features.shape)}")
        if len(features) < at_least:
            raise ValueError(f"too few pictures: {name} has {len(features)}, at least {at_least} are needed")
        if bad := int((~features.isfinite()).any(1).sum()):
            raise ValueError(f"{name}: the features of {bad} of {len(features)} pictures are not finite")
    widths = {name: features.shape[1] for name, features in sets.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"features of different layers, numbers a picture: {widths}")
    return [features.detach().cpu().double() for features in sets.values()]


def _subsets(n: int, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE) -> dict[str, int]:
    # All subsets as large as the set are the same.
    return {"kid_subsets": 1 if n <= subset_size else subsets, "kid_subset_size": min(n, subset_size)}


def _equal(x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    n = min(len(x), len(y))
    draw = np.random.default_rng(seed)
    return tuple(z if len(z) == n else z[np.sort(draw.choice(len(z), n, replace=False))] for z in (x, y))


# --- On pictures, by Inception ---------------------------------------------------------------------------


def inception_distances(
    images_x: Tensor,
    images_y: Tensor,
    weights: str | Path | None = None,
    feature: int = 2048,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """FID, KID, precision and recall of two sets of pictures.

    images_x (N, 3, H, W), images_y (M, 3, H, W): uint8 RGB; H and W can differ between the two. The larger set is
    cut to the size of the other at random (`seed`).

    :param weights: see `inception_weights`
    :param feature: 2048: "FID", "KID", "precision", "recall" are returned, with "n", the pictures on each side. 768: an
        earlier layer, for which a smaller file suffices. Its distances are named accordingly, e.g. "Fréchet distance
        (Inception 768-d)".
    :param device: "cpu" or "cuda"; the GPU if there is one

    Precision and recall are on Inception's features, not on VGG-16's as in their paper. On one CPU core, a picture
    takes about 0.25 s, and the 2048-d Fréchet distance some 10 s more. Raises TypeError, ValueError, and what
    `inception_weights` raises.
    """
    _check_pictures("x", images_x)
    _check_pictures("y", images_y)
    path = inception_weights(feature, weights)
    x, y = _equal(images_x.cpu(), images_y.cpu(), seed)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with full_precision():
        values = calculate_metrics(
            input1=_Pictures(x),
            input2=_Pictures(y),
            fid=True,
            kid=True,
            prc=True,
            feature_extractor="inception-v3-compat" if path.name != PARTIAL else "inception-v3-partial",
            feature_extractor_weights_path=str(path),
            # Each is given: without, torch-fidelity takes 2048-d features, or reports 0.
            feature_layer_fid=str(feature),
            feature_layer_kid=str(feature),
            feature_layer_prc=str(feature),
            prc_neighborhood=NEIGHBOURS,
            batch_size=batch_size,
            cuda=device.type == "cuda",
            rng_seed=seed,
            save_cpu_ram=True,  # reads the pictures in this process: they are in memory already
            cache=False,
            verbose=False,
            **_subsets(len(x)),
        )
    names = {
        "FID": values[KEY_METRIC_FID],
        "KID": values[KEY_METRIC_KID_MEAN],
        "precision": values[KEY_METRIC_PRECISION],
        "recall": values[KEY_METRIC_RECALL],
    }
    if feature == 768:
        other = {"FID": "Fréchet distance", "KID": "Kernel distance"}
        names = {f"{other.get(name, name)} (Inception 768-d)": value for name, value in names.items()}
    return {**names, "n": len(x)}


def inception_weights(feature: int = 2048, weights: str | Path | None = None) -> Path:
    """The file with the weights of Inception (96 MB), given, found or downloaded, and checked: see `weights.published`.

    :param feature: 2048 needs `FULL`, the file that torch-fidelity downloads; 768 takes `PARTIAL` too

    Raises ValueError for another `feature`, besides what `weights.published` raises.
    """
    if feature not in (768, 2048):
        raise ValueError(f"feature must be 2048 (FID) or 768, not {feature!r}")
    return published(URL_INCEPTION_V3, FULL_SHA256, weights, also=(PARTIAL,) if feature == 768 else ())


class PartialInception(FeatureExtractorInceptionV3):
    """torch-fidelity's extractor, with the weights of a safetensors file that ends at the 768-d layer."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **options):
        try:
            weights = load_file(feature_extractor_weights_path)
        except SafetensorError as error:
            raise DamagedFile(f"{feature_extractor_weights_path} is damaged ({error}): fetch it again") from error
        self.__dict__["path"] = feature_extractor_weights_path  # load_state_dict needs it within super().__init__
        # torch-fidelity reads its weights with torch.load, which takes an open file as well as a path.
        file = io.BytesIO()
        torch.save(weights, file)
        file.seek(0)
        super().__init__(name, features_list, feature_extractor_weights_path=file, **options)

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        missing, unknown = super().load_state_dict(weights, strict=False)
        unused = ("Mixed_7", "fc.")  # behind the 768-d layer: never evaluated
        wrong = unknown + [k for k in missing if not k.startswith(unused) and not k.endswith("num_batches_tracked")]
        if wrong:
            raise DamagedFile(f"{self.path} is not Inception up to its 768-d layer: {wrong[0]} is missing or unknown")


FEATURE_EXTRACTORS_REGISTRY["inception-v3-partial"] = PartialInception  # register_feature_extractor refuses a reload


class _Pictures(Dataset):
    def __init__(self, pictures: Tensor):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.pictures[index]


def _check_pictures(name: str, pictures: Tensor) -> None:
    if not torch.is_tensor(pictures) or pictures.dtype != torch.uint8:
        kind = pictures.dtype if torch.is_tensor(pictures) else type(pictures).__name__
        raise TypeError(f"the pictures {name} must be a uint8 tensor, not {kind} (see cdtlib.data.to_uint8)")
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"the pictures {name} must have the shape (N, 3, H, W), not {tuple(pictures.shape)}")
    if len(pictures) <= NEIGHBOURS:
        raise ValueError(f"too few pictures: {name} has {len(pictures)}, at least {NEIGHBOURS + 1} are needed")

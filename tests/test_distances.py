"""Distances against hand-computed values and torch-fidelity's own; weights are found, checked and never guessed."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from cdtlib.files import DamagedFile, sha256
from cdtlib.metrics import distances
from cdtlib.metrics.distances import (
    FULL,
    PARTIAL,
    backbone_distances,
    frechet_distance,
    inception_distances,
    inception_weights,
    kernel_distance,
    precision_recall,
    speckle,
    spread,
)


def normal(n: int, d: int = 8, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def with_statistics(mean: list[float], variance: list[float]) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly these: ± along each axis. (2d, d)"""
    d = len(mean)
    axes = torch.eye(d).double() * (torch.tensor(variance).double() * (2 * d - 1) / 2).sqrt()
    return torch.cat([axes, -axes]) + torch.tensor(mean).double()


def pictures(n: int, seed: int, brightest: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, brightest, (n, 3, 24, 24), generator=generator, dtype=torch.uint8)


# --- Fréchet ---------------------------------------------------------------------------------------------


def test_frechet_distance_of_known_gaussians():
    """|mean shift|² + Σ (σ_x - σ_y)² for diagonal covariances."""
    x = with_statistics([0, 0, 0], [1, 4, 9])
    y = with_statistics([3, 0, 4], [4, 4, 1])
    assert frechet_distance(x, y) == pytest.approx(25 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, abs=1e-9)
    assert frechet_distance(y, x) == pytest.approx(30, abs=1e-9)


def test_frechet_distance_to_itself_is_zero():
    x = normal(50)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)
    wide = normal(10, d=64)  # a singular covariance
    assert frechet_distance(wide, wide) == pytest.approx(0, abs=1e-4)


def test_frechet_distance_is_in_double_precision():
    """Far from the origin, single precision would lose the variance."""
    x, y = normal(200, seed=1).double(), normal(200, seed=2).double()
    assert frechet_distance(x + 1e5, y + 1e5) == pytest.approx(frechet_distance(x, y), rel=1e-6)
    half = normal(200).half()
    assert frechet_distance(half, half + 1) == pytest.approx(8, rel=1e-2)


# --- Kernel ----------------------------------------------------------------------------------------------


def test_kernel_distance_by_hand():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 0.0]])

    def k(a, b):
        return (float(a @ b) / 2 + 1) ** 3

    expected = k(x[0], x[1]) + k(y[0], y[1]) - 2 * sum(k(a, b) for a in x for b in y) / 4
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(y, x) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_unbiased():
    """Sets of one distribution: the mean over trials is 0 within its error, though single values are not."""
    values = np.array([kernel_distance(normal(20, seed=2 * i), normal(20, seed=2 * i + 1)) for i in range(200)])
    error = values.std() / math.sqrt(len(values))
    assert error > 0 and abs(values.mean()) < 3 * error
    assert (values < 0).any() and (values > 0).any()
    assert kernel_distance(normal(20), normal(20, seed=1, shift=1)) > 10 * values.std()


def test_kernel_distance_repeats_with_its_seed():
    x, y = normal(60, seed=1), normal(60, seed=2, shift=0.5)
    first = kernel_distance(x, y, subsets=5, subset_size=20, seed=3)
    assert kernel_distance(x, y, subsets=5, subset_size=20, seed=3) == first
    assert kernel_distance(x, y, subsets=5, subset_size=20, seed=4) != first
    # The mean over subsets estimates what the whole set does.
    many = kernel_distance(x, y, subsets=300, subset_size=20)
    assert many == pytest.approx(kernel_distance(x, y), rel=0.2)


# --- Precision and recall --------------------------------------------------------------------------------


def test_precision_and_recall_by_hand():
    """Reference: two groups. Judged: one of them, and a group far away."""
    group = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    reference = torch.cat([group, group + 100])
    judged = torch.cat([group + 0.1, group + 1000, group + 2000])
    precision, recall = precision_recall(judged, reference)
    assert precision == pytest.approx(1 / 3) and recall == pytest.approx(1 / 2)
    assert precision_recall(reference, judged) == pytest.approx((1 / 2, 1 / 3))
    assert precision_recall(group, group) == (1, 1)
    assert precision_recall(group, group + 50) == (0, 0)


# --- Agreement with torch-fidelity -----------------------------------------------------------------------


class Patches(FeatureExtractorBase):
    """A small network for torch-fidelity: the brightness of the 8 × 8 patches, 27 features of a 24 × 24 picture."""

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list)

    def forward(self, x):
        return (torch.nn.functional.avg_pool2d(x.float(), 8).flatten(1),)

    def convert_features_tuple_to_dict(self, features):
        return {"27": features[0]}

    @staticmethod
    def get_provided_features_list():
        return ("27",)


def test_agrees_with_torch_fidelity_from_end_to_end(monkeypatch):
    monkeypatch.setitem(FEATURE_EXTRACTORS_REGISTRY, "patches", Patches)
    x, y = pictures(60, 0), pictures(50, 1, brightest=250)
    theirs = calculate_metrics(
        input1=distances._Pictures(x),
        input2=distances._Pictures(y),
        feature_extractor="patches",
        **dict.fromkeys(["feature_layer_fid", "feature_layer_kid", "feature_layer_prc"], "27"),
        **dict.fromkeys(["fid", "kid", "prc"], True),
        kid_subsets=10,
        kid_subset_size=30,
        rng_seed=0,
        batch_size=7,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
    )
    x, y = (Patches("patches", ["27"])(z)[0] for z in (x, y))
    assert frechet_distance(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    ours = kernel_distance(x, y, subsets=10, subset_size=30)
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert precision_recall(x, y) == (theirs["precision"], theirs["recall"])


# --- All, on given features ------------------------------------------------------------------------------


def test_backbone_distances_use_equal_numbers_and_own_names():
    x, y = normal(40, seed=1), normal(25, seed=2, shift=0.3)
    result = backbone_distances(x, y)
    assert list(result) == ["fréchet_backbone", "kernel_backbone", "precision", "recall", "n"]
    assert result["n"] == 25 and all(math.isfinite(value) for value in result.values())
    assert backbone_distances(x, y) == result
    assert backbone_distances(x, y, seed=1) != result
    drawn, whole = distances._equal(torch.arange(9), torch.arange(8), 0)
    assert len(set(drawn.tolist())) == 8 and whole.tolist() == list(range(8))  # no picture twice
    swapped = backbone_distances(y, x)
    assert (swapped["precision"], swapped["recall"]) == (result["recall"], result["precision"])
    collapsed = backbone_distances(y[:1] + 0.01 * y, y)  # all of it is near to a picture of y, and to no other
    assert collapsed["precision"] == 1 and collapsed["recall"] < 0.1


def test_backbone_distances_are_measured_by_the_spread_of_the_reference():
    x, y = normal(40, seed=1), normal(40, seed=2, shift=0.3)
    result = backbone_distances(x, y)
    variance = y.double().var(0)
    assert result["fréchet_backbone"] == pytest.approx(frechet_distance(x, y) / float(variance.sum()))
    scaled = ((z - y.double().mean(0)) / variance.mean() ** 0.5 for z in (x, y))
    assert result["kernel_backbone"] == pytest.approx(kernel_distance(*scaled))
    elsewhere = backbone_distances(1000 * x + 500, 1000 * y + 500)  # large and far from 0, as VGG-19's features are
    assert elsewhere == pytest.approx(result, rel=1e-3)
    with pytest.raises(ValueError, match="y of all 40 pictures are the same"):
        backbone_distances(x, y[:1].expand(40, -1))


def test_backbone_distances_of_equal_sets():
    x = normal(30)
    result = backbone_distances(x, x)
    assert result["fréchet_backbone"] == pytest.approx(0, abs=1e-6)
    assert (result["precision"], result["recall"]) == (1, 1)
    assert result["kernel_backbone"] < 0.1  # the unbiased estimate is not exactly 0


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (normal(1), normal(10), ValueError, "too few pictures: x has 1, at least 2"),
        (normal(10), normal(0), ValueError, "too few pictures: y has 0"),
        (normal(10), normal(10, d=9), ValueError, "different layers.*'x': 8, 'y': 9"),
        (normal(10)[0], normal(10), ValueError, r"x must have the shape \(n, d\).*\(8,\)"),
        (normal(10, d=1), normal(10, d=1), ValueError, "d >= 2"),
        (normal(10), torch.zeros(10, 8, dtype=torch.uint8), TypeError, "y must be a float tensor .*torch.uint8"),
        (normal(10).numpy(), normal(10), TypeError, "x must be a float tensor of features, not ndarray"),
        (normal(10), torch.full((10, 8), math.nan), ValueError, "y: the features of 10 of 10 pictures are not finite"),
        (normal(10).index_fill(0, torch.tensor([3]), math.inf), normal(10), ValueError, "x: .* of 1 of 10 pictures"),
    ],
)
@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, precision_recall, backbone_distances])
def test_wrong_features_are_refused(distance, x, y, error, message):
    if distance in (precision_recall, backbone_distances):
        message = message.replace("at least 2", "at least 4")
    with pytest.raises(error, match=message):
        distance(x, y)


# --- Inception -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder_sha256(folder):
    return sha256(folder / FULL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of weights in the form of the real ones, but random, and the SHA-256 of the full one."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, weights):
            pass

    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = Random("random", ["2048"], feature_extractor_weights_path=nothing).state_dict()
        for name in weights:
            if name.endswith("conv.weight"):  # torch's default would let the signal fade out
                torch.nn.init.kaiming_normal_(weights[name])
    folder = tmp_path_factory.mktemp("weights")
    torch.save(weights, folder / FULL)
    save_file({k: v for k, v in weights.items() if not k.startswith(("Mixed_7", "fc."))}, folder / PARTIAL)
    return folder


@pytest.fixture
def published(folder, folder_sha256, monkeypatch):
    monkeypatch.setattr(distances, "FULL_SHA256", folder_sha256)
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.delenv("CDT_WEIGHTS", raising=False)


def test_inception_distances_of_the_768_d_layer(published, monkeypatch):
    x, y = pictures(5, 0), pictures(4, 1, brightest=128)
    result = inception_distances(x, y, published, feature=768, device="cpu", seed=1)
    kinds = ["Fréchet distance", "Kernel distance", "precision", "recall"]
    assert list(result) == [f"{kind} (Inception 768-d)" for kind in kinds] + ["n"]
    assert result["n"] == 4 and result["Fréchet distance (Inception 768-d)"] > 0

    # The full file holds the same network; the batch size changes nothing but rounding.
    monkeypatch.setenv("CDT_WEIGHTS", str(published / FULL))
    again = inception_distances(x, y, feature=768, device="cpu", seed=1, batch_size=2)
    assert again == pytest.approx(result, rel=1e-3)


def test_fid_is_asked_for_with_torch_fidelitys_own_network(published, monkeypatch):
    """The 2048-d case takes too long here for the real thing: what torch-fidelity is asked for is checked."""
    asked = {}

    def calculate(**options):
        asked.update(options, tf32=torch.backends.cudnn.allow_tf32)
        return {
            "frechet_inception_distance": 1.0,
            "kernel_inception_distance_mean": 2.0,
            "precision": 0.3,
            "recall": 0.4,
        }

    monkeypatch.setattr(distances, "calculate_metrics", calculate)
    before = torch.backends.cudnn.allow_tf32
    x, y = pictures(6, 0), pictures(4, 1)
    result = inception_distances(x, y, published, device="cpu", seed=5)
    assert result == {"FID": 1.0, "KID": 2.0, "precision": 0.3, "recall": 0.4, "n": 4}
    assert asked["feature_extractor"] == "inception-v3-compat" and not asked["tf32"] and not asked["cuda"]
    assert asked["feature_extractor_weights_path"] == str(published / FULL)
    assert [asked[f"feature_layer_{metric}"] for metric in ("fid", "kid", "prc")] == ["2048"] * 3
    assert torch.equal(asked["input2"].pictures, y) and all((own == x).all((1, 2, 3)).any() for own in asked["input1"])
    assert len(asked["input1"]) == 4 and asked["rng_seed"] == 5
    assert [asked[f"kid_{of}"] for of in ("subsets", "subset_size")] == [1, 4] and asked["prc_neighborhood"] == 3
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (pictures(3, 0), ValueError, "too few pictures: x has 3, at least 4"),
        (pictures(4, 0).float(), TypeError, "x must be a uint8 tensor, not torch.float32"),
        (pictures(4, 0)[:, :1], ValueError, r"\(N, 3, H, W\), not \(4, 1, 24, 24\)"),
        ([1, 2], TypeError, "not list"),
    ],
)
def test_wrong_pictures_are_refused_before_anything_is_loaded(offline, x, error, message):
    with pytest.raises(error, match=message):
        inception_distances(x, pictures(4, 0))


def test_weights_are_found(published, offline, monkeypatch):
    assert inception_weights(2048, published) == inception_weights(2048, published / FULL) == published / FULL
    assert inception_weights(768, published) == inception_weights(768, published / PARTIAL) == published / PARTIAL
    assert inception_weights(768, published / FULL) == published / FULL
    monkeypatch.setenv("CDT_WEIGHTS", str(published))
    assert inception_weights() == published / FULL


def test_missing_weights_are_named(published, offline, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"no {FULL} in CDT_WEIGHTS, which is not set.*no network"):
        inception_weights()
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no {PARTIAL} or {FULL} in {tmp_path}.*https.*set CDT_WEIGHTS"):
        inception_weights(768)
    for place in (tmp_path, tmp_path / "nowhere.pth", published / PARTIAL):  # given: not looked for elsewhere
        with pytest.raises(FileNotFoundError, match=f"{place} neither is nor holds {FULL}"):
            inception_weights(2048, place)
    with pytest.raises(ValueError, match="2048 .FID. or 768, not 64"):
        inception_weights(64, published)


def test_a_download_is_checked(published, offline, monkeypatch):
    asked = []

    def download(url, path, **options):
        asked.append((url, options["hash_prefix"]))
        Path(path).write_bytes((published / FULL).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    path = inception_weights()
    assert path == inception_weights(768) == Path(torch.hub.get_dir()) / "checkpoints" / FULL
    assert asked == [(distances.URL_INCEPTION_V3, distances.FULL_SHA256)]
    path.write_bytes(b"cut short")
    with pytest.raises(DamagedFile, match=f"{path} is damaged"):
        inception_weights()


def test_tampered_weights_are_refused(folder, tmp_path):
    with pytest.raises(DamagedFile, match=f"{FULL} is damaged or not the published file"):
        inception_distances(pictures(4, 0), pictures(4, 1), folder / FULL)  # random: not what was published

    x = pictures(4, 0)
    (tmp_path / PARTIAL).write_bytes((folder / PARTIAL).read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=f"{PARTIAL} is damaged"):
        inception_distances(x, x, tmp_path, feature=768, device="cpu")
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / PARTIAL)
    with pytest.raises(DamagedFile, match="not Inception up to its 768-d layer: Conv2d_1a_3x3.bn.weight is missing"):
        inception_distances(x, x, tmp_path, feature=768, device="cpu")


def test_speckle_by_hand():
    flat = torch.full((20, 3, 6, 8), 0.5)  # of more than one part
    assert speckle(flat) == 0
    edge = flat.clone()
    edge[:, :, :, 4:] = -1.0
    assert speckle(edge) == 0  # a straight edge is none
    flat[3, 1, 2, 3] = -0.5
    assert speckle(flat) == pytest.approx(1.0 / flat.numel())  # a pixel that is off by 1


def test_spread_by_hand():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    assert spread(x) == pytest.approx((5 + 0 + 5) / 3)
    assert spread(torch.ones(4, 2)) == 0
    with pytest.raises(ValueError, match="too few pictures"):
        spread(x[:1])

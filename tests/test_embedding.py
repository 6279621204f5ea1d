"""fc7 is torchvision's; the numbers in its space are those that a hand computes; degenerate sets are refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import VGG
from torchvision.transforms.v2 import functional as tv

from cdtlib.data import to_float
from cdtlib.data.zoo import INVENTED, ZooDomain
from cdtlib.features import backbones, classifier
from cdtlib.metrics.embedding import compare, target_share, tsne, two_sample_accuracy
from cdtlib.training.classification import Classifier


def normal(n: int, d: int = 8, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1)


# ---- fc7 ---------------------------------------------------------------------------------------------------


@pytest.fixture
def reference(monkeypatch) -> VGG:
    """torchvision's own VGG-19 with random weights, a 32nd as wide, with fully-connected layers of 24 and 20 units."""
    layers = tuple(c if c == "M" else c // 32 for c in backbones.VGG19_LAYERS)
    monkeypatch.setattr(backbones, "VGG19_LAYERS", layers)
    with torch.device("meta"):  # its own fully-connected layers have 120 million weights
        network = VGG(backbones.vgg19_layers(), init_weights=False)
    torch.manual_seed(0)
    network.features = backbones.vgg19_layers()
    network.classifier[0], network.classifier[3] = nn.Linear(49 * 16, 24), nn.Linear(24, 20)
    network.classifier[6] = nn.Linear(20, 10)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network.eval()


def test_fc7_is_what_torchvisions_last_layer_is_given(reference, tmp_path):
    save_file(reference.state_dict(), tmp_path / "vgg19.safetensors")
    images = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    constants = VGG19_Weights.IMAGENET1K_V1.transforms()
    x = tv.normalize(tv.to_dtype(images, torch.float32, scale=True), constants.mean, constants.std)
    given = []
    reference.classifier[6].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        reference(x)
    found = classifier.vgg19(tmp_path)(to_float(images))
    assert found.shape == (3, 20) and (found > 0).any() and (found >= 0).all()
    torch.testing.assert_close(found, given[0], rtol=1e-4, atol=1e-5)


def test_fc7_does_not_depend_on_how_many_pictures_there_are():
    images = to_float(ZooDomain("zebra", "test", 20, size=96).images())
    network = classifier.fc7("embedded")
    together = network(images)
    assert together.shape == (20, 128)
    torch.testing.assert_close(together, torch.cat([network(image[None]) for image in images]), rtol=1e-4, atol=1e-5)


def test_the_embedded_network_names_drawn_species_at_any_size():
    state = {k: v.float() for k, v in backbones.load_state(backbones.EMBEDDED_WEIGHTS).items()}
    model = Classifier(len(INVENTED))
    model.features = backbones.vgg19_layers(0.25)
    model.load_state_dict(state)
    network = classifier.fc7("embedded")
    small = to_float(ZooDomain("zebra", "test", 4, size=64).images())
    with torch.no_grad():
        torch.testing.assert_close(model.eval().classifier[8](network(small)), model(small), rtol=1e-4, atol=1e-4)
        for size in (64, 96):
            right = 0
            for label in range(0, len(INVENTED), 4):
                images = to_float(ZooDomain(INVENTED[label], "test", 10, size=size).images())
                right += int((model.classifier[8](network(images)).argmax(1) == label).sum())
            assert right >= 57, f"{right} of 60 right at {size} pixels"


def test_a_folder_may_hold_features_and_classifier_in_two_files(reference, tmp_path, monkeypatch):
    state = reference.state_dict()
    for part in ("features", "classifier"):
        save_file({k: v for k, v in state.items() if k.startswith(part)}, tmp_path / f"vgg19_{part}.safetensors")
    torch.save(state, tmp_path / "whole.pth")
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    halves, whole = classifier.fc7("vgg19").state_dict(), classifier.vgg19(tmp_path / "whole.pth").state_dict()
    assert halves.keys() == whole.keys() and all(torch.equal(halves[k], whole[k]) for k in whole)
    assert torch.equal(halves["fc7.weight"], state["classifier.3.weight"])


def test_missing_and_wrong_weights_are_named(reference, tmp_path):
    state = reference.state_dict()
    only = {k: v for k, v in state.items() if k.startswith("features")}
    save_file(only, tmp_path / "vgg19_features.safetensors")
    for source in (tmp_path, tmp_path / "vgg19_features.safetensors"):
        with pytest.raises(ValueError, match=r"4 weights are missing: classifier\.0\.bias.*vgg19_classifier\*"):
            classifier.vgg19(source)
    save_file(state | {"classifier.0.weight": torch.zeros(24, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: fc6\.weight.*\(24, 7\) instead of \(24, 784\)"):
        classifier.vgg19(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at .*nowhere"):
        classifier.vgg19(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"weights are missing: classifier\.0\.bias.*vgg19-dcbb9e9d\.pth"):
        classifier.vgg19(tmp_path / "empty")


def test_what_has_no_fc7_is_refused():
    with pytest.raises(ValueError, match="'resnet' has no fc7 here; there are vgg19, embedded"):
        classifier.fc7("resnet")
    with pytest.raises(TypeError, match="to_float"):
        classifier.fc7("embedded")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


# ---- t-SNE -------------------------------------------------------------------------------------------------


def test_tsne_is_repeatable_and_keeps_clusters():
    features = torch.cat([normal(30), normal(30, seed=1, shift=8)])
    points = tsne(features, perplexity=10, seed=3)
    assert points.shape == (60, 2) and points.dtype == np.float64
    assert np.array_equal(points, tsne(features, perplexity=10, seed=3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag([np.inf] * 60)
    assert ((distances.argmin(1) < 30) == (np.arange(60) < 30)).all()


@pytest.mark.parametrize("perplexity, fits", [(6.5, True), (7, False), (0.5, False)])
def test_a_perplexity_that_does_not_fit_is_refused(perplexity, fits):
    if fits:
        assert tsne(normal(20), perplexity=perplexity).shape == (20, 2)
    else:
        with pytest.raises(ValueError, match=f"perplexity {perplexity:g} does not fit 20 .* below 6.66667"):
            tsne(normal(20), perplexity=perplexity)


def test_equal_features_cannot_be_projected():
    with pytest.raises(ValueError, match="all 20 pictures are the same"):
        tsne(torch.ones(20, 4), perplexity=3)


# ---- neighbours --------------------------------------------------------------------------------------------


def test_target_share_by_hand():
    source, target = column(0.0, 1, 2), column(10.0, 11, 12)
    assert target_share(column(0.4, 11.6), source, target, k=2) == 0.5  # one in each
    for k, share in {1: 1, 2: 1 / 2, 3: 2 / 3, 4: 1 / 2, 5: 3 / 5}.items():  # from 6.1: 10, 2, 11, 1, 12
        assert target_share(column(6.1), source, target, k=k) == pytest.approx(share)


def test_a_translation_is_not_the_neighbour_of_its_own_source():
    source, target = column(0.0, 1, 2), column(0.1, 1.1, 2.1)
    # Without themselves, 0 and 1 and 2 have their twins in the target as nearest neighbours.
    assert target_share(source, source, target, k=1) == 0
    assert target_share(source, source, target, k=1, paired=True) == 1
    # A translation that changes nothing scores as the untouched source does.
    sets = normal(40), normal(40, seed=1, shift=0.5)
    assert target_share(sets[0] + 1e-9, *sets, paired=True) == target_share(sets[0], *sets, paired=True)


def test_target_share_of_one_distribution_is_half():
    assert target_share(normal(200, seed=1), normal(200, seed=2), normal(200, seed=3)) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "sets, options, message",
    [
        ((normal(3), normal(4), normal(5)), {}, "source has 4 pictures and target 5"),
        ((normal(3), normal(4), normal(4)), {"paired": True}, "x has 3 rows and source 4"),
        ((normal(3), normal(4), normal(4)), {"k": 8}, "so 1 to that, not 8"),
        ((normal(3), normal(4), normal(4)), {"k": 0}, "so 1 to that, not 0"),
        ((normal(3), normal(4, d=7), normal(4)), {}, "different layers.*'source': 7"),
        ((normal(3) / 0, normal(4), normal(4)), {}, "x: the features of 3 of 3 pictures are not finite"),
        ((normal(3)[0], normal(4), normal(4)), {}, r"x must have the shape \(n, d\), d >= 1, not \(8,\)"),
        ((normal(0), normal(4), normal(4)), {}, "x has 0, at least 1"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(sets, options, message):
    with pytest.raises(ValueError, match=message):
        target_share(*sets, **{"k": 2} | options)


def test_features_must_be_a_float_tensor():
    with pytest.raises(TypeError, match="x must be a float tensor of features, not torch.int64"):
        target_share(torch.ones(4, 2, dtype=torch.int64), normal(4), normal(4), k=1)
    with pytest.raises(TypeError, match="not ndarray"):
        tsne(np.ones((9, 2)), perplexity=2)


# ---- two-sample test ---------------------------------------------------------------------------------------


def test_two_sample_accuracy():
    assert two_sample_accuracy(normal(50), normal(50, seed=1, shift=5)) == 1
    same = two_sample_accuracy(normal(200), normal(200, seed=1))
    assert abs(same - 0.5) < 3 / (8 * 200) ** 0.5
    assert same == two_sample_accuracy(normal(200), normal(200, seed=1))
    wide = two_sample_accuracy(normal(20, d=60), normal(20, d=60, seed=1))
    assert abs(wide - 0.5) < 3 / (8 * 20) ** 0.5  # what is told apart was not trained on
    # One feature whose best threshold, in between, is right for three of four.
    x, y = column(*[0.0] * 30, *[1.0] * 10), column(*[1.0] * 30, *[0.0] * 10)
    assert two_sample_accuracy(x, y) == pytest.approx(0.75)


def test_the_scale_of_a_feature_does_not_matter():
    x, y = normal(60, d=3), normal(60, d=3, seed=1, shift=0.7)
    scales = torch.tensor([1.0, 1e4, 1e-4])
    assert two_sample_accuracy(x * scales, y * scales) == two_sample_accuracy(x, y)


def test_sets_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="y has 4, at least 5"):
        two_sample_accuracy(normal(5), normal(4))
    with pytest.raises(ValueError, match="x has 6 pictures and y 5"):
        two_sample_accuracy(normal(6), normal(5))
    with pytest.raises(ValueError, match="all 12 pictures are the same"):
        two_sample_accuracy(torch.ones(6, 3), torch.ones(6, 3))


# ---- all of them -------------------------------------------------------------------------------------------


def test_what_one_number_does_not_see_another_does():
    source, target = normal(60, shift=-20), normal(60, seed=1)
    share, precision, recall, accuracy = range(4)

    def numbers(x: torch.Tensor) -> list[float]:
        return list(compare(x, source, target).values())

    ideal = numbers(normal(60, seed=2))
    assert ideal[share] == 1 and min(ideal[precision], ideal[recall]) > 0.7 and abs(ideal[accuracy] - 0.5) < 0.15
    far = numbers(normal(60, seed=2, shift=100))  # beyond the target, seen from the source
    assert far[share] == 1 and far[precision] == 0 and far[accuracy] == 1
    collapsed = numbers(target[:1] + 0.01 * normal(60, seed=2))  # always the same picture
    assert collapsed[share] == 1 and collapsed[precision] == 1 and collapsed[recall] < 0.1
    untouched = compare(source, source, target, paired=True)
    assert list(untouched.values()) == [0, 0, 0, 1]
    assert compare(target, source, target, k=90)["share of target among neighbours"] == pytest.approx(60 / 90)

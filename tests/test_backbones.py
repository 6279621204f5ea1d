"""Other backbones than VGG-19 as it is: AlexNet in every network, fine-tuning, and what a backbone looks at."""

import os
from dataclasses import replace
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchvision.models import alexnet as torchvision_alexnet

from cdtlib import plots
from cdtlib.cascade import Cascade
from cdtlib.data.zoo import ZooDomain
from cdtlib.features import backbones
from cdtlib.features.backbones import (
    ALEXNET,
    ARCHITECTURES,
    Backbone,
    alexnet,
    alexnet_layers,
    embedded,
    embedded_alexnet,
    map_shape,
    vgg19,
)
from cdtlib.features.store import FeatureStore
from cdtlib.features.store import build as build_store
from cdtlib.files import DamagedFile, sha256
from cdtlib.method import CascadedTranslation
from cdtlib.metrics import attention
from cdtlib.models.critic import Critic
from cdtlib.models.inverter import Inverter
from cdtlib.settings import Backbones, Inversion, Settings, Translation, load
from cdtlib.training import classification, inversion
from cdtlib.training.classification import DomainClassifier, fine_tune, fit_head, fold_batch_norm
from cdtlib.training.run import Run
from cdtlib.training.translation import make_translator

PAPER = Settings(profile="paper", pair=("a", "b"))
SIZES = (48, 64, 96, 128, 224)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.delenv("CDT_WEIGHTS", raising=False)
    monkeypatch.setattr(os, "fsync", lambda file: None)


def random_alexnet(width: float = 1 / 16) -> Backbone:
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in alexnet_layers(width).state_dict().items()}
    return Backbone("alexnet", width, state, "random", ALEXNET)


def pictures(n: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.rand(n, 3, size, size, generator=generator) * 2 - 1


# ---- geometry ----------------------------------------------------------------------------------------------


def test_features_are_torchvisions_before_the_relu():
    with torch.device("meta"):
        reference = torchvision_alexnet(weights=None).features
    reference = reference.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    for parameter in reference.parameters():
        nn.init.uniform_(parameter, -0.05, 0.05)
    backbone = Backbone("alexnet", 1.0, {f"features.{k}": v for k, v in reference.state_dict().items()}, "", ALEXNET)
    assert str(alexnet_layers()) == str(reference)
    images = pictures(2, 64)
    x, convolutions = ((images + 1) / 2 - backbone.mean) / backbone.std, 0
    maps = backbone(images)
    for index, layer in enumerate(reference):
        with torch.no_grad():
            x = layer(x.clone())  # a ReLU is in place
        if isinstance(layer, nn.Conv2d):
            convolutions += 1
            torch.testing.assert_close(maps[convolutions], x, rtol=1e-4, atol=1e-4)
            assert ALEXNET.taps[convolutions] == index and (x < 0).any()
    assert convolutions == 5


@pytest.mark.parametrize("size", SIZES)
def test_a_backbone_knows_the_shape_of_its_maps(size):
    for backbone in (random_alexnet(), embedded()):
        maps = backbone(pictures(1, size))
        assert {i: tuple(m.shape[1:]) for i, m in maps.items()} == {
            i: map_shape(backbone, i, size) for i in range(1, 6)
        }


def test_alexnets_maps_at_224_pixels():
    assert [map_shape(random_alexnet(), i, 224)[1] for i in range(1, 6)] == [55, 27, 13, 13, 13]


def test_pictures_too_small_for_alexnet_are_refused():
    with pytest.raises(ValueError, match="data.size 32: level 5 of AlexNet .*at least 48"):
        map_shape(random_alexnet(), 5, 32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [5, 4, 3, 2, 1])
def test_networks_fit_alexnets_maps(level, size):
    backbone = random_alexnet()
    shape = map_shape(backbone, level, size)
    settings = PAPER.translation.get(level, Translation())
    channels, side, _ = map_shape(backbone, level + 1, size) if level < 5 else (None, None, None)
    with torch.device("meta"):  # shapes without arithmetic
        x = torch.empty(2, *shape)
        inputs = [x] if level == 5 else [x, torch.empty(2, channels, side, side)]
        assert make_translator(level, shape, channels, settings, side)(*inputs).shape == x.shape
        assert Critic(*shape[:2], settings.critic_width)(x).shape == (2,)
        inverter = Inverter(shape[0], Inversion().width[level], ALEXNET.halvings[level])
        assert inverter(x).shape == (2, 3, size, size)


@pytest.mark.parametrize("size, crop", [(96, 2), (128, 2), (128, 3), (224, 2)])
def test_a_window_of_alexnets_maps_is_inverted_to_the_window_of_the_picture(size, crop):
    backbone = random_alexnet()
    shape, lost = map_shape(backbone, 3, size), ALEXNET.halvings[3]
    x = torch.arange(float(shape[1])).expand(1, shape[0], shape[1], shape[1])  # each value is its column
    image = torch.arange(float(size)).expand(1, 3, size, size)
    small, part = inversion.window(x, image, crop, 2 ** len(lost))
    assert small.shape[-1] == shape[1] // crop
    assert Inverter(shape[0], 8, lost)(small).shape == part.shape
    assert part[0, 0, 0, 0] == 16 * small[0, 0, 0, 0]


def test_a_cell_sees_its_place():
    # The centre of what an inner cell sees is where `activation_maps` draws it.
    backbone = embedded_alexnet()
    x = pictures(1, 224).requires_grad_()
    (gradient,) = torch.autograd.grad(backbone(x)[5][0, :, 6, 6].sum(), x)
    seen = gradient.abs().sum((0, 1)).nonzero().double()
    centre = (seen.min(0).values + seen.max(0).values) / 2
    assert (centre - (16 * 6 + 15)).abs().max() <= 1


# ---- weights -----------------------------------------------------------------------------------------------


def test_embedded_alexnet_is_recorded_and_small():
    backbone, record = embedded_alexnet(), classification.recorded(backbones.EMBEDDED_ALEXNET_WEIGHTS)
    assert backbone.channels == {1: 16, 2: 48, 3: 96, 4: 64, 5: 64}
    assert record["accuracy"] > 0.9 and "--architecture alexnet" in record["command"]
    assert backbones.EMBEDDED_ALEXNET_WEIGHTS.stat().st_size < 1e6
    assert backbone.fingerprint != embedded().fingerprint
    right, n = classification.held_out_accuracy(backbones.EMBEDDED_ALEXNET_WEIGHTS, 1, "alexnet")
    assert n == 24 and right > 0.8


def test_another_architecture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no 'resnet'; choose one of vgg19, alexnet"):
        classification.pretrain_embedded(tmp_path, tmp_path / "x.safetensors", architecture="resnet")


def test_alexnets_weights_are_found_and_others_refused_by_name(tmp_path, monkeypatch):
    narrow = tuple(c if c == "M" else (c[0] // 16, *c[1:]) for c in backbones.ALEXNET_LAYERS)
    monkeypatch.setattr(backbones, "ALEXNET_LAYERS", narrow)
    state = {f"features.{k}": v for k, v in alexnet_layers().state_dict().items()}
    with pytest.raises(
        FileNotFoundError, match=r"no AlexNet weights in .*alexnet\*\.safetensors.*alexnet-owt-7be5be79"
    ):
        alexnet(tmp_path)
    save_file(state, tmp_path / "alexnet_features.safetensors")
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    found = alexnet()
    assert found.name == "alexnet" and all(
        torch.equal(v, state[f"features.{k}"]) for k, v in found.features.state_dict().items()
    )
    with pytest.raises(ValueError, match="alexnet_features.*do not fit vgg19.*VGG-19 with torchvision.*files of both"):
        vgg19(tmp_path / "alexnet_features.safetensors")
    save_file({k: v for k, v in state.items() if k != "features.6.weight"}, tmp_path / "alexnet_features.safetensors")
    with pytest.raises(ValueError, match="do not fit alexnet: missing .*6.weight.*AlexNet with torchvision"):
        alexnet()


def test_folded_batch_norm_is_the_same_function():
    torch.manual_seed(0)
    features = alexnet_layers(1 / 16, batch_norm=True)
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    x = torch.randn(2, 3, 64, 64)
    folded = fold_batch_norm(features)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), features.eval()(x), rtol=1e-4, atol=1e-5)
    assert folded.state_dict().keys() == alexnet_layers(1 / 16).state_dict().keys()


# ---- the method on another backbone ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def method(tmp_path_factory) -> CascadedTranslation:
    s = load("smoke", data={"size": 48, "train": 6, "test": 4}, device="cpu", inversion={"crop": {3: 1}})
    domains = {
        side: {split: ZooDomain(name, split, n, size=48) for split, n in (("train", 6), ("test", 4))}
        for side, name in zip("ab", s.pair, strict=True)
    }
    return CascadedTranslation(s, domains, tmp_path_factory.mktemp("method"))


def test_the_whole_cascade_on_alexnet(method, tmp_path):
    other = method.with_backbone(embedded_alexnet())
    cascade = other.cascade(inverters=(5, 3))
    images = method.store("a", "test").images()
    for level in (5, 3):
        assert cascade.translate(images, "b", level=level).shape == images.shape
    assert other.runs is method.runs and method.backbone.name == "embedded"
    assert all(run.name.endswith("-embedded_alexnet") for run in method.runs)
    settings = load("smoke", backbone="embedded_alexnet", data={"size": 48})
    cascade.save(tmp_path, settings)
    loaded, _ = Cascade.load(tmp_path)
    torch.testing.assert_close(loaded.translate(images, "b"), cascade.translate(images, "b"), atol=1e-5, rtol=0)


def test_a_cut_cascade_makes_no_more_than_it_needs(method):
    other = method.with_backbone(random_alexnet(), levels=(5,))
    assert other.store("a").levels == (5,) and method.store("a").levels == (5, 4, 3)
    other.cascade()
    assert [run.name for run in method.runs[-3:]] == [
        "translator-zebra-giraffe-level5-alexnet", "inverter-zebra-level5-alexnet", "inverter-giraffe-level5-alexnet",
    ]  # fmt: skip


# ---- telling the domains apart -----------------------------------------------------------------------------


class Plain:
    """A domain of dark or bright noise."""

    def __init__(self, name: str, low: int, high: int):
        self.name, self.split, self.size, self.fingerprint = name, "train", 32, name
        random = torch.Generator().manual_seed(low)
        self.pictures = torch.randint(low, high, (12, 3, 32, 32), dtype=torch.uint8, generator=random)

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices) -> torch.Tensor:
        return self.pictures[list(indices)]


def stores(root, backbone: Backbone) -> tuple[FeatureStore, FeatureStore]:
    domains = (Plain("dark", 0, 120), Plain("bright", 135, 255))
    return tuple(build_store(domain, backbone, root, levels=(5,), views=2) for domain in domains)


def test_fine_tuning_learns_and_leaves_the_backbone_as_it_was(tmp_path):
    backbone = embedded()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    a, b = stores(tmp_path, backbone)
    settings = Backbones(steps=15, batch=8, learning_rate=1e-3)

    def trained():
        with Run("classifier", settings.model_dump(), root=tmp_path, log_every=1) as run:
            return fine_tune(run, backbone, a, b, settings), run

    classifier, run = trained()
    log = run.curve()
    assert log["cross_entropy"].iloc[-1] < 0.5 * log["cross_entropy"].iloc[0]
    logits = classifier.logits(torch.cat([a.images(), b.images()]))
    assert ((logits > 0) == (torch.arange(48) >= 24)).all()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert backbone.fingerprint != classifier.backbone.fingerprint == run.id and classifier.backbone.name == "finetuned"
    assert not any(p.requires_grad for p in classifier.backbone.parameters())
    deepest = classifier.backbone.features[-1].weight, backbone.features[-1].weight
    shallowest = classifier.backbone.features[0].weight, backbone.features[0].weight
    assert not torch.equal(*deepest) and not torch.equal(*shallowest)  # all of it was trained
    again, run = trained()
    assert run.reused and torch.equal(again.logits(a.images()), classifier.logits(a.images()))


def test_a_head_alone_is_a_logistic_regression(tmp_path):
    backbone = embedded()
    a, b = stores(tmp_path, backbone)
    classifier = fit_head(backbone, a, b)
    rows = a.originals()
    images = torch.cat([a.images(rows), b.images(rows)])
    with torch.no_grad():
        pooled = backbone(images)[5].relu().mean((2, 3)).numpy()
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    expected = reference.fit(pooled, np.repeat([0, 1], 12)).decision_function(pooled)
    np.testing.assert_allclose(classifier.logits(images).numpy(), expected, rtol=1e-3, atol=1e-3)


# ---- what a backbone looks at ------------------------------------------------------------------------------


class Brightness(nn.Module):
    """Level 5 is the mean colour of each 16 × 16 pixels, in two channels: red and minus red."""

    architecture = ARCHITECTURES["vgg19"]
    channels = {5: 2}

    def __init__(self, mean: float = 0.5):
        super().__init__()
        self.mean = torch.full((1, 3, 1, 1), mean)

    def forward(self, images):
        red = nn.functional.avg_pool2d(images[:, :1], 16)
        return {5: torch.cat([red, -red], 1)}


@pytest.fixture
def by_hand() -> DomainClassifier:
    classifier = DomainClassifier(Brightness())
    with torch.no_grad():
        classifier.head.weight.copy_(torch.tensor([[2.0, -1.0]]))
        classifier.head.bias.fill_(0.25)
    return classifier


def test_class_activation_map_by_hand(by_hand):
    images = torch.zeros(1, 3, 32, 32)
    images[:, 0, :16, :16], images[:, 0, 16:, 16:] = 0.5, -1.0
    # red 0.5: 2 · 0.5; red -1: -1 · 1
    assert by_hand.evidence(images).tolist() == [[[1.0, 0.0], [0.0, -1.0]]]
    assert by_hand.logits(images).item() == pytest.approx(0.25)
    with torch.no_grad():
        assert by_hand(images).item() == pytest.approx(by_hand.evidence(images).mean().item() + 0.25)
    maps = attention.activation_maps(by_hand, images, "b")
    assert maps.shape == (1, 32, 32) and (maps[0, :8, :8] == 1).all() and (maps[0, -8:, -8:] == -1).all()
    assert maps[0, 8, 8].item() == pytest.approx((15.5 / 16) ** 2 - (0.5 / 16) ** 2)  # just behind a cell's centre
    assert torch.equal(attention.activation_maps(by_hand, images, "a"), -maps)


def test_activation_maps_of_alexnet_are_as_large_as_the_picture():
    classifier = DomainClassifier(random_alexnet())
    for size in (32, 96):
        assert attention.activation_maps(classifier, pictures(2, size), "a").shape == (2, size, size)


def test_occlusion_by_hand(by_hand):
    images = torch.zeros(2, 3, 32, 32)
    images[0, 0, :16, :16] = 0.5
    maps = attention.occlusion_maps(by_hand, images, "b", patch=16, stride=16)
    # Grey over the red corner takes its evidence away: 1 of 4 cells.
    expected = torch.zeros(2, 32, 32)
    expected[0, :16, :16] = 0.25
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(attention.occlusion_maps(by_hand, images, "a", patch=16, stride=16), -expected)
    # Patches that overlap, and one that ends at the border: every pixel is covered, and none counts for more.
    red = torch.zeros(1, 3, 32, 32)
    red[:, 0] = 0.5  # each patch takes away its share of the evidence, 1
    for patch, stride in ((12, 5), (16, 8)):
        maps = attention.occlusion_maps(by_hand, red, "b", patch=patch, stride=stride)
        torch.testing.assert_close(maps, torch.full((1, 32, 32), (patch / 32) ** 2))
    by_hand.backbone = Brightness(mean=0.75)  # a patch of that colour, 0.5 in [-1, 1], is not seen on this red
    assert not attention.occlusion_maps(by_hand, red, "b", patch=16, stride=16).any()


def test_share_on_the_mask_by_hand():
    maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    mask = np.zeros((3, 2, 2), bool)
    mask[:, 0, 0] = True
    np.testing.assert_allclose(attention.share_on(maps, mask), [0.75, 0.25, np.nan])


def test_heat_shows_the_positive_part():
    maps = torch.zeros(2, 8, 8)
    maps[0, 2, 3], maps[0, 5, 5] = 2.0, -2.0
    seen = plots.heat(torch.zeros(2, 3, 8, 8), maps).int()
    assert seen.shape == (2, 3, 8, 8) and seen.min() >= 0
    brightness = seen.sum(1)
    assert brightness[0].argmax() == 2 * 8 + 3 and brightness[0, 5, 5] == brightness[1, 0, 0]
    maps[1, 7, 7] = 0.1  # the largest of its picture
    seen = plots.heat(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8), maps).int()
    assert (seen[1, :, 7, 7] - seen[0, :, 2, 3] - 0.35 * 255).abs().max() <= 1  # the brighter picture, the same colour


@pytest.mark.parametrize("error", [URLError("Name or service not known"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded_or_read_are_named(tmp_path, monkeypatch, error):
    def fails(**_):
        raise error

    monkeypatch.delenv("CDT_WEIGHTS", raising=False)
    pretrained = SimpleNamespace(url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", get_state_dict=fails)
    monkeypatch.setattr(backbones, "VGG19", replace(backbones.VGG19, pretrained=pretrained))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="VGG-19: https.*dcbb9e9d.pth cannot be downloaded.*--weights"):
        backbones.vgg19()
    cached = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"a part of it")
    with pytest.raises(DamagedFile, match="vgg19-dcbb9e9d.pth cannot be read .*remove it"):
        backbones.vgg19()


def test_torchvisions_own_weights_are_the_same_however_they_came(tmp_path, monkeypatch):
    path = tmp_path / "alexnet-owt-0123abcd.pth"
    torch.save({f"features.{name}": value for name, value in embedded_alexnet().features.state_dict().items()}, path)
    here, asked = sha256(path), []
    pretrained = SimpleNamespace(
        url=f"https://download.pytorch.org/models/alexnet-owt-{here[:8]}.pth",
        get_state_dict=lambda **given: asked.append(given) or torch.load(path, weights_only=True),
    )
    monkeypatch.setattr(backbones, "Backbone", lambda *about: about[3])
    downloaded = backbones._imagenet(replace(backbones.ALEXNET, pretrained=pretrained), None)
    given = backbones._imagenet(replace(backbones.ALEXNET, pretrained=pretrained), path)
    assert downloaded == given == here[:8] and [given["check_hash"] for given in asked] == [True]
    assert backbones._imagenet(backbones.ALEXNET, path) == here[:16]  # another file

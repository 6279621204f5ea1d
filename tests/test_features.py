"""The backbone's features, its weight files, and the normalisation of feature maps."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG19_Weights
from torchvision.models import vgg19 as torchvision_vgg19
from torchvision.transforms.v2 import functional as tv

from cdtlib.data import to_float
from cdtlib.features import backbones
from cdtlib.features.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, embedded, load_state, map_shape, vgg19
from cdtlib.features.normalise import ChannelStatistics, channel_statistics
from cdtlib.training.classification import fold_batch_norm

CONV_I_1 = {1: 0, 2: 5, 3: 10, 4: 19, 5: 28}  # indices in torchvision's `features`


@pytest.fixture(autouse=True)
def no_weights_given(monkeypatch):
    monkeypatch.delenv("CDT_WEIGHTS", raising=False)


def torchvision_features() -> nn.Sequential:
    """torchvision's own VGG-19 with random weights, without its 120 million fully-connected ones."""
    with torch.device("meta"):
        features = torchvision_vgg19(weights=None, init_weights=False).features
    torch.manual_seed(0)
    features = features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return features.eval()


def pictures(n: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


# ---- features ----------------------------------------------------------------------------------------------


def test_features_are_torchvisions_before_the_relu():
    reference = torchvision_features()
    backbone = Backbone("vgg19", 1.0, {f"features.{k}": v for k, v in reference.state_dict().items()}, "random")
    images = pictures(2, 32)
    # As torchvision feeds it: pictures in [0, 1], normalised with the constants that come with the weights.
    constants = VGG19_Weights.IMAGENET1K_V1.transforms()
    x = tv.normalize(tv.to_dtype(images, torch.float32, scale=True), constants.mean, constants.std)
    maps = backbone(to_float(images))
    assert list(maps) == [1, 2, 3, 4, 5]
    for level, index in CONV_I_1.items():
        assert isinstance(reference[index], nn.Conv2d) and isinstance(reference[index - 1], nn.MaxPool2d | nn.Conv2d)
        with torch.no_grad():
            expected = reference[: index + 1](x)
        assert maps[level].shape == (2, *map_shape(backbone, level, 32)) == expected.shape
        assert (expected < 0).any()
        torch.testing.assert_close(maps[level], expected, rtol=1e-4, atol=1e-4)


def test_levels_are_conv_i_1():
    # conv_i_1 is the first convolution and, beyond the first block, the one after a pooling.
    layers = backbones.vgg19_layers(1 / 64)
    firsts = [0] + [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    assert dict(zip(range(1, 6), firsts, strict=False)) == CONV_I_1 == backbones.VGG19_TAPS


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return embedded()


def test_embedded_backbone_loads(backbone):
    assert backbone.channels == {1: 16, 2: 32, 3: 64, 4: 128, 5: 128}
    maps = backbone(to_float(pictures(1, 64)))
    assert {i: tuple(m.shape[1:]) for i, m in maps.items()} == {i: map_shape(backbone, i, 64) for i in range(1, 6)}
    for m in maps.values():
        assert m.isfinite().all() and m.dtype == torch.float32
        assert (m < 0).any() and (m > 0).any()  # signed: before the ReLU
        assert (m.std((0, 2, 3)) > 0).float().mean() > 0.9  # few dead channels


def test_stopping_at_a_level_gives_the_same_maps(backbone):
    x = to_float(pictures(2, 32))
    whole = backbone(x)
    for deepest in range(1, 6):
        maps = backbone(x, deepest=deepest)
        assert list(maps) == list(range(1, deepest + 1))
        assert all(torch.equal(maps[i], whole[i]) for i in maps)


def test_backbone_is_frozen_but_lets_gradients_through(backbone):
    assert not backbone.train().training and not any(p.requires_grad for p in backbone.parameters())
    x = to_float(pictures(1, 32)).requires_grad_()
    backbone(x)[5].square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.parameters())


def test_pictures_of_the_wrong_type_are_refused(backbone):
    with pytest.raises(TypeError, match="to_float"):
        backbone(pictures(1, 32))


def test_measuring_does_not_round():
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, deterministic=False, allow_tf32=True):
        with backbones.full_precision():
            assert cudnn.enabled and cudnn.deterministic and not cudnn.allow_tf32
        assert cudnn.allow_tf32


# ---- files of weights --------------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch) -> dict[str, torch.Tensor]:
    """Make VGG-19 a 32nd as wide, so that its files are small; random weights for it, classifier included."""
    layers = tuple(c if c == "M" else c // 32 for c in backbones.VGG19_LAYERS)
    monkeypatch.setattr(backbones, "VGG19_LAYERS", layers)
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in backbones.vgg19_layers().state_dict().items()}
    return state | {"classifier.0.weight": torch.zeros(2, 2)}


def same_weights(backbone: Backbone, state: dict) -> bool:
    return all(torch.equal(v, state[f"features.{k}"].float()) for k, v in backbone.features.state_dict().items())


@pytest.mark.parametrize("name", ["vgg19-x.safetensors", "vgg19-dcbb9e9d.pth", "vgg19.pt"])
def test_weights_from_a_file_a_folder_and_the_environment(narrow, tmp_path, monkeypatch, name):
    path = tmp_path / name
    save_file(narrow, path) if path.suffix == ".safetensors" else torch.save(narrow, path)
    by_file, by_folder, by_text = vgg19(path), vgg19(tmp_path), vgg19(str(path))
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    by_environment = vgg19()
    for backbone in (by_file, by_folder, by_text, by_environment):
        assert same_weights(backbone, narrow)
        assert backbone.fingerprint == by_file.fingerprint
    # Other weights have another fingerprint, which is part of what names the features made with them.
    narrow["features.0.bias"] = narrow["features.0.bias"] + 1
    save_file(narrow, tmp_path / "other.safetensors")
    assert vgg19(tmp_path / "other.safetensors").fingerprint != by_file.fingerprint


def test_weights_in_half_precision_are_computed_with_in_float32(narrow, tmp_path):
    half = {k: v.half() for k, v in narrow.items()}
    save_file(half, tmp_path / "vgg19.safetensors")
    backbone = vgg19(tmp_path)
    assert {v.dtype for v in backbone.features.state_dict().values()} == {torch.float32}
    assert same_weights(backbone, half)


def test_a_folder_may_hold_other_files(narrow, tmp_path):
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "vgg19_classifier.safetensors")
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "alexnet_features.safetensors")
    save_file(narrow, tmp_path / "vgg19_features.safetensors")
    assert same_weights(vgg19(tmp_path), narrow)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_a_truncated_file_is_named(narrow, tmp_path, suffix, keep):
    path = tmp_path / f"vgg19.{suffix}"
    save_file(narrow, path) if suffix == "safetensors" else torch.save(narrow, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=f"vgg19.{suffix}.*get it again"):
        vgg19(path)


def test_weights_of_another_network_are_refused(narrow, tmp_path):
    path = tmp_path / "vgg19.safetensors"
    renamed = {k.replace("features.", "net."): v for k, v in narrow.items()}
    for state, fault in (
        (renamed, "missing.*features.0.weight|missing.*0.bias"),
        ({k: v for k, v in narrow.items() if k != "features.28.bias"}, "missing.*28.bias"),
        (narrow | {"features.5.weight": torch.zeros(4, 4, 3, 3)}, "wrong shape.*5.weight"),
    ):
        save_file(state, path)
        with pytest.raises(ValueError, match=fault) as error:
            vgg19(path)
        assert "vgg19.safetensors" in str(error.value) and "torchvision's key names" in str(error.value)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*state-dict file"):
        vgg19(tmp_path / "nowhere.pth")
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(FileNotFoundError, match=r"no VGG-19 weights in .*expected vgg19\*\.safetensors"):
        vgg19(tmp_path)
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no VGG-19 weights in"):
        vgg19()


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_in_a_file_of_weights_is_executed(tmp_path):
    trap = tmp_path / "executed"
    torch.save({"features.0.weight": Trap(trap)}, tmp_path / "vgg19.pth")
    with pytest.raises(ValueError, match=r"cannot read the weights in .*vgg19\.pth"):
        load_state(tmp_path / "vgg19.pth")
    assert not trap.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2), {"state_dict": {"features.0.weight": 1}}])
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "vgg19.pth")
    with pytest.raises(ValueError, match=r"vgg19\.pth.*state dict"):
        load_state(tmp_path / "vgg19.pth")


# ---- batch norm --------------------------------------------------------------------------------------------


def test_folded_batch_norm_is_the_same_function():
    torch.manual_seed(0)
    features = backbones.vgg19_layers(1 / 32, batch_norm=True)
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    x = torch.randn(2, 3, 32, 32)
    folded = fold_batch_norm(features)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), features.eval()(x), rtol=1e-4, atol=1e-5)
    plain = backbones.vgg19_layers(1 / 32).state_dict()
    assert {k: v.shape for k, v in folded.state_dict().items()} == {k: v.shape for k, v in plain.items()}
    state = {f"features.{k}": v for k, v in folded.state_dict().items()}
    images = x.clamp(-1, 1)
    maps = Backbone("folded", 1 / 32, state, "")(images)
    mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    y, seen = ((images + 1) / 2 - mean) / std, []
    with torch.no_grad():
        for layer in features:  # the maps after each batch norm are the folded convolutions'
            y = layer(y)
            if isinstance(layer, nn.BatchNorm2d):
                seen.append(y.clone())
    for level, convolution in {1: 0, 2: 2, 3: 4, 4: 8, 5: 12}.items():
        torch.testing.assert_close(maps[level], seen[convolution], rtol=1e-4, atol=1e-4)


# ---- normalisation -----------------------------------------------------------------------------------------


def whole(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population standard deviation of every channel, all at once."""
    std, mean = torch.std_mean(maps.double(), (0, 2, 3), correction=0)
    return mean, std


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [5, 7], [11, 1], [1, 3, 8]])
def test_statistics_do_not_depend_on_how_the_domain_is_split(sizes):
    torch.manual_seed(0)
    deep, shallow = torch.randn(12, 3, 4, 4) * torch.tensor([0.1, 1, 30]).view(1, 3, 1, 1) + 2, torch.randn(12, 2, 8, 8)
    batches = zip(deep.split(sizes), shallow.split(sizes), strict=True)
    statistics = channel_statistics({5: d, 3: s} for d, s in batches)
    assert list(statistics) == [3, 5]
    for level, maps in ((5, deep), (3, shallow)):
        mean, std = whole(maps)
        assert statistics[level].mean.dtype == statistics[level].std.dtype == torch.float32
        torch.testing.assert_close(statistics[level].mean.double(), mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(statistics[level].std.double(), std, rtol=1e-6, atol=1e-7)


def test_statistics_keep_their_digits_beside_a_large_mean():
    # A float32 sum of squares around 1e12 could not tell a variance of 1.
    torch.manual_seed(0)
    maps = torch.randn(64, 1, 8, 8, dtype=torch.float64) + 1e6
    statistics = channel_statistics({5: part} for part in maps.split(3))[5]
    assert statistics.std.item() == pytest.approx(whole(maps)[1].item(), rel=1e-5)
    # Batches that differ much in their means: the variance between them counts, too.
    steps = (torch.arange(64.0) * 100).view(-1, 1, 1, 1).expand(64, 1, 2, 2)
    statistics = channel_statistics({5: part} for part in steps.split(1))[5]
    assert statistics.std.item() == pytest.approx(whole(steps)[1].item(), rel=1e-6)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="empty domain"):
        channel_statistics(iter(()))


def test_normalise_by_hand():
    statistics = ChannelStatistics(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5]))
    x = torch.tensor([[2.0, 1.0, -1.0, 7.0], [-2.0, -1.75, -2.5, -9.0]]).view(1, 2, 2, 2)
    expected = torch.tensor([[0.5, 0.0, -1.0, 1.0], [0.0, 0.5, -1.0, -1.0]]).view(1, 2, 2, 2)
    assert torch.equal(statistics.normalise(x), expected)
    expected = torch.tensor([[0.25, 0.0, -0.5, 1.0], [0.0, 0.25, -0.5, -1.0]]).view(1, 2, 2, 2)
    assert torch.equal(statistics.clamping_at(2.0).normalise(x), expected)  # two deviations are 1


def test_normalise_clamps_beyond_one_deviation():
    torch.manual_seed(0)
    maps = torch.randn(8, 5, 6, 6) * torch.logspace(-2, 2, 5).view(1, 5, 1, 1) + torch.randn(1, 5, 1, 1)
    statistics = channel_statistics([{4: maps}])[4]
    z = statistics.normalise(maps)
    assert -1 <= z.min() and z.max() <= 1
    kept = z.abs() < 1
    assert 0.6 < kept.float().mean() < 0.75  # one deviation of a normal distribution holds 68 %
    back = z * statistics.std.view(1, -1, 1, 1) + statistics.mean.view(1, -1, 1, 1)  # but for what is cut off
    torch.testing.assert_close(back[kept], maps[kept], rtol=1e-4, atol=1e-4)


def test_a_constant_channel_becomes_zero():
    maps = torch.stack([torch.full((4, 3, 3), 0.1), torch.randn(4, 3, 3)], dim=1)
    statistics = channel_statistics([{5: maps[:2]}, {5: maps[2:]}])[5]
    z = statistics.normalise(maps)
    assert z.isfinite().all() and z[:, 0].abs().max() < 0.01
    assert statistics.std[0].item() == pytest.approx(1e-5)  # less than any channel that varies

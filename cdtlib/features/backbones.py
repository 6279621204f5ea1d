"""Classification networks whose feature maps are translated (paper §3, "Pre-processing"; §4.1, "Type of pre-trained
network").

Level i of the paper is the output of conv_i_1, before its ReLU, i = 1 … 5. AlexNet has five convolutions: its levels.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import AlexNet_Weights, VGG19_Weights, WeightsEnum
from torchvision.models.vgg import make_layers

from cdtlib.files import DamagedFile, sha256

LEVELS = (1, 2, 3, 4, 5)
VGG19_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")
VGG19_TAPS = {1: 0, 2: 5, 3: 10, 4: 19, 5: 28}  # index of conv_i_1 in torchvision's `features`
ALEXNET_LAYERS = ((64, 11, 4, 2), "M", (192, 5, 1, 2), "M", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), "M")
ALEXNET_TAPS = {1: 0, 2: 3, 3: 6, 4: 8, 5: 10}  # index of its i-th convolution in torchvision's `features`
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED_WEIGHTS = WEIGHTS / "embedded_vgg19.safetensors"
EMBEDDED_ALEXNET_WEIGHTS = WEIGHTS / "embedded_alexnet.safetensors"


def vgg19_layers(width: float = 1.0, batch_norm: bool = False) -> nn.Sequential:
    """VGG-19's convolutions (Simonyan & Zisserman 2015, configuration E), `width` times as wide."""
    return make_layers([c if c == "M" else round(c * width) for c in VGG19_LAYERS], batch_norm=batch_norm)


def alexnet_layers(width: float = 1.0, batch_norm: bool = False) -> nn.Sequential:
    """AlexNet's convolutions (Krizhevsky 2014, as in torchvision), `width` times as wide."""
    layers, c = [], 3
    for layer in ALEXNET_LAYERS:
        if layer == "M":
            layers.append(nn.MaxPool2d(3, stride=2))
            continue
        channels, kernel, stride, padding = round(layer[0] * width), *layer[1:]
        layers.append(nn.Conv2d(c, channels, kernel, stride, padding))
        layers += [nn.BatchNorm2d(channels)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
        c = channels
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Architecture:
    """What tells one kind of network from another."""

    title: str
    file: str  # how the names of its files of weights begin
    layers: Callable[[float, bool], nn.Sequential]  # (width, batch norm) → `features`, by torchvision's indices
    taps: dict[int, int]  # index of each level in `features`
    # What is lost at each halving on the way from the picture to a level, deepest first: side s comes from 2s + this.
    halvings: dict[int, tuple[int, ...]]
    pretrained: WeightsEnum  # torchvision's, on ImageNet


VGG19 = Architecture(
    "VGG-19",
    "vgg19",
    vgg19_layers,
    VGG19_TAPS,
    {i: (0,) * (i - 1) for i in LEVELS},
    VGG19_Weights.IMAGENET1K_V1,
)
# For pictures of 16 k pixels: 4 k - 1, then 2 k - 1, then k - 1 at three levels.
ALEXNET = Architecture(
    "AlexNet",
    "alexnet",
    alexnet_layers,
    ALEXNET_TAPS,
    {1: (1, 2), 2: (1, 1, 2), 3: (1, 1, 1, 2), 4: (1, 1, 1, 2), 5: (1, 1, 1, 2)},
    AlexNet_Weights.IMAGENET1K_V1,
)
ARCHITECTURES = {"vgg19": VGG19, "alexnet": ALEXNET}


class Backbone(nn.Module):
    """A frozen VGG-19 or AlexNet that returns its five levels.

    Call with pictures (N, 3, H, W), float32 in [-1, 1], H and W divisible by 16. Returns {level: map}, with maps
    `(N, *map_shape(backbone, level, H))`, before the ReLU, in any range. VGG-19's levels are conv_1_1 … conv_5_1, and
    H / 2^(level-1) wide; AlexNet's are its convolutions.
    """

    def __init__(
        self,
        name: str,
        width: float,
        state: dict[str, torch.Tensor],
        fingerprint: str,
        architecture: Architecture = VGG19,
    ):
        super().__init__()
        self.name = name
        self.fingerprint = fingerprint  # hash of the weights: part of what names the features made with them
        self.architecture = architecture
        self.taps = architecture.taps
        self.features = architecture.layers(width, False)[: self.taps[5] + 1]
        keep = {k.removeprefix("features."): v.float() for k, v in state.items() if k.startswith("features.")}
        wanted = self.features.state_dict()
        missing = sorted(wanted.keys() - keep.keys())
        wrong = sorted(k for k in wanted.keys() & keep.keys() if wanted[k].shape != keep[k].shape)
        if missing or wrong:
            raise ValueError(
                f"the weights do not fit {name}: missing {missing[:3]}, wrong shape {wrong[:3]}. "
                f"A state dict of {architecture.title} with torchvision's key names (features.0.weight …) is needed."
            )
        self.features.load_state_dict({k: keep[k] for k in wanted})
        self.channels = {i: self.features[tap].out_channels for i, tap in self.taps.items()}
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """The backbone stays as it is: it is never trained here."""
        return super().train(False)

    def forward(self, images: torch.Tensor, deepest: int = 5) -> dict[int, torch.Tensor]:
        if not images.is_floating_point():
            raise TypeError(f"a backbone takes float pictures in [-1, 1] (cdtlib.data.to_float), not {images.dtype}")
        x = ((images + 1) / 2 - self.mean) / self.std
        taps = {tap: level for level, tap in self.taps.items() if level <= deepest}
        maps = {}
        for index, layer in enumerate(self.features[: self.taps[deepest] + 1]):
            if isinstance(layer, nn.ReLU) and index - 1 in taps:
                x = torch.relu(x)  # not in place: the map before it is kept
            else:
                x = layer(x)
            if index in taps:
                maps[taps[index]] = x
        return maps


def map_shape(backbone: Backbone, level: int, image_size: int) -> tuple[int, int, int]:
    """(C, H, W) of one feature map of `level` for square pictures of `image_size` pixels, a multiple of 16.

    Raises ValueError if it would be a single cell: nothing could be told about places, nor normalised by instance.
    """
    side = image_size
    for lost in reversed(backbone.architecture.halvings[level]):
        side = (side - lost) // 2
    if side < 2:
        raise ValueError(
            f"data.size {image_size}: level {level} of {backbone.architecture.title} would be a single cell; take "
            "pictures of at least 48 pixels"
        )
    return backbone.channels[level], side, side


def full_precision():
    """A context for measuring: on a GPU, convolutions do not round to TF32's 10 bits, and give the same every time."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from .safetensors, .pth or .pt without executing anything that the file holds.

    Raises ValueError naming the file if it cannot be read so.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"cannot read the weights in {path}: {error}. The file may be cut short or not a plain state dict; "
            "get it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no plain state dict (names and tensors, nothing else): give one that does")
    return state


def _imagenet(architecture: Architecture, weights: Path | None) -> Backbone:
    """The network as pre-trained on ImageNet, from `weights`, CDT_WEIGHTS or torchvision's download."""
    title, name = architecture.title, architecture.file
    source = weights or (Path(os.environ["CDT_WEIGHTS"]) if os.environ.get("CDT_WEIGHTS") else None)
    if source is None:
        state = downloaded(architecture.pretrained, title)
        return Backbone(name, 1.0, state, _published(architecture), architecture)
    source = Path(source)
    if source.is_dir():
        found = [f for pattern in ("safetensors", "pth", "pt") for f in sorted(source.glob(f"{name}*.{pattern}"))]
        found = [f for f in found if "classifier" not in f.name]
        if not found:
            raise FileNotFoundError(
                f"no {title} weights in {source}: expected {name}*.safetensors or {name}*.pth "
                f"(torchvision's {architecture.pretrained.url.rpartition('/')[2]} will do)"
            )
        source = found[0]
    elif not source.exists():
        raise FileNotFoundError(f"no weights at {source}: give a state-dict file of {title} or a folder that holds one")
    state, digest = load_state(source), sha256(source)
    published = _published(architecture)
    try:  # torchvision's own file is the same, however it came here
        fingerprint = published if digest.startswith(published) else digest[:16]
        return Backbone(name, 1.0, state, fingerprint, architecture)
    except ValueError as error:
        raise ValueError(f"{source}: {error} For two networks, give a folder with the files of both.") from error


def downloaded(weights: WeightsEnum, title: str) -> dict[str, torch.Tensor]:
    """torchvision's published weights, from its cache or the network.

    Raises DamagedFile naming a cached file that cannot be read, FileNotFoundError if there is none and no network.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    there = cached.exists()
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # no network, a full disk, a wrong hash; of a damaged file, torch raises almost anything
        if there:
            raise DamagedFile(f"{cached} cannot be read ({error}): remove it, and it is downloaded anew") from error
        raise FileNotFoundError(
            f"no weights of {title}: {weights.url} cannot be downloaded ({error}). Fetch it elsewhere and give the "
            "file, or the folder where it lies, with --weights or in the environment variable CDT_WEIGHTS"
        ) from error


def _published(architecture: Architecture) -> str:
    """The start of the SHA-256 of torchvision's file, which its name tells."""
    return architecture.pretrained.url.rsplit("-")[-1].split(".")[0]


def vgg19(weights: Path | None = None) -> Backbone:
    """VGG-19 pre-trained on ImageNet, as the paper uses it.

    `weights` is a state-dict file, or a folder that holds one named vgg19*.safetensors, vgg19*.pth or vgg19*.pt
    (the environment variable CDT_WEIGHTS by default). Without it torchvision downloads its own.
    """
    return _imagenet(VGG19, weights)


def alexnet(weights: Path | None = None) -> Backbone:
    """AlexNet pre-trained on ImageNet (Fig. 8); `weights` as for `vgg19`, named alexnet*. Convolutions suffice."""
    return _imagenet(ALEXNET, weights)


def embedded() -> Backbone:
    """The VGG-19 of a quarter of the width that comes with the package, trained on the zoo's invented species."""
    return Backbone("embedded", 0.25, load_state(EMBEDDED_WEIGHTS), sha256(EMBEDDED_WEIGHTS)[:16])


def embedded_alexnet() -> Backbone:
    """The AlexNet of a quarter of the width that comes with the package, trained as `embedded` is."""
    path = EMBEDDED_ALEXNET_WEIGHTS
    return Backbone("embedded_alexnet", 0.25, load_state(path), sha256(path)[:16], ALEXNET)


BACKBONES = {"vgg19": vgg19, "embedded": embedded, "alexnet": alexnet, "embedded_alexnet": embedded_alexnet}

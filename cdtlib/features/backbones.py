"""Classification networks whose feature maps are translated (paper §3, "Pre-processing").

Level i of the paper is the output of conv_i_1, before its ReLU, i = 1 … 5.
"""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import make_layers

from cdtlib.files import sha256

LEVELS = (1, 2, 3, 4, 5)
VGG19_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")
VGG19_TAPS = {1: 0, 2: 5, 3: 10, 4: 19, 5: 28}  # index of conv_i_1 in torchvision's `features`
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EMBEDDED_WEIGHTS = Path(__file__).parent / "weights" / "embedded_vgg19.safetensors"


def vgg19_layers(width: float = 1.0, batch_norm: bool = False) -> nn.Sequential:
    """VGG-19's convolutions (Simonyan & Zisserman 2015, configuration E), `width` times as wide."""
    return make_layers([c if c == "M" else round(c * width) for c in VGG19_LAYERS], batch_norm=batch_norm)


class Backbone(nn.Module):
    """A frozen VGG-19 that returns conv_1_1 … conv_5_1.

    Call with pictures (N, 3, H, W), float32 in [-1, 1], H and W divisible by 16. Returns {level: map}, with maps
    (N, channels[level], H / 2^(level-1), W / 2^(level-1)), before the ReLU, in any range.
    """

    def __init__(self, name: str, width: float, state: dict[str, torch.Tensor], fingerprint: str):
        super().__init__()
        self.name = name
        self.fingerprint = fingerprint  # hash of the weights: part of what names the features made with them
        self.features = vgg19_layers(width)[: VGG19_TAPS[5] + 1]
        keep = {k.removeprefix("features."): v.float() for k, v in state.items() if k.startswith("features.")}
        wanted = self.features.state_dict()
        missing = sorted(wanted.keys() - keep.keys())
        wrong = sorted(k for k in wanted.keys() & keep.keys() if wanted[k].shape != keep[k].shape)
        if missing or wrong:
            raise ValueError(
                f"the weights do not fit {name}: missing {missing[:3]}, wrong shape {wrong[:3]}. "
                "A VGG-19 state dict with torchvision's key names (features.0.weight …) is needed."
            )
        self.features.load_state_dict({k: keep[k] for k in wanted})
        self.channels = {i: self.features[tap].out_channels for i, tap in VGG19_TAPS.items()}
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
        taps = {tap: level for level, tap in VGG19_TAPS.items() if level <= deepest}
        maps = {}
        for index, layer in enumerate(self.features[: VGG19_TAPS[deepest] + 1]):
            if isinstance(layer, nn.ReLU) and index - 1 in taps:
                x = torch.relu(x)  # not in place: the map before it is kept
            else:
                x = layer(x)
            if index in taps:
                maps[taps[index]] = x
        return maps


def map_shape(backbone: Backbone, level: int, image_size: int) -> tuple[int, int, int]:
    """(C, H, W) of one feature map of `level` for square pictures of `image_size` pixels."""
    side = image_size // 2 ** (level - 1)
    return backbone.channels[level], side, side


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


def vgg19(weights: Path | None = None) -> Backbone:
    """VGG-19 pre-trained on ImageNet, as the paper uses it.

    `weights` is a state-dict file, or a folder that holds one named vgg19*.safetensors, vgg19*.pth or vgg19*.pt
    (the environment variable CDT_WEIGHTS by default). Without it torchvision downloads its own.
    """
    source = weights or (Path(os.environ["CDT_WEIGHTS"]) if os.environ.get("CDT_WEIGHTS") else None)
    if source is None:
        state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        return Backbone("vgg19", 1.0, state, VGG19_Weights.IMAGENET1K_V1.url.rsplit("-")[-1].split(".")[0])
    source = Path(source)
    if source.is_dir():
        found = [f for pattern in ("safetensors", "pth", "pt") for f in sorted(source.glob(f"vgg19*.{pattern}"))]
        found = [f for f in found if "classifier" not in f.name]
        if not found:
            raise FileNotFoundError(
                f"no VGG-19 weights in {source}: expected vgg19*.safetensors or vgg19*.pth "
                "(torchvision's vgg19-dcbb9e9d.pth will do)"
            )
        source = found[0]
    elif not source.exists():
        raise FileNotFoundError(f"no weights at {source}: give a state-dict file of VGG-19 or a folder that holds one")
    state = load_state(source)
    try:
        return Backbone("vgg19", 1.0, state, sha256(source)[:16])
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def embedded() -> Backbone:
    """The VGG-19 of a quarter of the width that comes with the package, trained on the zoo's invented species."""
    return Backbone("embedded", 0.25, load_state(EMBEDDED_WEIGHTS), sha256(EMBEDDED_WEIGHTS)[:16])


BACKBONES = {"vgg19": vgg19, "embedded": embedded}

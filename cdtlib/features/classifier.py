"""The whole classification network up to its last hidden layer, fc7 (§4.2, "Qualitative comparison"; Fig. 10).

fc6 and fc7 are the fully-connected layers before the one that gives the classes (fc8). In VGG-19, fc7 has 4096 units
(torchvision's `classifier[3]`); in the embedded network it has 128.
"""

import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VGG19_Weights

from cdtlib.features.backbones import (
    EMBEDDED_WEIGHTS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    downloaded,
    full_precision,
    load_state,
    vgg19_layers,
)

BATCH = 16  # pictures at a time: at 224 pixels, the first maps of so many take 200 MB


class Fc7(nn.Module):
    """A frozen VGG-19 from the picture to fc7, after its ReLU: what fc8 is given (dropout does nothing at test time).

    Call with pictures (N, 3, H, W), float32 in [-1, 1]; they are resized to `size`, the side in pixels on which the
    network was trained. Returns (N, D) on the CPU, at least 0. The result does not depend on N.

    :param width: of the convolutions, as a share of VGG-19's.
    :param pool: side of the last feature map, as fc6 is given it.
    :param layers: names of fc6 and fc7 in `state`.

    Raises ValueError naming what is missing in `state`, or has another shape.
    """

    def __init__(self, state: dict[str, torch.Tensor], *, width: float, pool: int, layers: tuple[str, str], size: int):
        super().__init__()
        self.size = size
        fc6, fc7 = layers
        names = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
        with torch.device("meta"):  # half a gigabyte of first weights that would be thrown away
            self.features = vgg19_layers(width)
            names |= {f"features.{k}" for k in self.features.state_dict()}
            if missing := sorted(names - state.keys()):
                raise ValueError(f"{len(missing)} weights are missing: {', '.join(missing[:3])} …")
            hidden = [len(state[f"{name}.bias"]) for name in layers]
            self.fc6 = nn.Linear(pool**2 * self.features[-3].out_channels, hidden[0])
            self.fc7 = nn.Linear(hidden[0], hidden[1])
        self.pool = nn.AdaptiveAvgPool2d(pool)
        mine = {k.replace(fc6, "fc6").replace(fc7, "fc7"): state[k].float() for k in names}
        wanted = self.state_dict()
        if wrong := sorted(k for k in wanted if wanted[k].shape != mine[k].shape):
            shapes = f"{tuple(mine[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]].shape)}"
            raise ValueError(f"{wrong[0]} has another shape than in this network, {shapes}")
        self.load_state_dict(mine, assign=True)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point():
            raise TypeError(f"fc7 takes float pictures in [-1, 1] (cdtlib.data.to_float), not {images.dtype}")
        with full_precision():
            return torch.cat([self._fc7(part.to(self.mean.device)).cpu() for part in images.split(BATCH)])

    def _fc7(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-2:] != (self.size, self.size):
            # Bicubic: a linear filter blurs away the thin lines by which the drawn species are told apart.
            images = F.interpolate(images, size=self.size, mode="bicubic", antialias=True, align_corners=False)
            images = images.clamp(-1, 1)
        x = self.pool(self.features(((images + 1) / 2 - self.mean) / self.std))
        return torch.relu(self.fc7(torch.relu(self.fc6(x.flatten(1)))))


def vgg19(weights: Path | None = None) -> Fc7:
    """VGG-19 pre-trained on ImageNet, up to its 4096-d fc7.

    `weights` is a state-dict file with torchvision's key names, or a folder that holds one, in one file (`vgg19*`) or
    in two (`vgg19*`, and `vgg19*classifier*`), .safetensors, .pth or .pt (the environment variable CDT_WEIGHTS by
    default). Without it torchvision downloads its own.
    Raises FileNotFoundError or ValueError that names what is missing.
    """
    source = weights or os.environ.get("CDT_WEIGHTS")
    if not source:
        state = downloaded(VGG19_Weights.IMAGENET1K_V1, "VGG-19")
    else:
        state = _local_state(Path(source))
    try:
        return Fc7(state, width=1.0, pool=7, layers=("classifier.0", "classifier.3"), size=224)
    except ValueError as error:
        raise ValueError(
            f"{source or 'the downloaded weights'}: {error}. Fig. 10 needs VGG-19 with its fully-connected layers: "
            "torchvision's vgg19-dcbb9e9d.pth, or a folder with vgg19_features*.safetensors and "
            "vgg19_classifier*.safetensors"
        ) from error


def _local_state(source: Path) -> dict[str, torch.Tensor]:
    """All weights of VGG-19 that a file or folder holds."""
    if source.is_file():
        return load_state(source)
    if not source.is_dir():
        raise FileNotFoundError(f"no weights at {source}: give a state-dict file of VGG-19 or a folder that holds one")
    found = [f for pattern in ("safetensors", "pth", "pt") for f in sorted(source.glob(f"vgg19*.{pattern}"))]
    state: dict[str, torch.Tensor] = {}
    # The same features as the backbone's (`backbones.vgg19`), then what these do not come with.
    for part in ([f for f in found if "classifier" not in f.name], [f for f in found if "classifier" in f.name]):
        if part and "classifier.0.weight" not in state:
            state |= load_state(part[0])
    return state


def embedded() -> Fc7:
    """The network that comes with the package, trained on the zoo's invented species, up to its 128-d fc7."""
    state = load_state(EMBEDDED_WEIGHTS)
    return Fc7(state, width=0.25, pool=2, layers=("classifier.2", "classifier.5"), size=64)


NETWORKS = {"vgg19": vgg19, "embedded": embedded}


def fc7(backbone: str) -> Fc7:
    """The network of the backbone's name (`Settings.backbone`), up to fc7. ValueError for one without such a layer."""
    if backbone not in NETWORKS:
        raise ValueError(f"backbone {backbone!r} has no fc7 here; there are {', '.join(NETWORKS)}")
    return NETWORKS[backbone]()

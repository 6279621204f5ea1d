"""Pre-training of the embedded backbone: telling the zoo's invented species apart (`cdt pretrain`)."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cdtlib.data import to_float
from cdtlib.data.zoo import INVENTED, ZooDomain
from cdtlib.features.backbones import EMBEDDED_WEIGHTS, IMAGENET_MEAN, IMAGENET_STD, load_state, vgg19_layers
from cdtlib.files import atomic, write_json
from cdtlib.training.run import Run

SIZE = 64  # side of the pictures it is trained on, pixels


class Classifier(nn.Module):
    """VGG-19 with batch norm, narrowed, and three fully-connected layers: pictures in [-1, 1] → logits (N, classes)."""

    def __init__(self, classes: int, width: float = 0.25, hidden: int = 128):
        super().__init__()
        self.features = vgg19_layers(width, batch_norm=True)
        channels = round(512 * width)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(4 * channels, hidden), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        std = images.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
        return self.classifier(self.features(((images + 1) / 2 - mean) / std))


def fold_batch_norm(features: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm into the convolution before it: the same function in eval mode, as a plain VGG-19."""
    layers, folded = list(features.eval()), []
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            folded[-1] = fuse_conv_bn_eval(layers[i - 1], layer)
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def train_classifier(
    run: Run, images: torch.Tensor, labels: torch.Tensor, *, epochs: float, batch: int, lr: float
) -> Classifier:
    """Train on uint8 pictures (N, 3, H, W) and labels (N,); AdamW, one-cycle schedule, mirrored at random."""
    model = Classifier(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    steps = round(epochs * len(images) / batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 2))
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    model.train()
    for _ in run.steps(steps):
        rows = torch.randint(len(images), (batch,))
        x = to_float(images[rows])
        x = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x.flip(-1), x)
        loss = F.cross_entropy(model(x.to(memory_format=torch.channels_last)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.log(cross_entropy=loss)
    return model.eval()


def pretrain_embedded(root: Path, out: Path, *, pictures: int = 270, epochs: float = 5.0, workers: int = 1) -> dict:
    """Make the embedded backbone anew: train, fold the batch norms, save as float16; return the record beside it.

    `pictures` of each invented species; `out` is the .safetensors file, its record goes beside it as .json.
    """
    settings = {"pictures": pictures, "epochs": epochs, "batch": 32, "lr": 2e-3, "size": SIZE, "seed": 0}
    images = torch.cat([ZooDomain(s, "train", pictures, size=SIZE).images(workers) for s in INVENTED])
    labels = torch.arange(len(INVENTED)).repeat_interleave(pictures)
    with Run("embedded-backbone", settings, {"species": ",".join(INVENTED)}, root=root) as run:
        model = train_classifier(run, images, labels, epochs=epochs, batch=32, lr=2e-3)
    state = {f"features.{k}": v for k, v in fold_batch_norm(model.features).state_dict().items()}
    state |= {f"classifier.{k}": v for k, v in model.classifier.state_dict().items()}
    with atomic(out) as path:
        save_file({k: v.half().contiguous() for k, v in state.items()}, path)
    accuracy, n = held_out_accuracy(out, 40)
    record = settings | {
        "species": list(INVENTED), "accuracy": accuracy, "n": n, "training_seconds": round(run.seconds),
        "command": f"cdt pretrain --pictures {pictures} --epochs {epochs}",
    }  # fmt: skip
    write_json(out.with_suffix(".json"), record)
    return record


def held_out_accuracy(weights: Path = EMBEDDED_WEIGHTS, pictures: int = 20) -> tuple[float, int]:
    """(share of held-out pictures of the invented species that the folded network names rightly, how many)."""
    state = {k: v.float() for k, v in load_state(weights).items()}
    model = Classifier(len(INVENTED)).eval()
    model.features = vgg19_layers(0.25)
    model.load_state_dict(state)
    right = 0
    for label, species in enumerate(INVENTED):
        images = ZooDomain(species, "test", pictures, size=SIZE).images()
        with torch.no_grad():
            right += int((model(to_float(images)).argmax(1) == label).sum())
    n = pictures * len(INVENTED)
    return right / n, n


def recorded(weights: Path = EMBEDDED_WEIGHTS) -> dict:
    """What was recorded when the weights were made: accuracy, n, settings, command."""
    return json.loads(weights.with_suffix(".json").read_text())

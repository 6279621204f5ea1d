"""Classification: the embedded backbones' pre-training on the zoo's invented species (`cdt pretrain`), and telling the
two domains apart, with the backbone fine-tuned (§4.1, "Type of pre-trained network") or as it is."""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cdtlib import processes
from cdtlib.data import to_float
from cdtlib.data.zoo import INVENTED, ZooDomain
from cdtlib.features.backbones import (
    ARCHITECTURES,
    EMBEDDED_WEIGHTS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    load_state,
)
from cdtlib.features.store import FeatureStore
from cdtlib.files import atomic, write_json
from cdtlib.settings import Backbones
from cdtlib.training.run import Run

SIZE = {"vgg19": 64, "alexnet": 96}  # side of the pictures it is trained on, pixels; AlexNet's maps are the smaller


class Classifier(nn.Module):
    """A network of ARCHITECTURES with batch norm, narrowed, and three fully-connected layers: pictures in [-1, 1] →
    logits (N, classes)."""

    def __init__(self, classes: int, architecture: str = "vgg19", width: float = 0.25, hidden: int = 128):
        super().__init__()
        self.features = ARCHITECTURES[architecture].layers(width, True)
        channels = [layer for layer in self.features if isinstance(layer, nn.Conv2d)][-1].out_channels
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
    """Fold each batch norm into the convolution before it: the same function in eval mode, a plain network."""
    layers, folded = list(features.eval()), []
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            folded[-1] = fuse_conv_bn_eval(layers[i - 1], layer)
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def train_classifier(
    run: Run,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epochs: float,
    batch: int,
    lr: float,
    architecture: str = "vgg19",
) -> Classifier:
    """Train on uint8 pictures (N, 3, H, W) and labels (N,); AdamW, one-cycle schedule, mirrored at random.

    It has batch norm, so of several processes each does the whole batch.
    """
    model = Classifier(int(labels.max()) + 1, architecture).to(memory_format=torch.channels_last)
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


def pretrain_embedded(
    root: Path, out: Path, *, architecture: str = "vgg19", pictures: int = 270, epochs: float = 5.0
) -> dict:
    """Make an embedded backbone anew: train, fold the batch norms, save as float16; return the record beside it.

    `architecture` is a name of ARCHITECTURES, `pictures` of each invented species; `out` is the .safetensors file,
    its record goes beside it as .json. Raises ValueError for another architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture: there is no {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    size = SIZE[architecture]
    settings = {"pictures": pictures, "epochs": epochs, "batch": 32, "lr": 2e-3, "size": size, "seed": 0}
    images = torch.cat([ZooDomain(s, "train", pictures, size=size).images() for s in INVENTED])
    labels = torch.arange(len(INVENTED)).repeat_interleave(pictures)
    name = "embedded-backbone" if architecture == "vgg19" else f"embedded-{architecture}"
    with Run(name, settings, {"species": ",".join(INVENTED)}, root=root) as run:
        model = train_classifier(run, images, labels, epochs=epochs, batch=32, lr=2e-3, architecture=architecture)
    state = {f"features.{k}": v for k, v in fold_batch_norm(model.features).state_dict().items()}
    state |= {f"classifier.{k}": v for k, v in model.classifier.state_dict().items()}
    with atomic(out) as path:
        save_file({k: v.half().contiguous() for k, v in state.items()}, path)
    accuracy, n = held_out_accuracy(out, 40, architecture)
    chosen = "" if architecture == "vgg19" else f" --architecture {architecture}"
    record = settings | {
        "species": list(INVENTED), "accuracy": accuracy, "n": n, "training_seconds": round(run.seconds),
        "command": f"cdt pretrain{chosen} --pictures {pictures} --epochs {epochs}",
    }  # fmt: skip
    write_json(out.with_suffix(".json"), record)
    return record


def held_out_accuracy(
    weights: Path = EMBEDDED_WEIGHTS, pictures: int = 20, architecture: str = "vgg19"
) -> tuple[float, int]:
    """(share of held-out pictures of the invented species that the folded network names rightly, how many)."""
    state = {k: v.float() for k, v in load_state(weights).items()}
    model = Classifier(len(INVENTED), architecture).eval()
    model.features = ARCHITECTURES[architecture].layers(0.25, False)
    model.load_state_dict(state)
    right = 0
    for label, species in enumerate(INVENTED):
        images = ZooDomain(species, "test", pictures, size=SIZE[architecture]).images()
        with torch.no_grad():
            right += int((model(to_float(images)).argmax(1) == label).sum())
    n = pictures * len(INVENTED)
    return right / n, n


def recorded(weights: Path = EMBEDDED_WEIGHTS) -> dict:
    """What was recorded when the weights were made: accuracy, n, settings, command."""
    return json.loads(weights.with_suffix(".json").read_text())


class DomainClassifier(nn.Module):
    """A backbone and a linear layer on the mean over space of level 5's ReLU: pictures (N, 3, H, W) in [-1, 1] →
    logits (N,), positive for domain B.

    With this head the class-activation map (Zhou et al. 2016) is exact: `evidence` plus bias has the logit as its mean.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels[5], 1)

    def evidence(self, images: torch.Tensor) -> torch.Tensor:
        """What each cell of level 5 says for domain B: (N, h, w), any range."""
        maps = self.backbone(images)[5].relu()  # (N, C, h, w)
        return torch.einsum("nchw,c->nhw", maps, self.head.weight[0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.evidence(images).mean((1, 2)) + self.head.bias

    @torch.no_grad()
    def logits(self, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """Of any number of pictures, on the CPU: (N,)."""
        device = self.head.weight.device
        return torch.cat([self(part.to(device)).cpu() for part in images.split(batch)])


def fine_tune(run: Run, backbone: Backbone, a: FeatureStore, b: FeatureStore, settings: Backbones) -> DomainClassifier:
    """Train a copy of `backbone`, all of it, and a head to tell domain B's training pictures from A's (§4.1).

    Half of each batch is of each domain; binary cross-entropy, Adam. The classifier's backbone, named "finetuned" and
    known by the run's id, is frozen again; the given one is left as it is.
    """
    classifier = DomainClassifier(copy.deepcopy(backbone)).to(run.device)
    classifier.backbone.requires_grad_(True)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=settings.learning_rate, fused=True)
    run.track(classifier=classifier, optimizer=optimizer)
    half = settings.batch // 2
    processes.check({"half of backbones.batch": half})
    labels = processes.share(torch.tensor([0.0, 1.0], device=run.device).repeat_interleave(half))
    for _ in run.steps(settings.steps):
        rows = (processes.share(torch.randint(len(s), (half,))) for s in (a, b))
        images = torch.cat([s.images(r, run.device) for s, r in zip((a, b), rows, strict=True)])
        logits = classifier(images)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(cross_entropy=loss, accuracy=((logits > 0) == (labels > 0)).float().mean())
    tuned = classifier.backbone.requires_grad_(False)
    tuned.name, tuned.fingerprint = "finetuned", run.id
    return classifier


@torch.no_grad()
def fit_head(backbone: Backbone, a: FeatureStore, b: FeatureStore, device: str = "cpu") -> DomainClassifier:
    """The same classifier on the untouched backbone: its head alone, fitted to the training pictures as they are.

    Logistic regression on standardised features; the standardisation is folded into the linear layer.
    """
    classifier = DomainClassifier(backbone).to(device)
    pooled = []
    for store in (a, b):
        parts = torch.tensor(store.originals()).split(64)
        pooled.append(torch.cat([backbone(store.images(p, device))[5].relu().mean((2, 3)).cpu() for p in parts]))
    labels = np.repeat([0, 1], [len(x) for x in pooled])
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(torch.cat(pooled).numpy(), labels)
    scaler, regression = fitted[0], fitted[1]
    weight = regression.coef_[0] / scaler.scale_
    classifier.head.weight.copy_(torch.from_numpy(weight))
    classifier.head.bias.fill_(regression.intercept_[0] - float(weight @ scaler.mean_))
    return classifier

"""Every experiment's settings. The defaults are the paper's; a profile lists only what differs, with its reason.

Settings are strict: an unknown name, a wrong type or an impossible value is refused by name before anything starts.
"""

import ast
import copy
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Level = Annotated[int, Field(ge=1, le=5)]  # not a Literal: JSON's keys are text, which strict literals refuse
Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
# Of networks that make maps or pictures; weights, losses and critics stay fp32. Without instructions for bf16, all do
Precision = Literal["fp32", "bf16"]


class Strict(BaseModel):
    """Settings that refuse unknown names, and values of another type or out of range."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Strict)


class Data(Strict):
    """The pictures: drawn, or folders of photos."""

    source: Literal["zoo", "photos"] = "photos"
    size: Positive = 224  # side of the pictures, pixels
    train: Positive = 1000  # zoo: pictures a domain to train on (photos: all that the folder has)
    test: Positive = 200  # zoo: held-out pictures a domain (photos: the folder's test share)
    # Copies of each training picture: itself, then mirrored, then crops. The paper has none; an epoch passes all.
    views: Positive = 1

    @model_validator(mode="after")
    def _divisible(self):
        if self.size % 16 or self.size < 32:
            raise ValueError(
                f"size {self.size} must be a multiple of 16, at least 32 (the backbone halves it four times)"
            )
        return self


class Inversion(Strict):
    """An inverter of each level. The paper refers to its unpublished supplement; see the page on deviations."""

    steps: dict[Level, Positive] = {5: 60_000, 4: 60_000, 3: 60_000}
    batch: Positive = 16
    learning_rate: dict[Level, Annotated[float, Field(gt=0)]] = {5: 1e-4, 4: 1e-4, 3: 1e-4, 2: 1e-4, 1: 1e-4}
    betas: tuple[Share, Share] = (0.5, 0.999)
    width: dict[Level, Positive] = {5: 512, 4: 512, 3: 160, 2: 128, 1: 64}  # channels of the first convolutions
    # Train a level on random windows, 1 / crop of the side (the network is convolutional).
    crop: dict[Level, Positive] = {}
    # Standard deviation of noise on a level's maps while its inverter learns: "small errors in the deep translation
    # may be amplified to large errors in the image" (§4.2); an inverter that has met errors amplifies them less.
    noise: dict[Level, Weight] = {}
    refine: Annotated[int, Field(ge=0)] = 0  # 3×3 convolutions after each doubling
    image_weight: Weight = 1.0
    feature_weight: Weight = 0.3
    feature_weights: dict[Level, Weight] = {1: 2.0, 2: 1.0, 3: 0.5, 4: 0.5, 5: 0.2}  # share of each level in it
    adversarial_weight: Weight = 0.01
    adversarial_start: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the steps without the adversarial term
    critic_width: Positive = 64
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Precision = "fp32"


class Translation(Strict):
    """The translators and critics of one level (eqs. 1–4)."""

    epochs: Annotated[float, Field(gt=0)] = 400.0
    batch: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[Share, Share] = (0.5, 0.999)
    critic_steps: Positive = 5  # critic updates per translator update
    adversarial: Weight = 1.0
    gan: Literal["wgan-gp", "lsgan"] = "wgan-gp"  # eq. (1); the least-squares one is what the paper advises against
    lambda_gp: Weight = 10.0
    lambda_cycle: Weight = 100.0
    lambda_identity: Weight = 100.0
    # Updates by eq. (3) alone, before the others. Below level 5 they teach a translator to draw real maps of its
    # domain from the next deeper level, at a small part of the cost of an update by all losses.
    identity_first: Annotated[int, Field(ge=0)] = 0
    width: Positive = 320
    halvings: Annotated[int, Field(ge=0)] = 2  # level 5
    blocks: Annotated[int, Field(ge=0)] = 0  # level 5
    skip: Weight = 0.0  # level 5: how much of the input is added to the output, before the tanh
    style: Positive = 256  # levels below 5
    style_width: Positive = 256  # levels below 5
    critic_width: Positive = 256
    critic_blocks: Positive = 1
    # Whether critics see maps mirrored, moved and masked at random; they learn some hundreds of pictures by heart
    augment: bool = False
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0: the paper names no averaging
    precision: Precision = "fp32"


class Probes(Strict):
    """The networks that read species, number, facing and silhouette on the drawn zoo."""

    pictures: Positive = 500  # of each species
    epochs: Annotated[float, Field(gt=0)] = 16.0


class Embedding(Strict):
    """Where pictures lie in fc7 (Fig. 10). The paper does not state t-SNE's settings."""

    perplexity: Annotated[float, Field(ge=1)] = 30.0  # scikit-learn's; t-SNE's authors advise 5 to 50
    shown: Positive = 200  # pictures of each group in the projection; the numbers are on all
    neighbours: Positive = 10
    thumbnail: Positive = 64  # side of the pictures in the interactive figure, pixels: it must stay small to load


class Backbones(Strict):
    """Fig. 8: the method on other backbones, and the fine-tuning of one of them. The paper leaves its schedule open."""

    alexnet: Literal["alexnet", "embedded_alexnet"] = "alexnet"
    shallowest: Level = 3  # where the cascades that are compared end
    steps: Positive = 2000  # of fine-tuning
    batch: Annotated[int, Field(gt=0, multiple_of=2)] = 16  # of fine-tuning, half of it of each domain
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5  # of fine-tuning: what Adam moves a weight by in a step


class Generation(Strict):
    """DEEP-VAE of one domain (§4.3): the VAE of level 5 and the generators of the levels below."""

    epochs: dict[Level, Annotated[float, Field(gt=0)]] = {5: 400.0, 4: 400.0, 3: 400.0}
    batch: Annotated[int, Field(ge=2)] = 16
    learning_rate: dict[Level, Annotated[float, Field(gt=0)]] = {5: 1e-4, 4: 1e-4, 3: 1e-4}
    betas: tuple[Share, Share] = (0.5, 0.999)
    width: dict[Level, Positive] = {5: 320, 4: 192, 3: 128}
    latent: Positive = 128  # level 5
    hidden: Positive = 512  # level 5
    halvings: Annotated[int, Field(ge=0)] = 2  # level 5
    beta: Weight = 0.3  # level 5: weight of the KL term (see `train_vae`)
    components: Annotated[int, Field(ge=0)] = 10  # Gaussians of a prior (see `fit_prior`); 0: N(0, I)
    latent_below: Positive = 16  # levels below 5: length of their code
    beta_below: Weight = 1e-4  # levels below 5: weight of a nat of KL beside the L1 of a map
    style: Positive = 256  # levels below 5
    style_width: Positive = 64  # levels below 5
    critic_width: dict[Level, Positive] = {4: 256, 3: 128}
    critic_steps: Positive = 5  # critic updates per generator update
    lambda_gp: Weight = 10.0
    lambda_reconstruction: Weight = 100.0
    # Updates of the generators by all but the adversarial term, before the others, as `Translation.identity_first`
    reconstruction_first: Annotated[int, Field(ge=0)] = 0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Precision = "fp32"


class Settings(Strict):
    """All of an experiment's settings; the defaults are the paper's. `load` makes those of a profile."""

    profile: str
    pair: tuple[str, str]
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backbone: Literal["vgg19", "embedded", "alexnet", "embedded_alexnet"] = "vgg19"
    levels: tuple[Level, ...] = (5, 4, 3)  # of the cascade, deepest first; the last one is inverted
    data: Data = Data()
    inversion: Inversion = Inversion()
    # Those of levels below the cascade's end (see `further`) are for notebooks 06 and 08 alone
    translation: dict[Level, Translation] = {
        5: Translation(),
        4: Translation(width=192, style_width=64),
        3: Translation(width=128, style_width=64, critic_width=128),
    }
    # Fig. 7: levels that are also translated alone, by level 5's kind of translator, down to the same coarsest side.
    # Levels 2 and 1 are left to small pictures: at 224 pixels level 1 of 2,547 giraffes takes 16 GB.
    alone: dict[Level, Translation] = {
        4: Translation(width=192, halvings=3),
        3: Translation(width=128, halvings=4, critic_width=128),
    }
    probes: Probes = Probes()
    embedding: Embedding = Embedding()
    backbones: Backbones = Backbones()
    generation: Generation = Generation()

    @property
    def further(self) -> tuple[int, ...]:
        """Levels to which a cascade could go on below its end, deepest first."""
        return tuple(i for i in sorted(self.translation, reverse=True) if i < min(self.levels))

    @model_validator(mode="after")
    def _consistent(self):
        from cdtlib.data.zoo import ANIMALS

        a, b = self.pair
        if a == b:
            raise ValueError(f"pair: the two domains must differ, both are {a!r}")
        if self.data.source == "zoo" and (unknown := [n for n in self.pair if n not in ANIMALS]):
            raise ValueError(f"pair: the drawn zoo has no {unknown[0]!r}; choose two of {', '.join(ANIMALS)}")
        if list(self.levels) != list(range(5, 5 - len(self.levels), -1)) or not self.levels:
            raise ValueError(f"levels {self.levels}: a cascade goes down from level 5 without a gap, such as (5, 4, 3)")
        if gap := set(range(min(self.translation, default=5), 5)) - self.translation.keys():
            raise ValueError(f"translation: nothing is set for level {max(gap)}, from which a shallower one goes on")
        for i, crop in self.inversion.crop.items():
            if crop > self.data.size // 32:
                raise ValueError(
                    f"inversion.crop: level {i} has windows of 1/{crop} of {self.data.size} pixels; "
                    f"at most {self.data.size // 32} is possible, so that they have 32"
                )
        for name, have, needed in (
            ("translation", self.translation, self.levels),
            ("inversion.steps", self.inversion.steps, (*self.translation, *self.alone)),
            ("inversion.width", self.inversion.width, (*self.translation, *self.alone)),
            ("inversion.learning_rate", self.inversion.learning_rate, (*self.translation, *self.alone)),
        ):
            if missing := [i for i in needed if i not in have]:
                raise ValueError(f"{name}: nothing is set for level {missing[0]}, which is to be translated")
        normalised = {f"alone.{i}.width": t.width for i, t in self.alone.items()}
        normalised |= {"translation.5.width": self.translation[5].width}
        normalised |= {f"generation.width.{i}": width for i, width in self.generation.width.items() if i == 5}
        for name, width in normalised.items():
            if width < 4 or width % min(32, width // 4):
                raise ValueError(f"{name}: {width} channels do not go into equal groups; choose a multiple of 32")
        return self


def _merge(base: dict, changes: dict) -> dict:
    merged = copy.copy(base)
    for key, value in changes.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


# What short schedules share: larger steps, averaged weights, fewer critic updates.
_SHORT = {
    "batch": 8, "learning_rate": 3e-4, "betas": (0.5, 0.9), "critic_steps": 1, "ema": 0.995, "precision": "bf16",
}  # fmt: skip

# The demo's maps are small. The gradient of a mean over d elements shrinks as 1 / √d, that of a critic does not: 20 at
# the demo's level 5 weighs what 100 weighs at the paper's.
_DEMO = _SHORT | {"batch": 16, "precision": "fp32", "lambda_cycle": 20.0, "lambda_identity": 20.0}

_ALONE = _DEMO | {"batch": 8, "blocks": 3, "skip": 1.5}

# The demo's levels 4 and 3, which have to draw what the next deeper level only hints at. At λ = 20 and 3e-4, without
# `identity_first`, the critic drowned the L1 terms, and skies and grounds were lost even of the own domain.
_DEMO_CONDITIONAL = _DEMO | {
    "batch": 8, "learning_rate": 1.2e-3, "identity_first": 2500, "lambda_cycle": 400.0, "lambda_identity": 400.0,
    "style": 64,
}  # fmt: skip

# Photos, levels 4 and 3. Their maps have 130,000 and 260,000 elements: at 100, the critic drowned the L1 terms of so
# few steps. `identity_first` halves the identity error before it begins; the levels that are translated alone have it
# for the same number of updates, though they have less to learn from it.
_CONDITIONAL = _SHORT | {
    "critic_steps": 2, "epochs": 10.0, "identity_first": 3000, "lambda_cycle": 400.0, "lambda_identity": 400.0,
}  # fmt: skip

PROFILES: dict[str, dict[str, Any]] = {
    "paper": {},
    "photos": {
        "data": {"size": 128, "views": 2},  # minutes of a GPU for a pair, and a night of a CPU
        "inversion": {
            "steps": {5: 1000, 4: 1000, 3: 1000},
            "batch": 8,
            "crop": {5: 2, 4: 2, 3: 2},  # a quarter of the pixels, a quarter of the time
            "noise": {3: 0.25},  # where the cascade ends, so where translated maps are inverted
            "learning_rate": dict.fromkeys((5, 4, 3), 5e-4),
            "width": {5: 256, 4: 192, 3: 128},
            "feature_weights": {1: 1.0, 2: 1.0, 3: 1.0, 4: 0.0, 5: 0.0},  # the deeper ones cost most of a step
            "adversarial_start": 0.6,
            "ema": 0.99,
            "precision": "bf16",
        },
        "translation": {
            5: {**_SHORT, "batch": 16, "epochs": 40.0, "width": 128, "halvings": 1, "critic_width": 96, "skip": 1.5},
            4: {**_CONDITIONAL, "width": 128, "critic_width": 96, "style": 64, "style_width": 48},
            3: {**_CONDITIONAL, "width": 96, "critic_width": 64, "style": 64, "style_width": 32},
        },
        "alone": {  # as many updates as in the cascade
            4: {**_CONDITIONAL, "width": 128, "halvings": 2, "critic_width": 96, "skip": 1.5},
            3: {**_CONDITIONAL, "width": 96, "halvings": 3, "critic_width": 64, "skip": 1.5},
        },
        "embedding": {"perplexity": 15.0},  # for some tens of held-out photos of a class
        # Level 5 alone decides on the shape, and a whole cascade for each backbone would take a CPU core hours more
        "backbones": {"shallowest": 5, "steps": 100, "batch": 8},  # a step is that of the whole VGG-19
        "generation": {
            **_SHORT,
            "batch": 8,  # half of it to reconstruct, half from the prior
            "epochs": {5: 60.0, 4: 12.0, 3: 10.0},  # with a third at level 5 samples are flatter and more alike
            "learning_rate": {5: 1e-3, 4: 5e-4, 3: 5e-4},  # for few steps
            "width": {5: 128, 4: 96, 3: 64},
            "halvings": 1,  # 8 → 4
            "style": 64,
            "style_width": 32,
            "critic_width": {4: 64, 3: 48},
            "lambda_reconstruction": 400.0,  # for the reason of `_CONDITIONAL`
            "reconstruction_first": 1500,
        },
    },
    "demo": {
        "backbone": "embedded",  # offline and small enough for two CPU cores
        # 96 px: at 64, conv_5_1 has 4 × 4 cells, too few to keep several animals and their facing apart
        "data": {"source": "zoo", "size": 96, "train": 1000, "test": 200, "views": 2},
        "inversion": {
            # shallow levels are easy, and only Fig. 7 needs them
            "steps": {5: 800, 4: 800, 3: 1500, 2: 400, 1: 200},
            "batch": 8,
            # A quarter of the pixels, a quarter of the time; but on windows level 3's inverter did not learn that the
            # ground is below
            "crop": {2: 2, 1: 2},
            "noise": {3: 0.25},  # where the cascade ends, so where translated maps are inverted
            "learning_rate": dict.fromkeys((5, 4, 3, 2, 1), 2e-3),  # for few steps, as the betas
            "betas": (0.9, 0.99),
            "width": {5: 128, 4: 128, 3: 96, 2: 48, 1: 32},
            "feature_weights": {1: 1.0, 2: 1.0, 3: 1.0, 4: 0.0, 5: 0.0},  # the deeper ones cost most of a step
            "adversarial_start": 0.7,
            "critic_width": 32,
            "ema": 0.99,
        },
        "translation": {
            # No halving: 6 × 6 is about where the paper's encoder ends; halving it lost count of the animals.
            5: {**_DEMO, "epochs": 6.4, "width": 128, "halvings": 0, "blocks": 3, "critic_width": 96, "skip": 1.5},
            4: {**_DEMO_CONDITIONAL, "epochs": 3.2, "width": 64, "critic_width": 48, "style_width": 32},
            3: {**_DEMO_CONDITIONAL, "epochs": 2.8, "width": 48, "critic_width": 48, "style_width": 24},
            # Below the cascade's end; as many updates as level 3. Those of level 1 would take as long as all others
            2: {**_DEMO_CONDITIONAL, "epochs": 2.8, "width": 32, "critic_width": 32, "style_width": 16},
        },
        "alone": {  # down to level 5's 6 × 6 cells, levels 4 and 3 with more updates by all losses than in the cascade
            4: {**_ALONE, "epochs": 4.0, "width": 64, "halvings": 1, "critic_width": 48},
            3: {**_ALONE, "epochs": 3.6, "width": 48, "halvings": 2, "critic_width": 48},
            2: {**_ALONE, "epochs": 4.0, "width": 32, "halvings": 3, "critic_width": 32},
            1: {**_ALONE, "epochs": 4.0, "width": 24, "halvings": 4, "critic_width": 24},
        },
        "embedding": {"thumbnail": 96},
        # Level 5 alone decides on the shape, and a whole cascade for each backbone would take half an hour more. The
        # learning rate is for few steps; at 1e-3 level 5 was nothing like before (correlation below 0.12).
        "backbones": {"alexnet": "embedded_alexnet", "shallowest": 5, "steps": 150, "learning_rate": 1e-4},
        "generation": {
            **{key: _DEMO[key] for key in ("betas", "critic_steps", "ema")},
            "epochs": {5: 16.0, 4: 7.2, 3: 7.2},
            "learning_rate": dict.fromkeys((5, 4, 3), 1e-3),  # for few steps
            "width": {5: 96, 4: 64, 3: 48},
            "halvings": 1,  # 6 → 3
            "style": 64,
            "style_width": 32,
            "critic_width": {4: 48, 3: 48},
            # As in `_DEMO_CONDITIONAL`; at 20, without `reconstruction_first`, zebras stood on the same patch of ground
            "lambda_reconstruction": 400.0,
            "reconstruction_first": 1500,
        },
    },
    "smoke": {  # the demo's data and backbone, and the fewest steps that touch every line
        "backbone": "embedded",
        "data": {"source": "zoo", "size": 64, "train": 48, "test": 16, "views": 2},
        "inversion": {
            "steps": {5: 4, 4: 4, 3: 4, 2: 4, 1: 4},
            "batch": 4,
            "width": {5: 16, 4: 16, 3: 16, 2: 16, 1: 16},
            "adversarial_start": 0.5,
            "critic_width": 8,
            "ema": 0.9,
        },
        "translation": {
            5: {**_DEMO, "epochs": 0.5, "width": 16, "halvings": 1, "critic_width": 8, "skip": 1.5},
            4: {**_DEMO, "epochs": 0.5, "width": 16, "critic_width": 8, "style": 8, "style_width": 8},
            3: {**_DEMO, "epochs": 0.5, "width": 16, "critic_width": 8, "style": 8, "style_width": 8},
            2: {**_DEMO, "epochs": 0.5, "width": 16, "critic_width": 8, "style": 8, "style_width": 8},
        },
        "alone": {
            i: {**_ALONE, "epochs": 0.5, "width": 16, "halvings": 6 - i, "critic_width": 8} for i in (4, 3, 2, 1)
        },
        "probes": {"pictures": 32, "epochs": 1.0},
        "embedding": {"perplexity": 5.0, "neighbours": 5},  # for 16 pictures of each group
        "backbones": {"alexnet": "embedded_alexnet", "steps": 4, "batch": 4},
        "generation": {
            **_SHORT,
            "epochs": {5: 1.0, 4: 0.5, 3: 0.5},
            "reconstruction_first": 1,
            "learning_rate": {5: 1e-3, 4: 3e-4, 3: 3e-4},
            "width": {5: 16, 4: 16, 3: 16},
            "hidden": 32,
            "latent": 16,
            "halvings": 1,
            "style": 16,
            "style_width": 8,
            "critic_width": {4: 8, 3: 8},
        },
    },
}


# `photos` hardly makes a GPU busy. These cascades draw sharper; what they do not need is as in `photos`. λ is half of
# that there: more steps by all losses leave the L1 terms more time against the critics.
_GPU = {"batch": 16, "identity_first": 4000, "lambda_cycle": 200.0, "lambda_identity": 200.0, "ema": 0.999}
_GPU_4 = _GPU | {"epochs": 20.0, "width": 192, "critic_width": 128}
_GPU_3 = _GPU | {"epochs": 17.0, "width": 128, "critic_width": 96}
PROFILES["photos-gpu"] = _merge(
    PROFILES["photos"],
    {
        "data": {"views": 4},  # some classes have only some hundreds of photos
        "inversion": {
            "steps": {5: 1500, 4: 1500, 3: 4000},
            "batch": 16,
            "crop": {5: 1, 4: 1, 3: 1},  # whole pictures, for the reason of `demo`
            "learning_rate": dict.fromkeys((5, 4, 3), 3e-4),
            "width": {3: 192},
            "ema": 0.999,
        },
        "translation": {
            5: {
                "batch": 32, "epochs": 66.0, "learning_rate": 2e-4, "critic_steps": 2,
                "width": 192, "critic_width": 192, "ema": 0.999,
            },
            4: _GPU_4,
            3: _GPU_3 | {"style_width": 48},
        },
        "alone": {4: _GPU_4, 3: _GPU_3},
        "generation": {
            "epochs": {5: 30.0, 4: 6.0, 3: 5.0},  # as many updates as in `photos`, of twice the copies
            "width": {4: 192, 3: 128},  # these as in the cascade's translators: sharper
            "style_width": 48,
            "critic_width": {4: 128, 3: 96},
            "reconstruction_first": 3000,  # wide ones have more to learn
        },
    },
)  # fmt: skip
PAIR = ("zebra", "giraffe")  # where none is named


def stem(notebook: str, pair: Sequence[str] = (), seed: int = 0, changes: Sequence[str] = ()) -> str:
    """The name, without ending, of all that a notebook leaves: `04_cascade-zebra-giraffe`, of seed 1 with `-seed1`.

    Of changed settings (see `overrides`) with these: `04_cascade-zebra-giraffe-translation.5.epochs=20`.
    """
    changed = "-".join(re.sub(r"[^\w.,=+-]", "", text) for text in sorted(changes))
    if len(changed) > 100:  # file systems take 255 bytes
        changed = f"changed-{hashlib.sha256(changed.encode()).hexdigest()[:12]}"
    return "-".join([notebook, *pair, *([f"seed{seed}"] if seed else []), *([changed] if changed else [])])


def load(profile: str = "demo", pair: Any = None, seed: int = 0, **overrides: Any) -> Settings:
    """Settings of `profile` for two domains. `overrides` are nested like the settings: data={"train": 100}.

    Raises ValueError that lists every fault, by name, with what would be right.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile: there is no {profile!r}; choose one of {', '.join(PROFILES)}")
    if pair is None:
        pair = PAIR
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(n, str) and n for n in pair):
        raise ValueError(f'pair: two names of domains are needed, such as ["zebra", "giraffe"], got {pair!r}')
    for name in pair:  # part of files' names
        if name != Path(name).name or name == ".." or "\\" in name:
            raise ValueError(f"pair: {name!r} is a path; give the folder's name alone, and with --photos where it lies")
    defaults = Settings(profile="paper", pair=("a", "b")).model_dump()
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise ValueError(f"unknown setting {sorted(unknown)[0]!r}; there are {', '.join(Settings.model_fields)}")
    values = _merge(_merge(defaults, PROFILES[profile]), overrides)
    values |= {"profile": profile, "pair": tuple(pair), "seed": seed}
    settings = validated(Settings, values)
    if settings.data.source == "photos" and (counts := {"train", "test"} & overrides.get("data", {}).keys()):
        raise ValueError(f"data.{max(counts)}: of photos all that a folder holds are used; remove some")
    return settings


def overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """What "translation.5.epochs=20" and the like change, nested as the settings are, for `load`.

    A value that is no Python literal is a string. Raises ValueError for text without a name or a value, and for what is
    no setting to change.
    """
    changed: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = str(text).partition("=")
        if not name or not equals:
            raise ValueError(f"a change of settings is NAME=VALUE, such as translation.5.epochs=20, not {text!r}")
        first, *others = name.split(".")
        if first in ("profile", "pair", "seed"):
            raise ValueError(f"{first}: it is given by itself, not among the changes of settings")
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
        value = tuple(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            raise ValueError(f"{name}: change each of the settings in it by its own name, such as {name}.3=…")
        place = changed
        *path, last = first, *(int(part) if part.isdecimal() else part for part in others)
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name}: a value is already given for {part}")
        if last in place:
            raise ValueError(f"{name}: given twice")
        place[last] = value
    return changed


def validated(model: type[Model], values: dict[str, Any]) -> Model:
    """Settings of the kind `model`. Raises ValueError that lists every fault, by name, with what would be right."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = (_fault(model, fault) for fault in error.errors())
        raise ValueError("settings refused:\n  " + "\n  ".join(faults)) from error


def _fault(model: type[Strict], error: dict) -> str:
    """One line: which setting, what is wrong with it, what would be right."""
    where = ".".join(map(str, error["loc"])) or "settings"
    if error["type"] == "extra_forbidden":
        if len(error["loc"]) > 1:
            model = model.model_fields[error["loc"][0]].annotation
            model = model if isinstance(model, type) else Translation  # the one that is set by level
        return f"{where}: there is no such setting; there are {', '.join(model.model_fields)}"
    given = "" if isinstance(error["input"], dict) else f" (got {error['input']!r:.80})"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"

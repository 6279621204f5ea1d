"""Every experiment's settings. The defaults are the paper's; a profile lists only what differs, with its reason.

Settings are strict: an unknown name, a wrong type or an impossible value is refused by name before anything starts.
"""

import copy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Level = Annotated[int, Field(ge=1, le=5)]  # not a Literal: JSON's keys are text, which strict literals refuse
Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["fp32", "bf16"]  # of translators and inverters; weights, losses and WGAN-GP critics stay fp32


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Strict):
    source: Literal["zoo", "photos"] = "photos"
    size: Positive = 224  # side of the pictures, pixels
    train: Positive = 1000  # zoo: pictures a domain to train on (photos: all that the folder has)
    test: Positive = 200  # zoo: held-out pictures a domain (photos: the folder's test share)
    views: Positive = 4  # augmented copies of each training picture: itself, mirrored, two crops

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
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[Share, Share] = (0.5, 0.999)
    width: dict[Level, Positive] = {5: 512, 4: 512, 3: 256, 2: 128, 1: 64}  # channels of the first convolutions
    crop: dict[
        Level, Positive
    ] = {}  # train a level on random windows, 1 / crop of the side (the network is convolutional)
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
    lambda_gp: Weight = 10.0
    lambda_cycle: Weight = 100.0
    lambda_identity: Weight = 100.0
    width: Positive = 512
    halvings: Annotated[int, Field(ge=0)] = 2  # level 5
    blocks: Annotated[int, Field(ge=0)] = 0  # level 5
    skip: Weight = 0.0  # level 5: how much of the input is added to the output, before the tanh
    style: Positive = 256  # levels below 5
    style_width: Positive = 256  # levels below 5
    critic_width: Positive = 512
    critic_blocks: Positive = 1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0: the paper names no averaging
    precision: Precision = "fp32"


class Probes(Strict):
    """The networks that read species, number, facing and silhouette on the drawn zoo."""

    pictures: Positive = 500  # of each species
    epochs: Annotated[float, Field(gt=0)] = 12.0


class Generation(Strict):
    """DEEP-VAE of one domain (§4.3): the VAE of level 5 and the generators of the levels below."""

    epochs: dict[Level, Annotated[float, Field(gt=0)]] = {5: 400.0, 4: 400.0, 3: 400.0}
    batch: Annotated[int, Field(ge=2)] = 16
    learning_rate: dict[Level, Annotated[float, Field(gt=0)]] = {5: 1e-4, 4: 1e-4, 3: 1e-4}
    betas: tuple[Share, Share] = (0.5, 0.999)
    width: dict[Level, Positive] = {5: 512, 4: 256, 3: 256}
    latent: Positive = 128  # level 5
    hidden: Positive = 512  # level 5
    halvings: Annotated[int, Field(ge=0)] = 2  # level 5
    beta: Weight = 0.3  # level 5: weight of the KL term (see `train_vae`)
    components: Annotated[int, Field(ge=0)] = 10  # Gaussians of a prior (see `fit_prior`); 0: N(0, I)
    latent_below: Positive = 16  # levels below 5: length of their code
    beta_below: Weight = 1e-4  # levels below 5: weight of a nat of KL beside the L1 of a map
    style: Positive = 256  # levels below 5
    style_width: Positive = 256  # levels below 5
    critic_width: dict[Level, Positive] = {4: 512, 3: 256}
    critic_steps: Positive = 5  # critic updates per generator update
    lambda_gp: Weight = 10.0
    lambda_reconstruction: Weight = 100.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Precision = "fp32"


class Settings(Strict):
    profile: str
    pair: tuple[str, str]
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backbone: Literal["vgg19", "embedded"] = "vgg19"
    levels: tuple[Level, ...] = (5, 4, 3)  # of the cascade, deepest first; the last one is inverted
    data: Data = Data()
    inversion: Inversion = Inversion()
    translation: dict[Level, Translation] = {
        5: Translation(),
        4: Translation(width=256),
        3: Translation(width=256, critic_width=256),
    }

    probes: Probes = Probes()
    generation: Generation = Generation()

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
        for i, crop in self.inversion.crop.items():
            if crop > self.data.size // 32:
                raise ValueError(
                    f"inversion.crop: level {i} has windows of 1/{crop} of {self.data.size} pixels; "
                    f"at most {self.data.size // 32} is possible, so that they have 32"
                )
        for name in ("translation", "inversion.steps"):
            have = self.translation if name == "translation" else self.inversion.steps
            if missing := [i for i in self.levels if i not in have]:
                raise ValueError(f"{name}: nothing is set for level {missing[0]} of the cascade {self.levels}")
        return self


# What short schedules share: larger steps, averaged weights, fewer critic updates.
_SHORT = {
    "batch": 8, "learning_rate": 3e-4, "betas": (0.5, 0.9), "critic_steps": 1, "ema": 0.995, "precision": "bf16",
}  # fmt: skip

# The demo's maps are small. The gradient of a mean over d elements shrinks as 1 / √d, that of a critic does not: 20 at
# the demo's level 5 weighs what 100 weighs at the paper's.
_DEMO = _SHORT | {"batch": 16, "precision": "fp32", "lambda_cycle": 20.0, "lambda_identity": 20.0}

PROFILES: dict[str, dict[str, Any]] = {
    "paper": {},
    "photos": {
        "data": {"size": 128, "views": 2},  # a modest size that a CPU can train by resuming
        "inversion": {
            "steps": {5: 250, 4: 250, 3: 700},  # sharpness matters at the level that is shown last
            "batch": 8,
            "crop": {5: 2, 4: 2, 3: 2},  # a quarter of the pixels, a quarter of the time
            "learning_rate": 5e-4,
            "width": {5: 256, 4: 192, 3: 128},
            "feature_weights": {1: 1.0, 2: 1.0, 3: 1.0, 4: 0.0, 5: 0.0},  # the deeper ones cost most of a step
            "adversarial_start": 0.6,
            "ema": 0.99,
            "precision": "bf16",
        },
        "translation": {
            5: {**_SHORT, "epochs": 2.5, "width": 128, "halvings": 1, "critic_width": 96, "skip": 1.5},
            4: {
                **_SHORT,
                "learning_rate": 6e-4,
                "epochs": 2.5,
                "width": 96,
                "critic_width": 64,
                "style": 64,
                "style_width": 32,
            },
            3: {
                **_SHORT,
                "learning_rate": 6e-4,
                "epochs": 2.0,
                "width": 64,
                "critic_width": 48,
                "style": 64,
                "style_width": 24,
            },
        },
        "generation": {
            **_SHORT,
            "batch": 16,  # half of it to reconstruct, half from the prior
            "epochs": {5: 12.0, 4: 3.0, 3: 2.5},
            "learning_rate": {5: 1e-3, 4: 5e-4, 3: 5e-4},  # for few steps
            "width": {5: 128, 4: 96, 3: 64},
            "halvings": 1,  # 8 → 4
            "style": 64,
            "style_width": 32,
            "critic_width": {4: 64, 3: 48},
            "lambda_reconstruction": 40.0,
        },
    },
    "demo": {
        "backbone": "embedded",  # offline and small enough for two CPU cores
        # 96 px: at 64, conv_5_1 has 4 × 4 cells, too few to keep several animals and their facing apart
        "data": {"source": "zoo", "size": 96, "train": 1000, "test": 200, "views": 2},
        "inversion": {
            "steps": {5: 800, 4: 800, 3: 2000},  # sharpness matters at the level that is shown last
            "batch": 8,
            "crop": {3: 2},  # a quarter of the pixels, a quarter of the time
            "learning_rate": 2e-3,  # for few steps
            "betas": (0.9, 0.99),  # for few steps
            "width": {5: 128, 4: 128, 3: 96},
            "feature_weights": {1: 1.0, 2: 1.0, 3: 1.0, 4: 0.0, 5: 0.0},  # the deeper ones cost most of a step
            "adversarial_start": 0.7,
            "critic_width": 32,
            "ema": 0.99,
        },
        "translation": {
            # No halving: 6 × 6 is about where the paper's encoder ends; halving it lost count of the animals.
            5: {**_DEMO, "epochs": 6.4, "width": 128, "halvings": 0, "blocks": 3, "critic_width": 96, "skip": 1.5},
            4: {**_DEMO, "batch": 8, "epochs": 4.0, "width": 64, "critic_width": 48, "style": 64, "style_width": 32},
            3: {**_DEMO, "batch": 8, "epochs": 3.6, "width": 48, "critic_width": 48, "style": 64, "style_width": 24},
        },
        "generation": {
            **{key: _DEMO[key] for key in ("betas", "critic_steps", "ema")},
            "epochs": {5: 16.0, 4: 7.2, 3: 7.2},
            "learning_rate": {5: 1e-3, 4: 5e-4, 3: 1e-3},  # for few steps
            "width": {5: 96, 4: 64, 3: 48},
            "halvings": 1,  # 6 → 3
            "style": 64,
            "style_width": 32,
            "critic_width": {4: 48, 3: 48},
            "lambda_reconstruction": 20.0,
        },
    },
    "smoke": {  # the demo's data and backbone, and the fewest steps that touch every line
        "backbone": "embedded",
        "data": {"source": "zoo", "size": 64, "train": 48, "test": 16, "views": 2},
        "inversion": {
            "steps": {5: 4, 4: 4, 3: 4},
            "batch": 4,
            "width": {5: 16, 4: 16, 3: 16},
            "adversarial_start": 0.5,
            "critic_width": 8,
            "ema": 0.9,
        },
        "translation": {
            5: {**_DEMO, "epochs": 0.5, "width": 16, "halvings": 1, "critic_width": 8, "skip": 1.5},
            4: {**_DEMO, "epochs": 0.5, "width": 16, "critic_width": 8, "style": 8, "style_width": 8},
            3: {**_DEMO, "epochs": 0.5, "width": 16, "critic_width": 8, "style": 8, "style_width": 8},
        },
        "probes": {"pictures": 32, "epochs": 1.0},
        "generation": {
            **_SHORT,
            "epochs": {5: 1.0, 4: 0.5, 3: 0.5},
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
PAIRS = {
    "paper": ("zebra", "giraffe"),
    "photos": ("zebra", "giraffe"),
    "demo": ("zebra", "giraffe"),
    "smoke": ("zebra", "giraffe"),
}


def _merge(base: dict, changes: dict) -> dict:
    merged = copy.copy(base)
    for key, value in changes.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


def load(profile: str = "demo", pair: Any = None, seed: int = 0, **overrides: Any) -> Settings:
    """Settings of `profile` for two domains. `overrides` are nested like the settings: data={"train": 100}.

    Raises ValueError that lists every fault, by name, with what would be right.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile: there is no {profile!r}; choose one of {', '.join(PROFILES)}")
    if pair is None:
        pair = PAIRS[profile]
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(n, str) and n for n in pair):
        raise ValueError(f'pair: two names of domains are needed, such as ["zebra", "giraffe"], got {pair!r}')
    defaults = Settings(profile="paper", pair=("a", "b")).model_dump()
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise ValueError(f"unknown setting {sorted(unknown)[0]!r}; there are {', '.join(Settings.model_fields)}")
    values = _merge(_merge(defaults, PROFILES[profile]), overrides)
    values |= {"profile": profile, "pair": tuple(pair), "seed": seed}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ValueError("settings refused:\n  " + "\n  ".join(map(_fault, error.errors()))) from error


def _fault(error: dict) -> str:
    """One line: which setting, what is wrong with it, what would be right."""
    where = ".".join(map(str, error["loc"])) or "settings"
    if error["type"] == "extra_forbidden":
        model = Settings.model_fields[error["loc"][0]].annotation
        model = model if isinstance(model, type) else Translation  # the one that is set by level
        return f"{where}: there is no such setting; there are {', '.join(model.model_fields)}"
    given = "" if isinstance(error["input"], dict) else f" (got {error['input']!r:.80})"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"

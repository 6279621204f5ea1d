# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · The domains and the backbone
#
# **Claim (§1, §3).** The deep layers of a network that was trained to classify hold what an animal *is* and
# where its parts are; shallow layers hold its coat. The deeper the level, the coarser in space.
#
# **Here.** The two domains, and what each level of the backbone sees of them. Expect a minute in the profiles `smoke` and
# `demo`; with photos, the time of one pass of VGG-19 over all of them.

# %% tags=["parameters"]
profile = "demo"
pair = ["zebra", "giraffe"]
seed = 0
# Changes of settings, such as "translation.5.epochs=20"
changes = []

# %%
import torch

from cdtlib import plots
from cdtlib.data import to_float
from cdtlib.experiment import Experiment
from cdtlib.training.classification import held_out_accuracy, recorded

x = Experiment("01_data_and_backbone", profile, pair, seed, changes)
a, b = x.settings.pair
method = x.method

# %% [markdown]
# ## The two domains
#
# Unpaired: no picture of one domain belongs to a picture of the other. These are the first training pictures, not chosen.

# %%
first = {name: method.domains[side]["train"].batch(range(10)) for side, name in (("a", a), ("b", b))}
x.figure(plots.grid(first), "domains")

# %%
for side, name in (("a", a), ("b", b)):
    train, test = (method.domains[side][split] for split in ("train", "test"))
    print(f"{name}: {len(train)} pictures to train on, {len(test)} held out, {train.size} × {train.size} pixels")
    x.metric(f"training pictures, {name}", len(train), n=len(train))
    x.metric(f"held-out pictures, {name}", len(test), n=len(test))

# %% [markdown]
# ## The backbone
#
# A pyramid is the five maps conv_1_1 … conv_5_1 of a picture, before their ReLU, each channel normalised over its domain and
# clamped to [-1, 1] (§3, "Pre-processing"). Below, for one picture of each domain, the eight channels of each level that vary
# the most, here normalised over that picture (black is a standard deviation below a channel's mean, light yellow one above): from edges and coat at the top to coarse places of parts at the bottom.

# %%
for side, name in (("a", a), ("b", b)):
    image = to_float(method.domains[side]["train"].batch([0])).to(method.device)
    with torch.no_grad():
        maps = method.backbone(image)
    x.figure(plots.channel_maps(image[0], {i: m[0] for i, m in maps.items()}), f"channels-{name}")

# %% [markdown]
# ## Normalisation
#
# The clamp at one standard deviation cuts off more than it may seem. How many values it holds at ±1:

# %%
for side, name in (("a", a), ("b", b)):
    store = method.store(side)
    for level in x.settings.levels:
        values = store.level(level, slice(0, 200))
        share = (values.abs() >= 1).float().mean()
        x.metric(f"share of clamped values, {name}, level {level}", share, n=len(values), unit="share")
        print(f"{name}, level {level}: {tuple(values.shape[1:])}, {share:.1%} clamped")

# %% [markdown]
# ## How good is the backbone?
#
# Photos are seen by VGG-19 as torchvision trained it on ImageNet. Offline profiles use a VGG-19 of a quarter of the width, trained to tell the zoo's invented species apart; zebra, giraffe and
# elephant were not among them. `cdt pretrain` makes it anew. The first number was recorded when it was made; the second is measured now, on
# newly drawn pictures.

# %%
if x.settings.backbone == "embedded":
    count = 4 if profile == "smoke" else 20
    accuracy, n = held_out_accuracy(pictures=count)
    print(f"recorded: {recorded()['accuracy']:.1%} of {recorded()['n']}; now: {accuracy:.1%} of {n} pictures")
    x.metric(
        "embedded backbone, accuracy on held-out pictures of the invented species",
        accuracy,
        n=n,
        unit="share",
        better="higher",
    )
else:
    print(f"not asked here: the backbone is {x.settings.backbone}, with weights of the fingerprint {method.backbone.fingerprint}")

# %% [markdown]
# ## Found

# %% tags=["scroll-output"]
x.finish()

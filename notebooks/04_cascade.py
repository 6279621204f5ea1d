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
# # 04 · The cascade
#
# **Claim (§3, "Coarse to fine conditional translation"; Figs. 1–5).** Translating level 5 first, then 4 and 3, each given the translated deeper level, and
# inverting the last, changes an animal's shape while its place, pose and number are kept.
#
# **Here.** The whole method, on held-out pictures, in both directions. In the curves of levels 4 and 3 a dotted line marks where the critics begin.
#
# Time of levels 4 and 3, where they are not trained yet: `smoke` seconds; `demo` 6 to 12 minutes of a CPU core; `photos` two and a half minutes of an H100; `photos-gpu` 5 minutes of an H200
# beside other trainings; `paper` less than 4.6 hours of an H200 (steps measured with wider networks). On a CPU, with photos, translating and measuring takes minutes more.

# %% tags=["parameters"]
profile = "demo"
pair = ["zebra", "giraffe"]
seed = 0
# Changes of settings, such as "translation.5.epochs=20"
changes = []

# %%
import torch

from cdtlib import plots
from cdtlib.experiment import Experiment

x = Experiment("04_cascade", profile, pair, seed, changes)
a, b = x.settings.pair
method = x.method
levels = x.settings.levels

# %%
for level in levels:
    method.translators(level)
    x.figure(plots.curves(method.runs[-1].curve(), title=f"level {level}"), f"curves-level{level}")

# %% [markdown]
# ## Translations
#
# Held-out pictures, the first ten, not chosen. Same input in the same column; each row goes one level shallower (Fig. 1).

# %%
cascade = method.cascade(inverters=levels)
translated = {}
for side, to, name, target in (("a", "b", a, b), ("b", "a", b, a)):
    images = method.store(side, "test").images()
    translated[to] = cascade.translate(images, to)
    rows = {name: images[:10]}
    rows |= {f"as {target}, level {i}": cascade.translate(images[:10], to, level=i) for i in levels}
    x.figure(plots.grid(rows), f"levels-{name}-to-{target}")

# %% [markdown]
# ## The result alone, both directions
#
# The next ten held-out pictures (of few, the first again).

# %%
n = min(len(method.store(side, "test")) for side in "ab")
next_ten = slice(10, min(20, n)) if n > 10 else slice(0, n)
rows = {}
for side, to, name, target in (("a", "b", a, b), ("b", "a", b, a)):
    rows |= {name: method.store(side, "test").images(next_ten), f"as {target}": translated[to][next_ten]}
x.figure(plots.grid(rows), "translations")

# %% [markdown]
# ## Each domain through its own translators
#
# What the translators to a domain make of real pictures of that domain, from level 5 down (the identity loss, eq. 3, asks each of them for no change). Where
# these are clear and the translations above are not, the shallower levels can draw the animal, and it is the translation of a deeper one that is wrong.

# %%
rows = {}
for side, name in (("a", a), ("b", b)):
    images = method.store(side, "test").images(slice(0, min(10, n)))
    maps, made = cascade.pyramid(images, side), None
    with torch.no_grad():
        for level in levels:
            made = method.translators(level)[side](*((maps[level],) if made is None else (maps[level], made)))
    rows |= {name: images, f"{name}, as {name}": cascade.invert(made, level, side)}
x.figure(plots.grid(rows), "own-domains")

# %% [markdown]
# ## Distance to the target
#
# Distances between the pictures as the backbone's conv_5_1 sees them (its mean over space): all held-out pictures of one domain, translated, against all
# held-out pictures of the other. These are not FID, which needs another network and stands here only for photos, where its weights are at hand. The baseline is the
# untouched source, the ideal the target's own training pictures. Diversity is the mean distance between two translations, in units of that
# between two real pictures.

# %%
for to in "ba":
    x.distances(translated[to], to, cell=(2, "Ours"))

# %% [markdown]
# ## Found

# %%
noted = {metric["name"]: metric for metric in x.metrics}
for direction in map(x.direction, "ba"):
    distance, precision, recall = (noted[f"{name}, {direction}"] for name in ("fréchet_backbone", "precision", "recall"))
    print(
        f"{direction}: the Fréchet distance to the target is {distance['value']:.3g} (untouched {distance['lower']:.3g}, training pictures "
        f"{distance['upper']:.3g}); {precision['value']:.1%} of the translations lie where the target's pictures do, {recall['value']:.1%} of these where "
        f"translations do (training pictures: {precision['upper']:.1%} and {recall['upper']:.1%})."
    )

# %% tags=["scroll-output"]
x.finish()

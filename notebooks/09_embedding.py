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
# # 09 · Where the translations lie
#
# **Claim (§4.2, "Qualitative comparison"; Fig. 10).** Fed through the entire backbone, up to the last fully-connected layer before the classes, and
# projected by t-SNE {cite}`vandermaaten2008`, the translated pictures (cyan) lie closest to the target domain (red) with the paper's method.
#
# **Here.** The same layer, fc7: 4096 units in VGG-19, 128 in the embedded network. As t-SNE only shows, numbers say in the full space what it
# suggests: how many of a translation's neighbours are of the target domain; how many translations lie where the target does, and the reverse
# (precision and recall {cite}`kynkaanniemi2019`); how well a classifier tells translations from pictures of the target {cite}`lopezpaz2017`.
#
# Time, where all methods are trained: `smoke` seconds; `demo` a minute; `photos` 5 minutes on a CPU, where VGG-19 takes half a second a picture.

# %% tags=["parameters"]
profile = "demo"
pair = ["zebra", "giraffe"]
seed = 0
# Changes of settings, such as "translation.5.epochs=20"
changes = []

# %%
import pandas as pd
import torch
from IPython.display import display

from cdtlib import interactive, plots
from cdtlib.data import to_float
from cdtlib.experiment import Experiment
from cdtlib.features.classifier import fc7
from cdtlib.metrics.embedding import compare, tsne

x = Experiment("09_embedding", profile, pair, seed, changes)
a, b = x.settings.pair
method, options = x.method, x.settings.embedding
directions = (("a", "b", a, b), ("b", "a", b, a))
n = min(len(method.domains[side]["test"]) for side in "ab")
shown = min(n, options.shown)
perplexity = min(options.perplexity, shown - 1.0)  # of few pictures t-SNE cannot heed so many neighbours
network = fc7(x.settings.backbone).to(method.device)

# %% [markdown]
# ## The pictures
#
# `methods` holds the translations of all held-out pictures (as many of one domain as of the other) by the name of the method. To compare them with:
#
# - `real`: pictures of the target from the training set, the ideal
# - `inverted`: the same, inverted from the last level of the cascade, so with the inverter's own traces but no translation
# - `perfect`, only on the drawn zoo: the same scene drawn with the other animal
# - `noise`: the pictures of a broken method

# %%
cascade = method.cascade()
final = min(x.settings.levels)
held_out = {side: method.store(side, "test").images(slice(0, n)) for side in "ab"}
methods = {
    name: {to: own.translate(held_out[side], to) for side, to, _, _ in directions}
    for name, own in {"ours": method, **x.rivals}.items()
}

references = {"inverted": {}, "real": {}, "noise": {}}
random = torch.Generator().manual_seed(seed)
for side in "ab":
    store = method.store(side)
    rows = torch.tensor(store.originals()[:n])
    references["real"][side] = store.images(rows)
    maps = (store.level(final, part, method.device) for part in rows.split(64))
    references["inverted"][side] = torch.cat([cascade.invert(m, final, side).cpu() for m in maps])
    references["noise"][side] = 2 * torch.rand(held_out[side].shape, generator=random) - 1
if x.settings.data.source == "zoo":
    references["perfect"] = {
        to: to_float(method.domains[side]["test"].counterpart(target).batch(range(n))) for side, to, _, target in directions
    }  # fmt: skip

described = {
    (name, side): network(pictures)
    for name, sides in {"held out": held_out, **methods, **references}.items()
    for side, pictures in sides.items()
}

# %% [markdown]
# ## Numbers in the full space
#
# ```{literalinclude} ../../../cdtlib/metrics/embedding.py
# :pyobject: target_share
# :language: python
# ```
#
# ```{literalinclude} ../../../cdtlib/metrics/embedding.py
# :pyobject: two_sample_accuracy
# :language: python
# ```
#
# The baseline is the untouched source, the ideal is `real`.

# %%
numbers = {}
for side, to, name, target in directions:
    source, wanted = described["held out", side], described["held out", to]
    for m in ("untouched", *methods, *references):
        found = source if m == "untouched" else described[m, to]
        paired = m in ("untouched", "perfect", *methods)
        numbers[m, to] = compare(found, source, wanted, k=options.neighbours, paired=paired, seed=seed)
    for m in (*methods, "inverted"):
        for what, value in numbers[m, to].items():
            x.metric(
                f"fc7: {what}, {m}, {name} → {target}", value, n=n, unit="share", lower=numbers["untouched", to][what],
                upper=numbers["real", to][what], better="lower" if what == "two-sample accuracy" else "higher",
            )  # fmt: skip
    print(f"{name} → {target}: {n} pictures of each set, {options.neighbours} neighbours of each")
    display(pd.DataFrame({m: numbers[m, to] for m in ("untouched", *methods, *references)}).T.round(3))

# %% [markdown]
# ## Projected
#
# Source blue, target red, translated cyan; a panel for each direction and method, each a projection of its own, so that no method changes another's. In t-SNE,
# what is near is alike; distances between clumps, their sizes and the axes mean nothing.

# %%
points, panels = {}, {}
for m in methods:
    for side, to, name, target in directions:
        sets = {"source": ("held out", side), "target": ("held out", to), "translated": (m, to)}
        joint = torch.cat([described[key][:shown] for key in sets.values()])
        joint = tsne(joint, perplexity=perplexity, seed=seed).reshape(3, shown, 2)
        points[m, to] = panels[f"{name} → {target}, {m}"] = dict(zip(sets, joint, strict=True))
x.figure(plots.embedding(panels), "tsne")
print(f"{shown} pictures of each group, perplexity {perplexity:g}, seed {seed}")

# %% [markdown]
# ## Which picture is where
#
# Our panels once more. Pointing at a mark shows its picture, for a translation with its source.

# %%
for side, to, name, target in directions:
    pictures = {"source": held_out[side], "target": held_out[to], "translated": methods["ours"][to]}
    pictures = {group: own[:shown] for group, own in pictures.items()}
    labels = {"source": name, "target": target, "translated": f"{name} as {target}"}
    display(interactive.scatter(points["ours", to], pictures, labels, side=options.thumbnail))

# %% [markdown]
# ## Found

# %%
for _, to, name, target in directions:
    print(f"{name} → {target}")
    for what, ideal in numbers["real", to].items():
        others = ", ".join(f"{m} {numbers[m, to][what]:.0%}" for m in ("untouched", "inverted", "noise"))
        ours = ", ".join(f"{m} {numbers[m, to][what]:.0%}" for m in methods)
        print(f"  {what}: {ours} ({others}; ideal {ideal:.0%})")
    if len(methods) > 1:
        print(
            f"  most of its pictures lie where the target does: {max(methods, key=lambda m: numbers[m, to]['precision'])}"
        )
print(f"Standard error of an accuracy of 50%: {(1 / (8 * n)) ** 0.5:.1%}")

# %% tags=["scroll-output"]
x.finish()

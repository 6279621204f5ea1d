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
# # Where the translations lie
#
# **Claim (§4.2, "Qualitative comparison"; Fig. 10).** Fed through the entire backbone, up to the last fully-connected layer before the classes, and
# projected by t-SNE {cite}`vandermaaten2008`, the translated pictures (cyan) lie closest to the target domain (red) with the paper's method.
#
# **Here.** The same layer, fc7: 4096 numbers a picture in VGG-19, 128 in the embedded network. As t-SNE only shows, two numbers say in the full
# space what it suggests: how many of a translation's neighbours are of the target domain, and how well a classifier tells translations from
# pictures of the target {cite}`lopezpaz2017`. All pictures are held out, as many of one domain as of the other.
#
# Time: `smoke` seconds; `demo` about a minute on one of two cores, where it finds the cascade trained; with photos on a CPU, 1.3 seconds a picture.

# %% tags=["parameters"]
profile = "demo"
pair = ["zebra", "giraffe"]
seed = 0

# %%
import pandas as pd
import torch
from IPython.display import display

from cdtlib import interactive, plots
from cdtlib.data import to_float
from cdtlib.experiment import Experiment
from cdtlib.features.classifier import fc7
from cdtlib.metrics.embedding import target_share, tsne, two_sample_accuracy

x = Experiment("09_embedding", profile, pair, seed)
a, b = x.settings.pair
method, options = x.method, x.settings.embedding
network = fc7(x.settings.backbone).to(method.device)
directions = (("a", "b", a, b), ("b", "a", b, a))

# %% [markdown]
# ## The pictures
#
# `methods` holds the translations by the name of the method. Two more sets, and on the drawn zoo a third, say what can be had at best:
# pictures of the target that it was trained on; the same, inverted from the last level of the cascade, so with the inverter's own traces but
# no translation; and the *perfect translation*, the same scene drawn with the other animal.

# %%
cascade = method.cascade()
final = min(x.settings.levels)
n = min(len(method.store(side, "test")) for side in "ab")
held_out = {side: method.store(side, "test").images(slice(0, n)) for side in "ab"}
methods = {"ours": {to: cascade.translate(held_out[side], to) for side, to, _, _ in directions}}

references = {"inverted": {}, "real": {}}
for side in "ab":
    store = method.store(side)
    rows = torch.tensor(store.originals()[:n])
    references["real"][side] = store.images(rows)
    maps = (store.level(final, part, method.device) for part in rows.split(64))
    references["inverted"][side] = torch.cat([cascade.invert(m, final, side).cpu() for m in maps])
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
# `lower` is the value for the untouched source; `upper` for the target's own pictures: among the held-out ones, and trained ones against held-out ones.

# %%
share, accuracy = {}, {}
for side, to, name, target in directions:
    source, wanted = described["held out", side], described["held out", to]
    sets = {"untouched": source} | {m: described[m, to] for m in (*methods, *references)}
    for m, found in sets.items():
        own = None if m in ("inverted", "real") else "source"
        share[m, to] = target_share(found, source, wanted, k=options.neighbours, own=own)
        accuracy[m, to] = two_sample_accuracy(found, wanted, seed=seed)
    share["real", to] = target_share(wanted, source, wanted, k=options.neighbours, own="target")
    for m in (*methods, *references):
        if m != "real":
            x.metric(
                f"fc7: share of target among neighbours, {m}, {name} → {target}", share[m, to], n=n, better="higher",
                unit="share", lower=share["untouched", to], upper=share["real", to],
            )  # fmt: skip
            x.metric(
                f"fc7: two-sample accuracy, {m}, {name} → {target}", accuracy[m, to].value, n=accuracy[m, to].n, better="lower",
                unit="share", lower=accuracy["untouched", to].value, upper=accuracy["real", to].value,
            )  # fmt: skip
    print(f"{name} → {target}: {n} pictures of each set, {options.neighbours} neighbours of each picture")
    table = {m: {"target among neighbours": share[m, to], "two-sample accuracy": accuracy[m, to].value} for m in sets}
    display(pd.DataFrame(table).T.round(3))

# %% [markdown]
# ## Projected
#
# Source blue, target red, translated cyan; a panel for each direction and method, each a projection of its own, so that no method changes another's. In t-SNE,
# what is near is alike; distances between clumps, their sizes and the axes mean nothing.

# %%
shown = min(n, options.shown)
points, panels = {}, {}
for m in methods:
    for side, to, name, target in directions:
        sets = {"source": ("held out", side), "target": ("held out", to), "translated": (m, to)}
        joint = torch.cat([described[key][:shown] for key in sets.values()])
        joint = tsne(joint, perplexity=options.perplexity, seed=seed).reshape(3, shown, 2)
        points[m, to] = panels[f"{name} → {target}, {m}"] = dict(zip(sets, joint, strict=True))
x.figure(plots.embedding(panels), "tsne")
print(f"{shown} pictures of each group, perplexity {options.perplexity:g}, seed {seed}")

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
    for m in methods:
        told, ceiling, real = (accuracy[k, to].value for k in (m, "inverted", "real"))
        print(
            f"{name} → {target}, {m}\n"
            f"  of the target among the nearest neighbours: {share[m, to]:.0%} "
            f"(untouched {share['untouched', to]:.0%}, other {target}s {share['real', to]:.0%})\n"
            f"  told from {target}s by a classifier: {told:.0%} "
            f"(inverted {target}s {ceiling:.0%}, {target}s of the training set {real:.0%}, guessing 50% ± {accuracy[m, to].error:.0%})"
        )
    if len(methods) > 1:
        print(f"  closest to the target, by its neighbours: {max(methods, key=lambda m: share[m, to])}")
x.finish()

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
# # 03 · Translating the deepest level
#
# **Claim (§3, "Deepest layer translation").** Two translators between the conv_5_1 maps of both domains, trained as in CycleGAN
# {cite}`zhu2017` but with WGAN-GP {cite}`gulrajani2017`, learn to change the shape: equations (1) to (4).
#
# **Here.** Both translators of level 5, and what their maps look like when they are inverted straight from that level.
#
# Time of the translators, where they are not trained yet: `smoke` seconds; `demo` 2 to 5 minutes of a CPU core; `photos` half an hour of one, or half a minute of an H100; `photos-gpu`
# 5 minutes of an H200 beside other trainings; `paper` less than 40 minutes of an H200 (steps measured with wider networks).

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

x = Experiment("03_deepest_translation", profile, pair, seed, changes)
a, b = x.settings.pair
method = x.method

# %% [markdown]
# The training loop, in the order of the paper's equations:
#
# ```{literalinclude} ../../../cdtlib/training/translation.py
# :pyobject: train_translators
# :language: python
# ```

#
# Below, its curves: `critic`, what the critics minimise (eq. 1 without the penalty: translated less real scores), and `penalty`, that of their gradients, both summed over the two domains; `adversarial`, eq. (1) as
# the translators see it; `cycle` and `identity`, eqs. (2) and (3), each the sum of both directions.

# %%
method.translators(5)
training = method.runs[-1]
x.figure(plots.curves(training.curve(), title="level 5"), "curves")

# %% [markdown]
# ## Translated at level 5, inverted from level 5
#
# Held-out pictures, the first ten, not chosen. "Inverted" is the ceiling: the picture's own level-5 map, inverted.

# %%
cascade = method.cascade(5)
for side, name, to, target in (("a", a, "b", b), ("b", b, "a", a)):
    test = method.store(side, "test")
    maps = test.level(5, slice(0, 10), method.device)
    rows = {
        name: test.images(slice(0, 10)),
        "inverted": cascade.invert(maps, 5, side),
        f"as {target}": cascade.invert(cascade.translate_maps({5: maps}, to)[5], 5, to),
    }
    x.figure(plots.grid(rows), f"{name}-to-{target}")

# %% [markdown]
# ## What the losses reached on held-out maps
#
# Cycle and identity as mean absolute differences (eqs. 2 and 3), on a scale from -1 to 1. Beside them, the difference between a map and
# its translation: how much the translators change at all.

# %%
with torch.no_grad():
    for side, other, name in (("a", "b", a), ("b", "a", b)):
        maps = method.store(side, "test").level(5, slice(None), method.device)
        there = cascade.translators[5][other](maps)
        back = cascade.translators[5][side](there)
        same = cascade.translators[5][side](maps)
        n = len(maps)
        x.metric(f"cycle error, {name}, level 5", (back - maps).abs().mean(), n=n, better="lower", source="eq. (2)")
        x.metric(f"identity error, {name}, level 5", (same - maps).abs().mean(), n=n, better="lower", source="eq. (3)")
        x.metric(f"change by translation, {name}, level 5", (there - maps).abs().mean(), n=n)

# %% [markdown]
# ## Found

# %%
noted = {metric["name"]: metric["value"] for metric in x.metrics}
for name in (a, b):
    change, cycle, identity = (noted[f"{what}, {name}, level 5"] for what in ("change by translation", "cycle error", "identity error"))
    print(f"{name}: a translation changes a value by {change:.3f}, there and back by {cycle:.3f}; into its own domain by {identity:.3f}.")

# %% tags=["scroll-output"]
x.finish()

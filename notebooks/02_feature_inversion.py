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
# # 02 · Feature inversion
#
# **Claim (§3, "Feature inversion"; §4).** A network can turn the feature maps of a level back into a picture, regularised by an
# adversarial loss {cite}`dosovitskiy2016`; from conv_3_1 "with negligible degradation".
#
# **Here.** One inverter per domain and level, on held-out pictures. This is the ceiling of every translation: no translated map can look
# better than an inverted real one.
#
# Time, where nothing is trained yet: `smoke` seconds; `demo` 10 to 20 minutes of a CPU core; `photos` half an hour of one; `photos-gpu` 8 minutes of an H200 beside other trainings; `paper`
# less than an hour of an H200 for level 3's (steps measured with wider networks).

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

from cdtlib import plots
from cdtlib.experiment import Experiment
from cdtlib.metrics import semantics

x = Experiment("02_feature_inversion", profile, pair, seed, changes)
method = x.method
levels = sorted(x.settings.levels)

# %% [markdown]
# ```{literalinclude} ../../../cdtlib/training/inversion.py
# :pyobject: train_inverter
# :language: python
# ```

# %%
inverters = {(side, i): method.inverter(side, i) for side in "ab" for i in reversed(levels)}

# %% [markdown]
# ## Held-out pictures, inverted from each level
#
# Top row: the picture. Below: the picture made from its normalised, clamped maps of one level alone.

# %%
inverted = {}
for side, name in zip("ab", x.settings.pair, strict=True):
    test = method.store(side, "test")
    rows = {name: test.images(slice(0, 10))}
    for i in levels:
        with torch.no_grad():
            maps = test.level(i, slice(None), method.device)
            inverted[side, i] = torch.cat([inverters[side, i](part) for part in maps.split(64)]).cpu()
        rows[f"from level {i}"] = inverted[side, i][:10]
    x.figure(plots.grid(rows), f"inverted-{name}")

# %% [markdown]
# ## How much is lost
#
# Mean absolute difference to the picture, on a scale where 1 is the whole range from black to white.

# %%
for side, name in zip("ab", x.settings.pair, strict=True):
    images = method.store(side, "test").images()
    mean = images.mean(0, keepdim=True)
    for i in levels:
        error = (inverted[side, i] - images).abs().mean() / 2
        x.metric(
            f"inversion error, {name}, level {i}", error, n=len(images), unit="share of the range", better="lower",
            upper=0.0, lower=float((mean - images).abs().mean() / 2),
        )  # fmt: skip
        print(f"{name}, level {i}: {error:.4f}")

# %% [markdown]
# ## What is left to be recognised
#
# On the drawn zoo, the probes of the notebook on semantics read the inverted pictures: the share in which they see the right animal, the right
# number and the right facing. A translation cannot be expected to do better.

# %%
probes = x.probes()
if probes:
    rows = []
    for side, name in zip("ab", x.settings.pair, strict=True):
        _, truths = semantics.labelled(method.domains[side]["test"])
        for i in levels:
            read = semantics.compare(truths, truths, probes.read(inverted[side, i]), probes.species.index(name))
            right = {
                "animal": read["recognised as the target species"].mean(),
                "number": read["number of animals kept"].mean(),
                "facing": read["facing kept"].mean(),
            }
            rows.append({"domain": name, "level": i, **right})
            for what, value in right.items():
                x.metric(
                    f"{what} read from inverted pictures, {name}, level {i}",
                    value,
                    n=len(truths),
                    unit="share",
                    better="higher",
                )
    display(pd.DataFrame(rows).round(3))

# %% [markdown]
# ## How it was learned

# %%
for run in method.runs:
    x.figure(plots.curves(run.curve(), title=run.name), f"curve-{run.name}")

# %% [markdown]
# ## Found

# %%
noted = {metric["name"]: metric for metric in x.metrics}
for name in x.settings.pair:
    errors = [noted[f"inversion error, {name}, level {i}"] for i in levels]
    told = ", ".join(f"level {i} by {error['value']:.1%}" for i, error in zip(levels, errors, strict=True))
    print(f"{name}: inverted from {told} of the range the pictures are off (the mean picture by {errors[0]['lower']:.1%}).")

# %% tags=["scroll-output"]
x.finish()

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
# # 05 · Which loss does what
#
# **Claims.** The deepest level is translated best with all three losses, "which balance each other" (§4.1, Fig. 6). And least squares (LSGAN {cite}`mao2017`) are "not [...] well-suited for our task, leading to
# mode collapse or convergence failures" (§3), so that WGAN-GP takes their place.
#
# **Here.** Level 5 trained five times with the same settings, data and number of updates: with all losses, without the cycle loss (eq. 2), without
# the identity loss (eq. 3), without the adversarial loss (eq. 1), and with LSGAN in place of WGAN-GP in eq. (1), all weights the same. Everything is inverted straight from level 5, as in the paper's figure, so the
# pictures are blurred; what counts is which animal they show, and where. Each training has first weights and batches of its own, so small differences are chance: the summary has them with several seeds.
# In `demo` and `photos` a translator adds a part of its input to its output (deviations, "skip"), so it stays near the identity even without the identity loss, which may count for less here than in the paper.
#
# Time of the further trainings: `smoke` seconds; `demo` 12 to 20 minutes of a CPU core; `photos` two minutes of an H100; `paper` less than two and a half hours of an H200 (steps measured with wider networks).

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

x = Experiment("05_loss_ablation", profile, pair, seed, changes)
plots.style(photos=True)  # so many pictures stand here as JPEG; the saved figures are what they are elsewhere
method = x.method
variants = {
    "all losses": {},
    "without cycle": {"lambda_cycle": 0.0},
    "without identity": {"lambda_identity": 0.0},
    "without adversarial": {"adversarial": 0.0},
    "LSGAN": {"gan": "lsgan"},
}
cascades = {label: method.alone(5, **changes) for label, changes in variants.items()}

# %% [markdown]
# ## The same pictures, with each combination of losses
#
# Held-out pictures, the first ten, not chosen; same input in the same column. Look at three things: is it the other animal (the
# adversarial loss asks for it), is it where and as many as in the source (cycle and identity ask for that), and do the pictures of a row differ from each other as the
# sources do.

# %%
made = {}
for side, to in ("ab", "ba"):
    images = method.store(side, "test").images()
    made |= {(label, to): cascade.translate(images, to) for label, cascade in cascades.items()}
    rows = {method.name(side): images[:10]} | {label: made[label, to][:10] for label in variants}
    x.figure(plots.grid(rows), f"{method.name(side)}-to-{method.name(to)}")

# %% [markdown]
# ## In numbers
#
# Distances to the target's held-out pictures, on the backbone's features; the semantics on the drawn zoo, as the probes read them; and diversity, the mean
# distance between two translations in units of that between two real pictures of the target, which a collapse brings to 0. The baseline is the untouched
# source (for what is to be kept: an unrelated picture of the target), the ideal the target's own training pictures (for semantics: the perfect translation).
# "Real, inverted": pictures of the target made from their own maps of level 5. Much of a distance is the inverter's.

# %%
shown = ["fréchet_backbone", "kernel_backbone", "recall", "diversity", "recognised as the target species", "number of animals kept",
         "facing kept", "place: overlap of the columns taken up", "species, silhouette, number and facing all right"]  # fmt: skip
tables = {}
for to in "ba":
    for label in variants:
        x.distances(made[label, to], to, label)
        x.semantics(made[label, to], to, label)
    x.distances(x.inverted(to, 5), to, "real, inverted")
    tables[to] = x.compared(shown, [*variants, "real, inverted"], to)
    display(tables[to].T.round(3))

# %% [markdown]
# ## What each combination did to the losses it was not given
#
# Cycle and identity error on held-out maps (eqs. 2 and 3), mean absolute differences on a scale from -1 to 1, and how much a translation changes the map
# at all. An error that is small because nothing was changed is no achievement.

# %%
errors = {}
for side, other in ("ab", "ba"):
    maps = method.store(side, "test").level(5, slice(None), method.device)
    for label, cascade in cascades.items():
        with torch.no_grad():
            there, same = (cascade.translators[5][s](maps) for s in (other, side))
            back = cascade.translators[5][side](there)
        found = {"cycle error": back - maps, "identity error": same - maps, "change by translation": there - maps}
        errors[method.name(side), label] = {name: float(value.abs().mean()) for name, value in found.items()}
        for name, value in errors[method.name(side), label].items():
            x.metric(f"{name}, {label}, {method.name(side)}", value, n=len(maps), better=None if "change" in name else "lower")
display(pd.DataFrame(errors).T.round(3))

# %% [markdown]
# ## Does clamping do harm?
#
# Normalised maps are clamped to [-1, 1], at one standard deviation of a channel. "While the clamping is a potentially harmful irreversible operation, we did not observe any adverse effect on
# the results" (§3). So level 5 and its inverters are trained once more, with all losses, on maps that are clamped at three standard deviations, which become 1: hardly a value is cut off there. Only on the
# drawn zoo, where it can be told which translations are right. "Inverted": held-out pictures, made from their own maps.

# %%
if x.probes():
    wide, wider = "clamped at 3 deviations", method.clamped_at(3.0)
    # 1.5 · x adds up to nearly the identity, after the tanh, of values that reach from -1 to 1; of these it is x itself
    changes = {"skip": 1.0} if x.settings.translation[5].skip else {}
    cascades |= {wide: wider.alone(5, **changes)}
    clamped, errors = {}, {}
    for side, to in ("ab", "ba"):
        images, kept = method.store(side, "test").images(), {}
        made[wide, to] = cascades[wide].translate(images, to)
        x.distances(made[wide, to], to, wide)
        x.semantics(made[wide, to], to, wide)
        for label, own in {"all losses": method, wide: wider}.items():
            with torch.no_grad():
                maps = own.store(side, "test").level(5, device=own.device)
                kept[label] = torch.cat([own.inverter(side, 5)(part) for part in maps.split(64)]).cpu()
            errors[label, side] = float((kept[label] - images).abs().mean()) / 2
            held = float((maps.abs() == 1).float().mean())
            about = {"n": len(images), "unit": "share"}
            x.metric(f"share of clamped values, {label}, {method.name(side)}", held, **about)
            x.metric(f"inversion error, {label}, {method.name(side)}", errors[label, side], better="lower", **about)
            clamped[method.name(side), label] = {"share of clamped values": held, "inversion error": errors[label, side]}
        rows = {method.name(side): images[:10]}
        for label, text in {"all losses": "at 1", wide: "at 3"}.items():
            rows |= {f"inverted, clamped {text}": kept[label][:10], f"as {method.name(to)}, clamped {text}": made[label, to][:10]}
        x.figure(plots.grid(rows), f"clamped-{method.name(side)}-to-{method.name(to)}")
    display(pd.DataFrame(clamped).T.round(4))
    for to in "ba":
        display(x.compared(shown, ["all losses", wide], to).T.round(3))

# %% [markdown]
# ## Found

# %%
for to, table in tables.items():
    print(f"{x.direction(to)}: nearest to the target is the training {table.loc[list(variants), 'fréchet_backbone'].idxmin().replace('all', 'with all')}.")
    way = table.loc["ideal"] - table.loc["baseline"]
    for label in list(variants)[1:]:
        worse = (table.loc["all losses"] - table.loc[label]) / way > 0.1  # by a tenth of the way between the references
        changes = [f"{name} {table.loc['all losses', name]:.3g} → {table.loc[label, name]:.3g}" for name in table.columns[worse]]
        print(f"  {label}, worse: {'; '.join(changes) or 'nothing'}")

# %% tags=["scroll-output"]
x.finish()

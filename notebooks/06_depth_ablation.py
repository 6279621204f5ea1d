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
# # 06 · How deep to translate
#
# **Claim (§4.1, Fig. 7, Table 1).** "Shallower layers introduce more rigid spatial constraints, restricting the ability of shapes to be changed"; the cascade
# translates better than any level alone. And "in practice we only train $G^5$, $G^4$, $G^3$, and apply feature inversion directly on the output of the latter, with negligible degradation" (§4).
#
# **Here.** Translators of each level, trained alone, without a deeper level to go by, and inverted from that level, beside the cascade. A level alone uses
# level 5's kind of translator, with further strided convolutions down to the same coarsest side, and gets as many updates by all losses as the level has in the cascade, or more.
# The cascade has advantages besides: only level 3's inverter was trained on noisy maps (in `demo` also for longer than levels 4 and 5's), as it is the cascade's end; and in `demo` its levels 4 and 3
# first learn by the identity loss alone, with larger steps, while each level alone has level 5's settings. Levels 2 and 1 alone get as many updates as level 4.
#
# On the drawn zoo the cascade also goes on to level 2, trained as level 3 is, with narrower networks and an inverter of far fewer steps, and without noise on its maps. It takes two minutes more in all than the cascade that ends at
# level 3, whose inverters need most of that. Would the cascade gain as much from more training alone? `cdt run 04 --set translation.3.epochs=10.4` trains its level 3 for about as long as levels 3 and 2 together are trained here.
#
# Time: `smoke` seconds; `demo` 30 to 55 minutes of a CPU core; `photos` (levels 4 and 3) two minutes of an H100; `paper` not measured.

# %% tags=["parameters"]
profile = "demo"
pair = ["zebra", "giraffe"]
seed = 0
# Changes of settings, such as "translation.5.epochs=20"
changes = []

# %%
from IPython.display import display

from cdtlib import plots, published
from cdtlib.experiment import Experiment

x = Experiment("06_depth_ablation", profile, pair, seed, changes)
plots.style(photos=True)  # so many pictures stand here as JPEG; the saved figures are what they are elsewhere
method = x.method
depths = [5, *sorted(x.settings.alone, reverse=True)]
cascades = {f"Layer {i}": method.alone(i) for i in depths} | {"Cascaded (ours)": method.cascade()}
cascades |= {f"cascaded to level {i}": method.cascade(i) for i in x.settings.further}

# %% [markdown]
# ## The same pictures, translated at each level alone
#
# Held-out pictures, the first ten, not chosen; same input in the same column (Fig. 7). From the deepest level (blurred, another shape) up to the shallowest one
# (sharp, in the paper the source's shape), and the cascade, which is to have both. Compare outlines: does the neck grow, do the legs?

# %%
made = {}
for side, to in ("ab", "ba"):
    images = method.store(side, "test").images()
    made |= {(label, to): cascade.translate(images, to) for label, cascade in cascades.items()}
    rows = {method.name(side): images[:10]} | {label: made[label, to][:10] for label in cascades}
    x.figure(plots.grid(rows), f"{method.name(side)}-to-{method.name(to)}")

# %% [markdown]
# ## In numbers
#
# Distances to the target's held-out pictures on the backbone's features (not FID); and, on the drawn zoo, whether the *silhouette alone* is read as the target's, which a repaint of the
# source's outline does not reach. "Real, inverted": pictures of the target made from their own maps, the nearest that a level can be expected to come; the cascade ends at level 3.

# %%
shown = ["FID", "fréchet_backbone", "kernel_backbone", "recognised as the target species", "silhouette alone recognised as the target species",
         "number of animals kept", "facing kept", "species, silhouette, number and facing all right"]  # fmt: skip
tables = {}
for to in "ba":
    for label in cascades:
        x.distances(made[label, to], to, label, cell=(1, label) if label in published.TABLE_1["cat", "dog"] else None)
        x.semantics(made[label, to], to, label)
    floors = {f"real, inverted from level {i}": x.inverted(to, i) for i in depths}
    for label, pictures in floors.items():
        x.distances(pictures, to, label)
    tables[to] = x.compared(shown, [*cascades, *floors], to)
    display(tables[to].round(3))

# %% [markdown]
# ## Table 1's form
#
# Both directions in a cell, → / ←. The paper's row is FID on photos; ours too, where FID could be measured, else another scale: then compare the
# order of the columns, not the numbers.

# %%
distance = "FID" if "FID" in tables["b"] else "fréchet_backbone"
display(published.beside(1, x.settings.pair, distance, {to: tables[to].loc[list(cascades), distance].to_dict() for to in "ba"}))

# %% [markdown]
# ## Found

# %%
for to, table in tables.items():
    values = table.loc[list(cascades)]
    best = values["fréchet_backbone"].idxmin()
    print(f"{x.direction(to)}: nearest to the target is {best} ({values.loc[best, 'fréchet_backbone']:.3g}).")
    name = "silhouette alone recognised as the target species"
    if name in values:
        print("  the silhouette is the target's: " + ", ".join(f"{label} {v:.1%}" for label, v in values[name].items()))

# %% tags=["scroll-output"]
x.finish()

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
# # 12 · Summary: the paper beside ours
#
# Each claim of the paper that the notebooks test, one row: what was measured, and whether it holds in this profile. Everything here is read
# from `results/<profile>/metrics/`; nothing is computed anew. A claim that does not hold is reported as such.
#
# Where notebooks were run with several seeds, every method was trained anew with each and, on the drawn zoo, on other pictures; the backbones and the probes that
# read pictures are the same for all. On the drawn zoo "VGG-19" and "AlexNet" are networks of a quarter of the width, trained on other drawn animals and not on ImageNet, and so is what is said of them.
#
# A number is the mean ± the standard deviation of these runs, and a claim holds if it does with each of them.

# %% tags=["parameters"]
profile = "demo"

# %%
from IPython.display import display

from cdtlib import summary
from cdtlib.experiment import show_whole_tables

metrics = summary.read(profile)
show_whole_tables()
seeds = ", ".join(map(str, sorted(metrics["seed"].unique())))
print(f"profile {profile}: {len(metrics)} numbers of {metrics['notebook'].nunique()} notebooks, seeds: {seeds}")

# %% [markdown]
# ## Claims
#
# The paper shows more than it counts, so the rules are ours; each stands in the last column. A verdict that rests on shares allows for chance, two standard errors, where the rule says so.
#
# Of photos too few are held out for a Fréchet distance; claims are judged by the kernel distance there, and not at all where it was not measured. Silhouettes and facing are read on the drawn zoo only; species, number and place on photos by a detector, if its weights were at hand.
#
# Nothing here tests that ending the cascade at level 3 loses little against going on to level 1 (§4; notebook 06 goes on to level 2 in `demo`, and shows what real maps lose when they are inverted from either), that hidden
# animals stay hidden (§4), that small instances or parts may be lost, and that small errors of deep maps may become large ones of the picture (§4.2).

# %%
claims = summary.claims(metrics).set_index("claim")
print(f"{len(claims)} claims: " + "; ".join(f"{verdict} {n}" for verdict, n in claims["holds"].value_counts().items()))
display(claims[["where", "holds"]])

# %% [markdown]
# ## What the verdicts rest on

# %% tags=["full-width"]
display(claims)

# %% [markdown]
# ## Distances
#
# The paper's numbers are FID on photos. Those of an offline profile are Fréchet and kernel distances on the embedded backbone's
# features: another scale, not comparable, hence in columns of their own. The baseline is the source as it is, the ideal the target's own
# training pictures.

# %%
display(summary.distances(metrics))

# %% [markdown]
# ## Tables 1, 2 and 3
#
# Each level alone and the cascade (Table 1), all methods of translation (Table 2), all generators (Table 3). In Tables 1 and 2 a cell has both directions, → / ←. Below each row of
# ours the paper's, which is FID on photos.

# %%
for number in (1, 2, 3):
    display(summary.table(number, metrics))

# %% [markdown]
# ## Nothing is trained twice
#
# Every training behind these numbers (of several seeds, the first one's): its time, and the notebooks that use it. The first of them that is executed trains it, the others find it.

# %%
trained = summary.trainings(profile)
uses = trained["used in"].str.split(", ").str.len()
print(
    f"{len(trained)} trainings, {trained['seconds'].sum() / 60:.0f} minutes; had each notebook trained its own: "
    f"{(trained['seconds'] * uses).sum() / 60:.0f} minutes"
)
display(trained)

# %% [markdown]
# ## Every number

# %% tags=["hide-output"]
display(summary.every(metrics))

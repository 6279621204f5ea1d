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
# # 07 · Other backbones
#
# **Claim (§4.1, "Type of pre-trained network"; Fig. 8).** VGG-19 {cite}`simonyan2015` fine-tuned to tell the two domains apart "does not improve the
# translation results", perhaps because it fixates "on the unique differences between the zebra and giraffe images, unrelated to the
# translation, such as background"; and translation between the features of AlexNet {cite}`krizhevsky2012`, whose first convolution has stride 4,
# "fails to produce reasonable results", as they "have less spatial encoding, especially at the deeper layers".
#
# **Here.** The method on three backbones: VGG-19 as it is (the runs of the notebooks before), VGG-19 fine-tuned, and AlexNet, the other two with inverters and
# translators of their own, under the same settings. Beyond the paper: what the backbones look at, as maps and, on the drawn zoo, as numbers.
#
# Time, beyond the notebooks before: `smoke` a minute; `demo` 8 to 20 minutes of a CPU core; `photos` (level 5) an hour of one; `paper` twice the time of the whole cascade.

# %% tags=["parameters"]
profile = "demo"
pair = ["zebra", "giraffe"]
seed = 0
# Changes of settings, such as "translation.5.epochs=20"
changes = []

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from sklearn.metrics import confusion_matrix

from cdtlib import plots
from cdtlib.experiment import Experiment
from cdtlib.features.backbones import BACKBONES, map_shape
from cdtlib.metrics import attention, semantics
from cdtlib.training.classification import fit_head

x = Experiment("07_backbones", profile, pair, seed, changes)
plots.style(photos=True)  # so many pictures stand here as JPEG; the saved figures are what they are elsewhere
a, b = x.settings.pair
directions = (("a", "b", a, b), ("b", "a", b, a))
levels = tuple(i for i in x.settings.levels if i >= x.settings.backbones.shallowest)
shown = sorted({5, min(levels)}, reverse=True)  # inverted: the deepest level, as Fig. 8 shows it, and the result
alexnet = BACKBONES[x.settings.backbones.alexnet]()  # before anything long starts: its weights may be missing
probes = x.probes()

# %% [markdown]
# ## How large their maps are
#
# Cells across, by level. If AlexNet's last levels are as wide as VGG-19's level 5, its features are less spatial at the shallower levels,
# not at the deepest.

# %%
size = x.settings.data.size
sides = {
    n: {i: map_shape(k, i, size)[1] for i in range(1, 6)}
    for n, k in (("VGG-19", x.method.backbone), ("AlexNet", alexnet))
}
pd.DataFrame(sides).T.rename(columns=lambda i: f"level {i}")

# %% [markdown]
# ## Fine-tuning
#
# All of the backbone, and a linear layer on the mean of level 5, learn to tell the training pictures of both domains apart.
#
# ```{literalinclude} ../../../cdtlib/training/classification.py
# :pyobject: fine_tune
# :language: python
# ```

# %%
tuned = x.method.classifier()
x.figure(plots.curves(x.method.runs[-1].curve(), title="fine-tuning"), "fine-tuning")
methods = {
    "VGG-19": x.method,
    "fine-tuned": x.method.with_backbone(tuned.backbone, levels),
    "AlexNet": x.method.with_backbone(alexnet, levels),
}

# %% [markdown]
# Told apart on held-out pictures: by the fine-tuned network, and by the same linear layer on the two backbones as they are.

# %%
stores = [x.method.store(side) for side in "ab"]
classifiers = {
    "VGG-19": fit_head(x.method.backbone, *stores, x.method.device),
    "fine-tuned": tuned,
    "AlexNet": fit_head(methods["AlexNet"].backbone, *stores, x.method.device),
}
test = {side: x.method.store(side, "test").images() for side in "ab"}
truth = [0] * len(test["a"]) + [1] * len(test["b"])
for name, classifier in classifiers.items():
    taken = torch.cat([classifier.logits(test[side]) for side in "ab"]) > 0
    matrix = confusion_matrix(truth, taken.int())
    accuracy = matrix.trace() / len(truth)
    x.metric(
        f"{a} and {b} told apart, {name}", accuracy, n=len(truth), unit="share", better="higher", lower=0.5, upper=1.0
    )
    print(f"{name}: {accuracy:.1%}")
    if name == "fine-tuned":
        x.figure(plots.confusion(matrix, (a, b), title=f"{name}: {accuracy:.1%}"), "confusion")

# %% [markdown]
# How much fine-tuning changed the features: the correlation of the normalised maps of level 5 before and after, on held-out pictures.

# %%
for side, name in zip("ab", (a, b), strict=True):
    before, after = (methods[k].store(side, "test").level(5).flatten() for k in ("VGG-19", "fine-tuned"))
    kept = torch.corrcoef(torch.stack([before, after]))[0, 1]
    x.metric(f"level 5 before and after fine-tuning, {name}", kept, n=len(test[side]), unit="correlation")
    print(f"{name}: correlation {kept:.2f}")

# %% [markdown]
# ## The three methods
#
# Translators and inverters of every backbone; those of VGG-19 are found where the notebooks before have left them.

# %%
cascades = {name: m.cascade(min(levels), inverters=shown) for name, m in methods.items()}

# %% [markdown]
# ## Inverted and translated
#
# Held-out pictures, the first ten, not chosen; same input in the same column. First each backbone's inversions of the picture's own maps, the ceiling of its
# translations; then the translations.

# %%
inverted, translated = {}, {}
for side, to, name, target in directions:
    for k, m in methods.items():
        for i in shown:
            maps = m.store(side, "test").level(i, slice(None), m.device)
            inverted[k, side, i] = torch.cat([cascades[k].invert(part, i, side).cpu() for part in maps.split(64)])
            translated[k, to, i] = cascades[k].translate(test[side], to, level=i)
    for i in shown:
        rows = {name: test[side][:10]}
        rows |= {f"{k},\ninverted": inverted[k, side, i][:10] for k in methods}
        rows |= {f"{k},\nas {target}": translated[k, to, i][:10] for k in methods}
        x.figure(plots.grid(rows), f"{name}-to-{target}-level{i}")

# %% [markdown]
# ## Numbers
#
# All from the last level above. Inversion error: mean absolute difference, 1 is black to white. Distance to the target: as in the notebook on the cascade,
# for all three measured on the features of the untouched VGG-19, so that they can be compared, though in the space of one of them. On the drawn zoo, what the probes read from the translations.

# %%
final, errors, read, tables = min(levels), {}, {}, {}
for side, to, name, _ in directions:
    mean = (test[side].mean(0, keepdim=True) - test[side]).abs().mean() / 2
    for k in methods:
        errors[k, side] = float((inverted[k, side, final] - test[side]).abs().mean() / 2)
        x.metric(
            f"inversion error, {k}, {name}", errors[k, side], n=len(test[side]), unit="share of the range", better="lower",
            lower=float(mean), upper=0.0,
        )  # fmt: skip
        x.distances(translated[k, to, final], to, k)
        read[k, to] = {m.name: m for m in x.semantics(translated[k, to, final], to, k)}
    found = [n for n, m in read["VGG-19", to].items() if m.unit == "share"]
    tables[to] = x.compared(["FID", "fréchet_backbone", "kernel_backbone", "diversity", *found], list(methods), to)
    display(tables[to].T.round(3))

# %% [markdown]
# ## What the backbones look at
#
# Bright is what speaks for the picture's own domain. Class-activation maps {cite}`zhou2016` show which cells of level 5 the decision between the domains rests on; occlusion
# {cite}`zeiler2014` shows where the decision suffers when a patch is covered. Each map is drawn by its own largest value. Between two domains, to lack what marks the one
# speaks for the other: a map can be bright all over, and rightly so.

# %%
patch, few = size // 6, 20 if probes else 10  # few, as occlusion takes a pass for each place of the patch
seen = {}
for side, name in zip("ab", (a, b), strict=True):
    for k, classifier in classifiers.items():
        seen[k, side, "activation"] = attention.activation_maps(classifier, test[side], side)
        seen[k, side, "occlusion"] = attention.occlusion_maps(classifier, test[side][:few], side, patch, patch // 2)
    rows = {name: test[side][:10]}
    rows |= {
        f"{k},\n{how}": plots.heat(test[side][:10], seen[k, side, how][:10])
        for how in ("activation", "occlusion")
        for k in classifiers
    }
    x.figure(plots.grid(rows), f"attention-{name}")

# %% [markdown]
# On the drawn zoo it is known where the animals are: the share of what is bright that lies on them, beside the share of the picture that they cover, which a map
# that is the same everywhere would have. One thing it cannot show: its backgrounds are drawn without knowing the animal, so they do not differ between the domains as those of photos
# may, and nothing in them is worth fixating on.

# %%
rows = []
if probes:
    for side, name in zip("ab", (a, b), strict=True):
        _, truths = semantics.labelled(x.method.domains[side]["test"])
        animals = np.stack([truth.mask > 0 for truth in truths])
        for how in ("activation", "occlusion"):
            n = len(seen["VGG-19", side, how])
            covered = float(animals[:n].mean())
            for k in classifiers:
                shares = attention.share_on(seen[k, side, how], animals[:n])
                shares = shares[~np.isnan(shares)]
                if not len(shares):
                    continue  # nothing is bright in any of them
                on = float(shares.mean())
                x.metric(
                    f"{how} on the animals, {k}, {name}", on, n=len(shares), unit="share", lower=covered, upper=1.0
                )
                row = {"domain": name, "map": how, "backbone": k}
                rows.append(row | {"on the animals": on, "covered by them": covered})
    display(pd.DataFrame(rows).round(3))
else:
    print("Photos come without masks: here the maps can only be looked at.")

# %% [markdown]
# ## Found
#
# On the zoo a translation counts as right if species, silhouette, number and facing all are, and one backbone as better than another if its share of right ones is larger by more than twice the
# standard error of the difference. On photos, where so few pictures bias a Fréchet distance, it is the kernel distance, if it is smaller by more than a tenth.


# %%
def better(k, other, to):
    """Whether `k` translates to domain `to` better than `other`, and the numbers of both."""
    if not probes:
        one, two = (tables[to].loc[label, "kernel_backbone"] for label in (k, other))
        return one < 0.9 * two, f"kernel distance {one:.4g} against {two:.4g}"
    one, two = (read[name, to]["species, silhouette, number and facing all right"] for name in (k, other))
    return semantics.clearly_more(one, two), f"{one.value:.1%} right against {two.value:.1%}"


for k in ("fine-tuned", "AlexNet"):
    for _, to, name, target in directions:
        (gains, how), (loses, _) = better(k, "VGG-19", to), better("VGG-19", k, to)
        verdict = "better than" if gains else "worse than" if loses else "not told from"
        print(f"{name} → {target}: {k} is {verdict} VGG-19 as it is ({how}).")
for side, to, name, target in directions:
    told = {"inversion error of " + name: {k: f"{errors[k, side]:.3f}" for k in methods}}
    if probes:
        shapes = {k: read[k, to]["silhouette alone recognised as the target species"].value for k in methods}
        told[f"valid shapes, {name} → {target}"] = {k: f"{v:.1%}" for k, v in shapes.items()}
        for how in ("activation", "occlusion"):
            own = {r["backbone"]: f"{r['on the animals']:.0%}" for r in rows if (r["domain"], r["map"]) == (name, how)}
            told[f"{how} on the animals, {name}"] = own
    for what, values in told.items():
        print(f"{what}: " + ", ".join(f"{k} {v}" for k, v in values.items()) + ".")

# %% tags=["scroll-output"]
x.finish()

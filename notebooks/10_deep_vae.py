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
# # 10 · DEEP-VAE: pictures without a source
#
# **Claim (§4.3, Table 3, Figs. 11 and 12).** A variational auto-encoder {cite}`kingma2014` of the conv_5_1 maps of one class, with shallower levels
# synthesised in a cascade, generates pictures that are not blurry, show the animal "in almost all of the generated images", and
# interpolate "without ghosting artifacts"; DFC-VAE {cite}`hou2017` "fails to produce clear and sharp images", and many results of VQ-VAE-2 {cite}`razavi2019` "do not contain the main semantic
# attribute".
#
# **Here.** The three, each trained on each class of the pair: samples, reconstructions, interpolations, distances to the class, and whether the samples are copies of
# training pictures.
# Ours uses averaged weights (a moving average over the last steps), VQ-VAE-2 and DFC-VAE do not. Nor is it a contest at equal cost: the minutes of each training stand at its curve, near the end.
# DEEP-VAE has the most of them, DFC-VAE the fewest, and in `demo` the error of VQ-VAE-2's auto-encoder still falls when its training ends.
#
# Time of the trainings: `smoke` a minute; `demo` 25 minutes of a CPU core; `photos-gpu` two hours of one, beside the inverters' of notebook 02; `paper` not measured.

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
from sklearn.metrics import pairwise_distances_argmin_min
from torch.nn.functional import interpolate

from cdtlib import interactive, plots
from cdtlib.cascade import OTHER
from cdtlib.deepvae import DeepVAE
from cdtlib.experiment import Experiment
from cdtlib.features.backbones import BACKBONES
from cdtlib.metrics.distances import backbone_distances
from cdtlib.training.probes import blur

x = Experiment("10_deep_vae", profile, pair, seed, changes)
plots.style(photos=True)  # so many pictures keep the notebook below 2 MB only as JPEG
method = x.method
names = dict(zip("ab", x.settings.pair, strict=True))
last = min(x.settings.levels)
second = BACKBONES[x.settings.backbones.alexnet]().to(method.device)  # before anything long starts: its weights may be missing

# %% [markdown]
# ```{literalinclude} ../../../cdtlib/training/generation.py
# :pyobject: train_vae
# :language: python
# ```
#
# Each shallower level has a generator, trained on what the deeper ones synthesise and not on real maps:
#
# ```{literalinclude} ../../../cdtlib/training/generation.py
# :pyobject: train_generator
# :language: python
# ```

# %%
models = {("DEEP-VAE", side): DeepVAE(method, side) for side in "ab"} | x.generators  # Table 3
for model in models.values():
    model.fit()

# %% [markdown]
# ## Samples (Fig. 11)
#
# The first twenty samples of each class, not chosen, below ten pictures of the class. Is each of them an animal of the class, and is it sharp?

# %%
held_out = {side: method.store(side, "test").images() for side in "ab"}
count = {side: len(images) for side, images in held_out.items()}
samples = {key: model.sample(count[key[1]], seed) for key, model in models.items()}
for side, name in names.items():
    shown = min(10, count[side] // 2)
    rows = {f"real {name}": held_out[side][:shown]}
    for key, made in samples.items():
        if key[1] == side:
            rows |= {key[0]: made[:shown], key[0] + " ": made[shown : 2 * shown]}
    x.figure(plots.grid(rows), f"samples-{name}")

# %% [markdown]
# ## Reconstructions
#
# Held-out pictures, the first ten, encoded and decoded. "Inverted" is the ceiling: the picture's own level-3 map, inverted.

# %%
reconstructed = {key: model.reconstruct(held_out[key[1]]) for key, model in models.items()}
inverted = {}
for side, name in names.items():
    maps = method.store(side, "test").level(last, slice(None), method.device)
    with torch.no_grad():
        inverted[side] = torch.cat([method.inverter(side, last)(part).cpu() for part in maps.split(64)])
    rows = {name: held_out[side][:10], "inverted": inverted[side][:10]}
    rows |= {key[0]: made[:10] for key, made in reconstructed.items() if key[1] == side}
    x.figure(plots.grid(rows), f"reconstructions-{name}")

# %% [markdown]
# ## Interpolation (Fig. 12)
#
# Two held-out pictures at the ends, and between them uniform steps from the code of the left one to that of the right one. In the last row, the same
# two pictures blended pixel by pixel: there both animals show through, as ghosts. An animal that walks, turns or grows on the way is no ghost.

# %%
steps = torch.linspace(0, 1, 7).tolist()
pairs = 2
frames = {}
for side, domain in names.items():
    left, right = held_out[side][:pairs], held_out[side][pairs : 2 * pairs]
    walks = {
        key[0]: [model.interpolate(left, right, t) for t in steps] for key, model in models.items() if key[1] == side
    }
    walks["pixel blend"] = [torch.lerp(left, right, t) for t in steps]
    rows = {}
    for i in range(pairs):
        for name, walk in walks.items():
            between = torch.stack([images[i] for images in walk])  # (T, 3, H, W)
            rows[f"{name}, pair {i + 1}"] = torch.cat([left[i : i + 1], between, right[i : i + 1]])
            if not i and name != "pixel blend":
                frames[f"{name}, {domain}"] = between
    figure = plots.grid(rows)
    for axis, title in zip(figure.axes, ["input", *(f"t = {t:.2f}" for t in steps), "input"], strict=False):
        axis.set_title(title, fontsize=9)
    x.figure(figure, f"interpolation-{domain}")

# %% [markdown]
# The same for the first pair: move the slider from one picture to the other.

# %%
display(interactive.slider(frames, [f"t = {t:.2f}" for t in steps]))

# %% [markdown]
# ## Table 3: distance to the class
#
# As many samples as there are held-out pictures, against these. Distances are between the pictures as the backbone's conv_5_1 sees them (its mean over space): they are not FID, and
# they favour DEEP-VAE, which makes its pictures from that layer; `fréchet_second` is measured on conv_5_1 of AlexNet, which took no part in any training here. The low
# reference is the value of the other class's real pictures, the ideal that of the class's own training pictures. "Real, inverted": training pictures made from their own maps of the level from
# which DEEP-VAE's are, the nearest that it can be expected to come. Diversity is the mean distance between two pictures of a set over that between
# two real ones: below 1, they resemble each other. For photos, FID and KID follow where the weights of Inception are at hand; with those of its first layers alone, the same distances on these, which are not FID.

# %%
inception = ["FID", "KID", "Fréchet distance (Inception 768-d)", "Kernel distance (Inception 768-d)"]
shown = [*inception, "fréchet_second", "fréchet_backbone", "precision", "recall", "diversity"]
for side, domain in names.items():
    labels = []
    for name in (name for name, own in models if own == side):
        found = {"samples": samples[name, side], "reconstructions": reconstructed[name, side]}
        if name == "DEEP-VAE":  # is the fitted prior better?
            z = torch.randn(count[side], x.settings.generation.latent, generator=torch.Generator().manual_seed(seed))
            model = models[name, side]
            codes = model.draw(count[side], seed)
            others = {"another sample": codes[5].roll(1, 0), "N(0, I)": z}  # the first only loses what goes with it
            for source, code in others.items():
                found[f"samples with the code of level 5 from {source}"] = model.decode(codes | {5: code})
        for kind, made in found.items():
            cell = (3, name) if kind == "samples" else None
            x.distances(made, side, f"{kind}, {name}", cell=cell, second=second, about=domain)
            labels.append(f"{kind}, {name}")
    x.distances(x.inverted(side, last), side, "real, inverted", second=second, about=domain)
    display(x.compared(shown, [*labels, "real, inverted"], side, domain).round(3))

# %% [markdown]
# ## Sharp and recognisable
#
# **Detail** is the mean difference of neighbouring pixels; its baseline is that of real pictures blurred to a quarter of their side. On the
# drawn zoo the probes read which animal they see, from the picture and from its silhouette alone, and how many; the baseline is what they say of the other class's real pictures, the
# ideal what they say of the class's own.


# %%
def detail(images):
    return float((images[..., 1:] - images[..., :-1]).abs().mean())


probes = x.probes()
rows = []
for (name, side), made in samples.items():
    about, n = f"{name}, {names[side]}", count[side]
    blurred = blur(held_out[side], held_out[side].shape[-1] // 4)
    sharp = detail(held_out[side])
    x.metric(f"detail of samples, {about}", detail(made), n=n, lower=detail(blurred), upper=sharp, better="higher")
    row = {"method": name, "class": names[side], "detail": detail(made) / sharp}
    if probes:
        k = probes.species.index(names[side])
        read = [probes.read(images) for images in (made, held_out[OTHER[side]], held_out[side])]
        for what in ("species", "silhouette"):
            value, lower, upper = (float((getattr(r, what).argmax(1) == k).mean()) for r in read)
            row[what] = value
            x.metric(
                f"{what} of samples recognised, {about}",
                value,
                n=n,
                lower=lower,
                upper=upper,
                unit="share",
                better="higher",
            )
        for number in (1, 2, 3):
            value, lower, upper = (float((r.count == number).mean()) for r in read)
            row[f"{number} animals"] = value
            x.metric(f"samples with {number} animals, {about}", value, n=n, upper=upper, unit="share")
    rows.append(row)
display(pd.DataFrame(rows).round(3))

# %% [markdown]
# ## No ghosts halfway
#
# The middle of the way between each held-out picture and the next, against all held-out pictures. The baseline is the pixel blend of the two, the ideal their reconstructions: a method that
# blends pictures, or codes that mean nothing halfway, ends at the low one. That holds where a method reconstructs well: if its reconstructions are farther from the class than blends of real pictures are (the ideal
# above the low), compare it with its own reconstructions alone.

# %%
for (name, side), model in models.items():
    start, end = held_out[side], held_out[side].roll(-1, 0)
    sets = model.interpolate(start, end, 0.5), torch.lerp(start, end, 0.5), reconstructed[name, side]
    for what, network in (("fréchet_backbone", method.backbone), ("fréchet_second", second)):
        real = x.described(held_out[side], network)
        value, blended, own = (backbone_distances(x.described(s, network), real)["fréchet_backbone"] for s in sets)
        x.metric(
            f"{what}, halfway, {name}, {names[side]}", value, n=len(start), lower=blended, upper=own, better="lower"
        )
        print(
            f"{name}, {names[side]}: {what} halfway {value:.3g}, of the blends {blended:.3g}, of the reconstructions {own:.3g}"
        )

# %% [markdown]
# ## Not copies
#
# Each sample with the training picture (or its augmented copy) that is nearest to it: in the normalised conv_5_1 maps, place by place, and in pixels (at 32 × 32). The number is the mean
# distance from a sample to its nearest training picture, over that from a held-out picture to its own; the latter are inverted from level 3, so that both have
# the same look. Below 1, samples are nearer to training pictures than new pictures of the class are; the baseline is what copies would have: training pictures, inverted. Above 1 is no merit by itself: samples that
# miss the class are far from its pictures, too.


# %%
def layout(images, side):
    """The normalised conv_5_1 maps, flat: (N, 3, H, W) → (N, C · h · w)."""
    statistics = method.store(side).statistics[5]
    with torch.no_grad():
        maps = [statistics.normalise(method.backbone(part.to(method.device))[5]).cpu() for part in images.split(64)]
    return torch.cat(maps).flatten(1)


def pixels(images, _):
    return interpolate(images, size=32, mode="area").flatten(1)


rows = []
for (name, side), made in samples.items():
    train = method.store(side)
    originals = torch.tensor(train.originals()[: count[side]])
    with torch.no_grad():
        copies = torch.cat(
            [method.inverter(side, last)(train.level(last, r, method.device)).cpu() for r in originals.split(64)]
        )
    found = {}
    for space, of, kept in (
        ("features", layout, train.level(5).flatten(1)),
        ("pixels", pixels, torch.cat([pixels(train.images(r), side) for r in torch.arange(len(train)).split(256)])),
    ):
        nearest = [pairwise_distances_argmin_min(of(i, side), kept) for i in (made, inverted[side], copies)]
        found[f"nearest, {space}"] = train.images(torch.from_numpy(nearest[0][0][:10]))
        near, new, copied = (float(distance.mean()) for _, distance in nearest)
        about = {"unit": "ratio", "lower": copied / new, "upper": 1.0, "better": "higher"}
        x.metric(f"nearest training picture in {space}, {name}, {names[side]}", near / new, n=len(made), **about)
        rows.append(
            {"method": name, "class": names[side], "space": space, "samples": near / new, "copies": copied / new}
        )
    x.figure(plots.grid({name: made[:10]} | found), f"nearest-{name}-{names[side]}")
display(pd.DataFrame(rows).round(3))

# %% [markdown]
# ## How they were trained

# %%
for run in method.runs:
    if not run.name.startswith(("inverter", "prior")):
        x.figure(plots.curves(run.curve(), title=f"{run.name}: {run.seconds / 60:.1f} minutes"), f"curve-{run.name}")

# %% [markdown]
# VQ-VAE-2 has two codebooks. The share of their codes that training pictures use, and the perplexity: how many codes, all used alike, would tell as much.

# %%
usage = {(names[side], level): used for (name, side), m in models.items() if name == "VQ-VAE-2" for level, used in m.usage().items()}
display(pd.DataFrame(usage).T.round(2))

# %% [markdown]
# ## Found

# %%
value = pd.DataFrame(x.metrics).set_index("name")
for name, side in models:
    about = f"{name}, {names[side]}"
    frechet, own = (value.loc[f"fréchet_backbone, {kind}, {about}"] for kind in ("samples", "halfway"))
    copied = value.loc[f"nearest training picture in features, {about}"]
    print(
        f"{about}: the samples' Fréchet distance to the class is {frechet['value']:.3g} (the other class: {frechet['lower']:.3g}, training "
        f"pictures: {frechet['upper']:.3g}); halfway between two pictures it is {own['value']:.3g}, of pixel blends {own['lower']:.3g}; samples lie "
        f"{copied['value']:.2f} times as far from the training pictures as held-out ones do (copies: {copied['lower']:.2f})."
    )
    if probes:
        seen = value.loc[f"species of samples recognised, {about}", "value"]
        shape = value.loc[f"silhouette of samples recognised, {about}", "value"]
        print(
            f"    {seen:.1%} of the samples are recognised as a {names[side]}, {shape:.1%} by their silhouette alone."
        )

# %% tags=["scroll-output"]
x.finish()

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
# # DEEP-VAE: pictures without a source
#
# **Claim (§4.3, Table 3, Figs. 11 and 12).** A variational auto-encoder {cite}`kingma2014` of the conv_5_1 maps of one class, with shallower levels
# synthesised in a cascade, generates pictures that are not blurry, show the animal "in almost all of the generated images", and
# interpolate "without ghosting artifacts".
#
# **Here.** One DEEP-VAE for each class of the pair: samples, reconstructions, interpolations, distances to the class, and whether the samples are copies of
# training pictures.
#
# Time: `smoke` seconds; `demo` about 15 minutes, on one of two cores, and the level-3 inverters' 6 where it finds them not trained yet.

# %% tags=["parameters"]
profile = "demo"
pair = ["zebra", "giraffe"]
seed = 0

# %%
import pandas as pd
import torch
from IPython.display import display
from sklearn.metrics import pairwise_distances_argmin_min
from torch.nn.functional import interpolate

from cdtlib import interactive, plots, published
from cdtlib.cascade import OTHER
from cdtlib.data import to_uint8
from cdtlib.deepvae import DeepVAE
from cdtlib.experiment import Experiment
from cdtlib.metrics.distances import backbone_distances, inception_distances, spread
from cdtlib.training.probes import blur

x = Experiment("10_deep_vae", profile, pair, seed)
plots.style(photos=True)  # so many pictures keep the notebook below 2 MB only as JPEG
method = x.method
names = dict(zip("ab", x.settings.pair, strict=True))
last = min(x.settings.levels)

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
models = {("DEEP-VAE", side): DeepVAE(method, side).fit() for side in "ab"}  # Table 3: a rival is an entry more
for run in method.runs:
    if run.name.startswith(("vae", "generator")):
        x.figure(plots.curves(run.curve(), title=run.name), f"curve-{run.name}")

# %% [markdown]
# ## Samples (Fig. 11)
#
# The first twenty samples of each class, not chosen, below ten pictures of the class. Is each of them an animal of the class, and is it sharp?

# %%
held_out = {side: method.store(side, "test").images() for side in "ab"}
count = {side: len(images) for side, images in held_out.items()}
samples = {key: model.sample(count[key[1]], seed) for key, model in models.items()}
for (name, side), made in samples.items():
    shown = min(10, count[side] // 2)
    rows = {f"real {names[side]}": held_out[side][:shown], name: made[:shown], f"{name} ": made[shown : 2 * shown]}
    x.figure(plots.grid(rows), f"samples-{name}-{names[side]}")

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
# Two held-out pictures at the ends, and between them uniform steps from the code of the left one to that of the right one. Below each row, the same
# two pictures blended pixel by pixel: there both animals show through, as ghosts. An animal that walks, turns or grows on the way is no ghost.

# %%
steps = torch.linspace(0, 1, 7).tolist()
pairs = 2
frames = {}
for (name, side), model in models.items():
    left, right = held_out[side][:pairs], held_out[side][pairs : 2 * pairs]
    walk = torch.stack([model.interpolate(left, right, t) for t in steps])  # (T, pairs, 3, H, W)
    blend = torch.stack([torch.lerp(left, right, t) for t in steps])
    rows = {}
    for i in range(pairs):
        ends = left[i : i + 1], right[i : i + 1]
        rows[f"{name}, pair {i + 1}"] = torch.cat([ends[0], walk[:, i], ends[1]])
        rows["pixel blend" + " " * i] = torch.cat([ends[0], blend[:, i], ends[1]])
        frames[f"{names[side]} {i + 1}"] = walk[:, i]
    figure = plots.grid(rows)
    for axis, title in zip(figure.axes, ["input", *(f"t = {t:.2f}" for t in steps), "input"], strict=False):
        axis.set_title(title, fontsize=9)
    x.figure(figure, f"interpolation-{name}-{names[side]}")

# %% [markdown]
# The same ways, to walk along:

# %%
display(interactive.slider(frames, [f"t = {t:.2f}" for t in steps]))

# %% [markdown]
# ## Table 3: distance to the class
#
# As many samples as there are held-out pictures, against these. Distances are between the pictures as the backbone's conv_5_1 sees them (its mean over space): they are not FID, and
# they favour DEEP-VAE, which makes its pictures from that layer. `lower` is the value of the other class's real pictures, `upper` that of the class's own
# training pictures. The paper's FID, on photos, stands beside ours. For photos, FID and KID follow where the weights of Inception are at hand.


# %%
def note(distances, about, lower, upper, **published_value):
    for what, value in distances.items():
        if what != "n":
            better = "higher" if what in ("precision", "recall") else "lower"
            more = published_value if what in ("FID", "fréchet_backbone") else {}
            x.metric(
                f"{what}, {about}", value, n=distances["n"], lower=lower[what], upper=upper[what], better=better, **more
            )


real = {side: x.described(images) for side, images in held_out.items()}
rows = []
for (name, side), model in models.items():
    train = method.store(side)
    training_pictures = train.images(train.originals()[: count[side]])
    lower = backbone_distances(real[OTHER[side]], real[side])
    upper = backbone_distances(x.described(training_pictures), real[side])
    told = published.generation(names[side], name)
    told = {"published": told.value, "source": f"{told.source} (FID)"} if told else {}
    found = {"samples": samples[name, side], "reconstructions": reconstructed[name, side]}
    if name == "DEEP-VAE":  # is the fitted prior better?
        codes = torch.randn(count[side], x.settings.generation.latent, generator=torch.Generator().manual_seed(seed))
        found["samples with the code of level 5 from N(0, I)"] = model.decode(
            model.draw(count[side], seed) | {5: codes}
        )
    for kind, made in found.items():
        distances = backbone_distances(x.described(made), real[side])
        note(distances, f"{kind}, {name}, {names[side]}", lower, upper, **(told if kind == "samples" else {}))
        rows.append({"method": name, "class": names[side], "pictures": kind, **distances})
    if x.inception:
        sets = samples[name, side], held_out[OTHER[side]], training_pictures
        wanted = to_uint8(held_out[side])
        values = [inception_distances(to_uint8(s), wanted, feature=x.inception, device=method.device) for s in sets]
        note(values[0], f"samples, {name}, {names[side]}", *values[1:], **told)
display(pd.DataFrame(rows).round(3))

# %% [markdown]
# ## Sharp, recognisable, varied
#
# **Detail** is the mean difference of neighbouring pixels; its `lower` is that of real pictures blurred to a quarter of their side. **Diversity** is the mean
# distance between two samples in the backbone's conv_5_1 over that between two real pictures: below 1, the samples resemble each other. On the
# drawn zoo the probes read which animal they see, from the picture and from its silhouette alone, and how many; `lower` is what they say of the other class's real pictures and
# `upper` what they say of the class's own.


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
    diversity = spread(x.described(made)) / spread(real[side])
    x.metric(f"diversity of samples, {about}", diversity, n=n, unit="ratio", upper=1.0, better="higher")
    row = {"method": name, "class": names[side], "detail": detail(made) / sharp, "diversity": diversity}
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
# The middle of the way between each held-out picture and the next, against all held-out pictures. `lower` is the pixel blend of the two, `upper` their reconstructions: a method that blends
# pictures, or codes that mean nothing halfway, ends at `lower`.

# %%
for (name, side), model in models.items():
    x_, y_ = held_out[side], held_out[side].roll(-1, 0)
    sets = model.interpolate(x_, y_, 0.5), torch.lerp(x_, y_, 0.5), reconstructed[name, side]
    values = [backbone_distances(x.described(images), real[side]) for images in sets]
    note(values[0], f"halfway, {name}, {names[side]}", *values[1:])
    print(f"{name}, {names[side]}: Fréchet distance halfway {values[0]['fréchet_backbone']:.3g}, of the blends "
          f"{values[1]['fréchet_backbone']:.3g}, of the reconstructions {values[2]['fréchet_backbone']:.3g}")  # fmt: skip

# %% [markdown]
# ## Not copies
#
# Each sample with the training picture (or its augmented copy) that is nearest to it: in the normalised conv_5_1 maps, place by place, and in pixels (at 32 × 32). The number is the mean
# distance from a sample to its nearest training picture, over that from a held-out picture to its own; the latter are inverted from level 3, so that both have
# the same look. Below 1, samples are nearer to training pictures than new pictures of the class are; `lower` is what copies would have: training pictures, inverted. Above 1 is no merit by itself: samples that
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
# ## Found

# %%
table = x.finish()
value = table.set_index("name")
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
            f"    {seen:.0%} of the samples are recognised as a {names[side]}, {shape:.0%} by their silhouette alone."
        )
table

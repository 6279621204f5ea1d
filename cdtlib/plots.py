"""Figures in one style: grids of pictures, training curves, comparisons."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from matplotlib_inline.backend_inline import set_matplotlib_formats
from torchvision.utils import draw_bounding_boxes

from cdtlib.data import to_uint8
from cdtlib.metrics.detection import Found

COLOURS = {"source": "#3b6fb6", "target": "#c8453b", "translated": "#2aa7b8"}  # as in the paper's Fig. 10


def style(photos: bool = False) -> None:
    """One look for all figures; in a notebook they stand as JPEG, a third of the size, those of photos coarser."""
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 80 if photos else 92})
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 90, "savefig.dpi": 150, "savefig.bbox": "tight", "axes.titlesize": 11})


def grid(rows: dict[str, torch.Tensor]) -> Figure:
    """Pictures in labelled rows, the same input in the same column.

    Each row is (N, 3, H, W), uint8 or float in [-1, 1]; all rows have the same N.
    """
    counts = {label: len(images) for label, images in rows.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"a grid needs rows of equal length, got {counts}")
    axes = _cells(len(rows), next(iter(counts.values())), cell=1.05)
    for row, (label, images) in zip(axes, rows.items(), strict=True):
        images = images if images.dtype == torch.uint8 else to_uint8(images)
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="bicubic")
        _label(row, label)
    return axes[0, 0].figure


def _cells(rows: int, columns: int, cell: float) -> np.ndarray:
    """Square axes without frames or ticks, `cell` inches wide, close together: (rows, columns)."""
    figure, axes = plt.subplots(rows, columns, figsize=(cell * columns, cell * rows), squeeze=False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.04, hspace=0.04)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return axes


def _label(row: np.ndarray, text: str) -> None:
    row[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=10)


def curves(log: pd.DataFrame, *, title: str = "") -> Figure:
    """Every logged value of a run against the step, one small panel each, whose height does not count the first
    fiftieth; dotted, where values begin that the first steps do not have: another part of the training."""
    names = [c for c in log.columns if c not in ("step", "seconds")]
    begins = {log.loc[log[name].first_valid_index(), "step"] for name in names if log[name].notna().any()}
    columns = min(4, len(names)) or 1  # a run may have logged nothing
    rows = -(-len(names) // columns) or 1
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.2 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(log["step"], log[name], linewidth=1)
        values = log[name].dropna()
        if len(values) > 20:  # the first few may be so large that nothing else could be seen
            later = values.iloc[len(values) // 50 :]
            low, high = later.min(), later.max()
            room = 0.05 * (high - low) or 1.0
            axis.set_ylim(low - room, high + room)
        for step in begins - {log["step"].min()}:
            axis.axvline(step, color="0.5", linestyle=":", linewidth=1)
        axis.set_title(name)
        axis.tick_params(labelsize=8)
        axis.set_xlabel("step", fontsize=9)
    if title:
        figure.suptitle(title)
    figure.tight_layout()
    return figure


class Plain(LogFormatter):
    """Labels of a logarithmic axis as plain numbers: 1.4 and 0.6, not 1.4 × 10⁰ and 6e-01."""

    def __call__(self, x, pos=None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def progress(points: pd.DataFrame, against: dict[str, str], measures: list[str]) -> Figure:
    """How good each method was after how much training: a row of panels for each of `measures`, a column for each of
    `against`, {column of `points`: the axis' label}, and each direction; lines by the column "method"."""
    ways = list(points["direction"].unique())
    size = (3.4 * len(against) * len(ways), 2.9 * len(measures))
    figure, axes = plt.subplots(len(measures), len(against) * len(ways), figsize=size, squeeze=False, sharey="row")
    lines = {"hue": "method", "style": "method", "markers": True, "dashes": False}
    for row, measure in zip(axes, measures, strict=True):
        panels = [(effort, label, way) for effort, label in against.items() for way in ways]
        for axis, (effort, label, way) in zip(row, panels, strict=True):
            own = points[points["direction"] == way]
            sns.lineplot(own, x=effort, y=measure, ax=axis, legend=axis is axes[0, 0], **lines)
            axis.set(xlabel=label, xscale="log", title=way)
            if measure.startswith("fréchet"):
                axis.set_yscale("log")
                for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                    set_formatter(Plain(minor_thresholds=(2, 0.5)))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].get_legend().remove()
    figure.tight_layout()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5, frameon=False)
    return figure


def channel_maps(picture: torch.Tensor, maps: dict[int, torch.Tensor], *, channels: int = 8) -> Figure:
    """A picture, (3, H, W) in [-1, 1], and its `channels` feature maps that vary the most, each less its mean and over
    its standard deviation, a row per level; maps are {level: (C, h, w)}, any range."""
    axes = _cells(len(maps), channels + 1, cell=1.05)
    axes[0, 0].imshow(to_uint8(picture).permute(1, 2, 0).cpu().numpy(), interpolation="bicubic")
    for row, (level, x) in zip(axes, maps.items(), strict=True):
        strongest = x[x.std((1, 2)).argsort(descending=True)[:channels]].cpu()
        shown = (strongest - strongest.mean((1, 2), True)) / strongest.std((1, 2), keepdim=True).clamp_min(1e-5)
        for axis, channel in zip(row[1:], shown, strict=True):
            axis.imshow(channel, cmap="magma", vmin=-1, vmax=1, interpolation="nearest")
        _label(row, f"conv_{level}_1\n{x.shape[1]}×{x.shape[2]}")
    return axes[0, 0].figure


def heat(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Pictures, float (N, 3, H, W) in [-1, 1], in grey under maps (N, H, W): uint8 (N, 3, H, W).

    Colour shows the positive part of a map, by its largest value in that picture.
    """
    grey = ((images.mean(1) + 1) / 2).clamp(0, 1)
    strength = maps.clamp_min(0)
    strength = strength / strength.amax((1, 2), keepdim=True).clamp_min(1e-12)  # (N, H, W) in [0, 1]
    colours = torch.from_numpy(plt.get_cmap("inferno")(strength.numpy())[..., :3]).float()  # (N, H, W, 3)
    mixed = 0.35 * grey[..., None] + 0.65 * colours
    return (mixed * 255).round().byte().permute(0, 3, 1, 2)


def confusion(matrix: np.ndarray, names: tuple[str, str], *, title: str = "") -> Figure:
    """How many held-out pictures of each domain (rows) were taken for which (columns): (2, 2) counts."""
    figure, axis = plt.subplots(figsize=(2.6, 2.2))
    sns.heatmap(matrix, annot=True, fmt="d", cmap="Blues", cbar=False, square=True, ax=axis)
    axis.set(xticklabels=names, yticklabels=names, xlabel="taken for", ylabel="is", title=title)
    return figure


def masks(animals: np.ndarray) -> torch.Tensor:
    """Bool masks (N, H, W) → uint8 pictures (N, 3, H, W), dark animals on a light ground."""
    grey = torch.from_numpy(np.where(animals, 40, 235).astype(np.uint8))
    return grey[:, None].expand(-1, 3, -1, -1)


def boxed(images: torch.Tensor, found: Sequence[Found], colours: dict[str, str]) -> torch.Tensor:
    """Pictures (N, 3, H, W), uint8 or float in [-1, 1], with boxes around what was found in each: uint8 (N, 3, 2H, 2W).

    Only the classes of `colours` are shown, {class: "#rrggbb"}. At twice the size, so that the lines are fine.
    """
    images = images if images.dtype == torch.uint8 else to_uint8(images)
    drawn = []
    for image, own in zip(images.repeat_interleave(2, 2).repeat_interleave(2, 3), found, strict=True):
        own = own[np.isin(own.names, list(colours))]
        if len(own):  # torchvision warns where there is nothing to draw
            boxes = torch.from_numpy(2 * own.boxes)
            image = draw_bounding_boxes(image, boxes, colors=[colours[name] for name in own.names], width=3)
        drawn.append(image)
    return torch.stack(drawn)


def embedding(panels: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Points (n, 2) of the groups of `COLOURS` in a plane, a panel for each title; as in the paper's Fig. 10."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.4 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=False):
        for (group, colour), marker in zip(COLOURS.items(), "os^", strict=True):
            axis.scatter(*points[group].T, s=18, c=colour, marker=marker, linewidths=0, alpha=0.8, label=group)
        axis.set(title=title, xticks=[], yticks=[], aspect="equal", adjustable="datalim")  # t-SNE has no units
    figure.tight_layout()
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False, markerscale=1.8)
    return figure

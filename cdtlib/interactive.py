"""Figures for the book that answer the pointer, a finger and the keyboard.

Each is one piece of HTML that needs nothing else: thumbnails in one sheet (WebP, in a data URI), styles, some lines of
JavaScript. Where scripts do not run, `scatter` still shows its points and `slider` all its frames. Colours of text and
ground are those of the page, the book's dark mode included.
"""

import base64
import io
from html import escape

import numpy as np
import torch
from IPython.display import HTML
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from cdtlib.data import to_uint8
from cdtlib.plots import COLOURS

QUALITY = 60  # of the sheet, WebP: at 96 pixels, about 1 kB a drawn picture
SIDE = 96  # of a thumbnail, pixels
WIDTH = 480.0  # of the plane of `scatter`, in its own units
MARGIN = 12.0
# Paths from a point: a disc, a square and a triangle, to be told apart without their colours.
MARKS = {
    "source": "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "target": "m-4-4h8v8h-8z",
    "translated": "m0-5.4l5 8.6h-10z",
}


def scatter(
    points: dict[str, np.ndarray], pictures: dict[str, torch.Tensor], labels: dict[str, str], *, side: int = SIDE
) -> HTML:
    """Points of the groups "source", "target" and "translated" in a plane; pointing at one shows its picture.

    points: (n, 2) for each group; pictures: (n, 3, H, W), uint8 or float in [-1, 1]; labels: the group's name as shown.
    Row i of "translated" is the translation of row i of "source", which is shown beside it. `side`: of the thumbnails,
    pixels. Raises ValueError for other groups, numbers that do not fit, or points that are not finite.
    """
    for name, given in (("points", points), ("pictures", pictures), ("labels", labels)):
        if given.keys() != COLOURS.keys():
            raise ValueError(f"{name}: the groups are {', '.join(COLOURS)}, not {', '.join(given) or 'none'}")
    for group, own in points.items():
        if own.shape != (len(pictures[group]), 2) or not np.isfinite(own).all():
            raise ValueError(
                f"{group}: a point (x, y), both finite, is needed for each of {len(pictures[group])} pictures, "
                f"not an array {own.shape}"
            )
    if len(points["translated"]) != len(points["source"]):
        raise ValueError(f"{len(points['translated'])} translations of {len(points['source'])} source pictures")

    every = np.concatenate([points[group] for group in COLOURS])
    low, extent = every.min(0), np.ptp(every, 0)
    scale = (WIDTH - 2 * MARGIN) / max(extent.max(), 1e-9)  # the same for both axes
    height = extent[1] * scale + 2 * MARGIN
    shift = ((WIDTH - extent[0] * scale) / 2, MARGIN)
    groups, legend = [], []
    for group, colour in COLOURS.items():
        places = (points[group] - low) * scale + shift
        paths = "".join(f'<path d="M{x:.1f} {height - y:.1f}{MARKS[group]}"/>' for x, y in places)
        name = escape(labels[group])
        groups.append(f'<g fill="{colour}" data-group="{group}" data-label="{name}">{paths}</g>')
        swatch = f'<svg viewBox="0 0 16 16" aria-hidden="true"><path fill="{colour}" d="M8 8{MARKS[group]}"/></svg>'
        legend.append(f"<li>{swatch}{name} ({len(places)})</li>")
    style = _sheet(torch.cat([_thumbnails(pictures[group], side) for group in COLOURS]), columns=25)
    about = escape(f"Scatter plot of {', '.join(labels.values())}. The arrow keys go from point to point.")
    return HTML(
        f"<style>{_STYLE}{_SCATTER_STYLE}</style>"
        f'<div class="cdt-figure cdt-scatter" style="--side:{side}px;{style}"><ul>{"".join(legend)}</ul>'
        f'<div class="cdt-plane"><svg viewBox="0 0 {WIDTH:g} {height:.1f}" tabindex="0" role="group" '
        f'aria-label="{about}">{"".join(groups)}</svg><div class="cdt-card" hidden><div><i class="cdt-picture"></i>'
        '<b aria-hidden="true">→</b><i class="cdt-picture"></i></div><span aria-live="polite"></span></div></div>'
        '<p class="cdt-hint">Point at a mark or tap it to see its picture; arrow keys go from mark to mark.</p></div>'
        f"<script>{_SCATTER_SCRIPT}</script>"
    )


def slider(rows: dict[str, torch.Tensor], steps: list[str]) -> HTML:
    """Rows of frames, such as interpolations; one slider goes through all rows at once.

    rows: (K, 3, H, W) by the row's label, uint8 or float in [-1, 1]; steps: the K texts that the slider shows, such as
    "0.25". Raises ValueError for no rows, fewer than two frames or unequal numbers.
    """
    counts = {label: len(frames) for label, frames in rows.items()}
    if not rows or len(steps) < 2 or set(counts.values()) != {len(steps)}:
        raise ValueError(f"rows of {len(steps)} frames are needed, one for each step and at least two, got {counts}")
    style = _sheet(torch.cat([_thumbnails(frames, SIDE) for frames in rows.values()]), columns=len(steps))
    cells = "".join(
        f'<figure><i class="cdt-picture" role="img" aria-label="{escape(label)}" style="--row:{row}"></i>'
        f"<figcaption>{escape(label)}</figcaption></figure>"
        for row, label in enumerate(rows)
    )
    texts = escape("\n".join(steps))
    return HTML(
        f"<style>{_STYLE}{_SLIDER_STYLE}</style>"
        f'<div class="cdt-figure cdt-slider" style="--side:{SIDE}px;{style}"><div class="cdt-rows">{cells}</div>'
        f'<label><input type="range" min="0" max="{len(steps) - 1}" value="0" aria-label="step" data-steps="{texts}">'
        f"<output>{escape(steps[0])}</output></label></div><script>{_SLIDER_SCRIPT}</script>"
    )


def _thumbnails(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures (N, 3, H, W), uint8 or float in [-1, 1] → uint8 (N, 3, side, side)."""
    pictures = pictures if pictures.dtype == torch.uint8 else to_uint8(pictures)
    return tv.resize(pictures.cpu(), [side, side], antialias=True)


def _sheet(thumbnails: torch.Tensor, columns: int) -> str:
    """All thumbnails, uint8 (N, 3, S, S), in one picture of `columns` columns, as custom properties of CSS."""
    rows = -(-len(thumbnails) // columns)
    side = thumbnails.shape[-1]
    cells = thumbnails.new_zeros(rows * columns, 3, side, side)
    cells[: len(thumbnails)] = thumbnails
    pixels = cells.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "WEBP", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return f"--columns:{columns};--rows:{rows};--sheet:url(data:image/webp;base64,{data})"


# A picture is the sheet, moved behind a window of one thumbnail to --column, --row. The second rule takes back the
# light ground that the book's theme gives to HTML in dark mode.
_STYLE = """
.cdt-figure{color:inherit;font-size:.9rem;line-height:1.4;max-width:45rem;margin-bottom:1rem}
html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe)):has(.cdt-figure)
{background:none;color:inherit;padding:0}
.cdt-picture{display:block;aspect-ratio:1;background-image:var(--sheet);border-radius:3px;
background-size:calc(100%*var(--columns)) calc(100%*var(--rows));
background-position:calc(100%*var(--column,0)/max(1,var(--columns) - 1)) calc(100%*var(--row,0)/max(1,var(--rows) - 1))}
"""

_SCATTER_STYLE = """
.cdt-scatter{max-width:36rem}
.cdt-scatter ul{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;list-style:none;margin:0 0 .4rem;padding:0}
.cdt-scatter li{display:flex;align-items:center;gap:.35rem;margin:0}
.cdt-scatter li svg{width:1.1em;height:1.1em;flex:none}
.cdt-plane{position:relative}
.cdt-plane>svg{display:block;width:100%;height:auto;border:1px solid rgba(128,128,128,.45);border-radius:4px}
.cdt-plane>svg:focus-visible{outline-offset:-3px}
.cdt-plane g{opacity:.8}
html[data-theme=dark] .cdt-scatter :is(g,li path){filter:brightness(1.4)}
.cdt-plane path.cdt-on{stroke:currentColor;stroke-width:2.5}
.cdt-card{position:absolute;pointer-events:none;z-index:5;padding:.4rem;border-radius:6px;text-align:center;
border:1px solid rgba(128,128,128,.6);box-shadow:0 2px 10px rgba(0,0,0,.3);
background:var(--pst-color-background,var(--jp-layout-color1,#fff));
color:var(--pst-color-text-base,var(--jp-ui-font-color1,#222))}
.cdt-card[hidden]{display:none}
.cdt-card div{display:flex;align-items:center;justify-content:center;gap:.35rem}
.cdt-card .cdt-picture{width:var(--side)}
.cdt-card:not(.cdt-pair) :is(b,b+i){display:none}
.cdt-scatter:not([data-ready]) .cdt-hint{display:none}
.cdt-figure .cdt-hint{margin:.3rem 0 0;font-size:.85em;opacity:.8}
"""

_SCATTER_SCRIPT = """
for (const figure of document.querySelectorAll(".cdt-scatter:not([data-ready])")) {
  figure.dataset.ready = "";
  const svg = figure.querySelector(".cdt-plane > svg"), card = figure.querySelector(".cdt-card");
  const [left, right] = card.querySelectorAll(".cdt-picture"), text = card.querySelector("span");
  const columns = +figure.style.getPropertyValue("--columns");
  const marks = [...svg.querySelectorAll("path")];  // in the order of the sheet; the source comes first
  const at = marks.map(mark => mark.getAttribute("d").match(/[\\d.]+/g).slice(0, 2).map(Number));
  let shown = -1;
  const place = (picture, i) => {
    picture.style.setProperty("--column", i % columns);
    picture.style.setProperty("--row", Math.floor(i / columns));
  };
  const show = i => {
    marks[shown]?.classList.remove("cdt-on");
    shown = i;
    card.hidden = i < 0;
    if (i < 0) return;
    const group = marks[i].parentNode, row = i - marks.indexOf(group.firstChild);
    const pair = group.dataset.group == "translated";
    marks[i].classList.add("cdt-on");
    card.classList.toggle("cdt-pair", pair);
    place(left, pair ? row : i);  // a translation's source has the same row
    place(right, i);
    text.textContent = `${group.dataset.label}, ${row + 1}`;
    const scale = svg.clientWidth / svg.viewBox.baseVal.width, [x, y] = at[i].map(v => v * scale);
    const above = y > svg.clientHeight / 2;
    card.style.left = Math.max(0, Math.min(svg.clientWidth - card.offsetWidth, x - card.offsetWidth / 2)) + "px";
    card.style.top = (above ? y - card.offsetHeight - 14 : y + 14) + "px";
  };
  const point = event => {
    const scale = svg.clientWidth / svg.viewBox.baseVal.width, box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / scale, y = (event.clientY - box.top) / scale;
    let nearest = -1, least = (event.pointerType == "mouse" ? 12 : 24) / scale;
    at.forEach(([u, v], i) => {
      const distance = Math.hypot(u - x, v - y);
      if (distance <= least) [nearest, least] = [i, distance];
    });
    if (nearest != shown) show(nearest);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", event => event.pointerType == "mouse" && show(-1));
  svg.addEventListener("blur", () => show(-1));
  const orders = [0, 1].map(axis => marks.map((_, i) => i).sort((i, j) => at[i][axis] - at[j][axis]));
  const keys = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1]};
  svg.addEventListener("keydown", event => {
    if (event.key == "Escape") show(-1);
    if (!(event.key in keys)) return;
    event.preventDefault();  // the page stays where it is
    const [axis, step] = keys[event.key], order = orders[axis];
    show(shown < 0 ? order[0] : order[Math.max(0, Math.min(order.length - 1, order.indexOf(shown) + step))]);
  });
}
"""

_SLIDER_STYLE = """
.cdt-rows{display:flex;flex-wrap:wrap;gap:.6rem}
.cdt-figure figure{margin:0;text-align:center}
.cdt-slider figure .cdt-picture{width:calc(1.4*var(--side))}
.cdt-slider:not([data-ready]) figure{width:100%}
.cdt-slider:not([data-ready]) .cdt-picture{width:100%;aspect-ratio:var(--columns);
background-size:100% calc(100%*var(--rows))}
.cdt-slider:not([data-ready]) label{display:none}
.cdt-slider label{display:flex;align-items:center;gap:.8rem;margin-top:.6rem}
.cdt-slider input{flex:1;min-width:0;max-width:30rem;height:1.8rem}
.cdt-slider input:focus-visible{outline-offset:-3px}
.cdt-slider output{min-width:3em;font-variant-numeric:tabular-nums}
.cdt-slider figcaption{margin:.15rem 0 0;padding:0;font-size:.9em;color:inherit}
"""

_SLIDER_SCRIPT = """
for (const figure of document.querySelectorAll(".cdt-slider:not([data-ready])")) {
  figure.dataset.ready = "";
  const input = figure.querySelector("input"), output = figure.querySelector("output");
  const steps = input.dataset.steps.split("\\n"), pictures = figure.querySelectorAll(".cdt-picture");
  const show = () => {
    output.textContent = steps[input.value];
    input.setAttribute("aria-valuetext", steps[input.value]);
    for (const picture of pictures) picture.style.setProperty("--column", input.value);
  };
  input.addEventListener("input", show);
  show();  // a browser may remember where the slider was
}
"""

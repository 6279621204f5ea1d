"""The book's interactive figures, looked at in a browser: each mark shows its picture, and nothing is asked for."""

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydata_sphinx_theme
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from cdtlib import interactive, plots
from cdtlib.data.zoo import ZooDomain

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LABELS = {"source": "zebra", "target": "giraffe", "translated": "zebra <as> giraffe"}
STEPS = ["0", "0.5", "1"]


def plain(colours: list[tuple[int, int, int]]) -> torch.Tensor:
    """Pictures of one colour each: uint8 (N, 3, 16, 16)."""
    return torch.tensor(colours, dtype=torch.uint8).view(-1, 3, 1, 1).expand(-1, -1, 16, 16)


@pytest.fixture(scope="module")
def groups():
    """30 points of each group on a grid, with pictures whose colour says their group (blue) and row (red)."""
    x, y = np.meshgrid(np.arange(10.0), np.arange(9.0))
    grid = np.stack([x.ravel(), y.ravel()], 1)
    names = list(LABELS)
    points = {group: grid[k * 30 : k * 30 + 30] for k, group in enumerate(names)}
    pictures = {group: plain([(8 * row, 0, 100 * k) for row in range(30)]) for k, group in enumerate(names)}
    return points, pictures, LABELS


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CDT_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        message = f"no browser: install chromium, or name one in CDT_BROWSER (looked for {', '.join(BROWSERS)})"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=300_000
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """A function that opens HTML outputs, one after the other on one page; no request and no error is allowed."""
    faults, contexts = [], []

    def opened(*outputs, theme="light", styles="", **options):
        contexts.append(browser.new_context(viewport={"width": 390, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(120_000)
        tab.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and faults.append(message.text))
        body = "".join(f'<div class="text_html">{output.data}</div>' for output in outputs)
        head = f'<html data-theme="{theme}"><meta charset="utf-8"><style>{styles}</style>'
        place = f'<div class="bd-content"><div class="cell_output">{body}</div></div>'
        (tmp_path / "page.html").write_text(f"<!doctype html>{head}<body>{place}")
        tab.goto((tmp_path / "page.html").as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def colour(picture) -> tuple[int, ...]:
    """The colour in the middle of an element, as it is on the screen."""
    shot = Image.open(io.BytesIO(picture.screenshot())).convert("RGB")
    return shot.getpixel((shot.width // 2, shot.height // 2))


def near(found, wanted) -> bool:
    return all(abs(f - w) <= 5 for f, w in zip(found, wanted, strict=True))


def middle(tab, group: str, row: int) -> tuple[float, float]:
    mark = tab.locator(f"g[data-group={group}] path").nth(row)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_pointing_at_a_mark_shows_its_picture(page, groups):
    tab = page(interactive.scatter(*groups))
    card = tab.locator(".cdt-card")
    left, right = (card.locator(".cdt-picture").nth(k) for k in range(2))
    assert card.is_hidden()
    for group, row, blue in (("source", 0, 0), ("source", 29, 0), ("target", 7, 100)):
        tab.mouse.move(*middle(tab, group, row))
        assert card.inner_text().strip() == f"{LABELS[group]}, {row + 1}"
        assert near(colour(left), (8 * row, 0, blue)) and right.is_hidden()
    # A translation comes with its source.
    tab.mouse.move(*middle(tab, "translated", 13))
    assert card.locator("span").inner_text() == "zebra <as> giraffe, 14"
    assert near(colour(left), (8 * 13, 0, 0)) and near(colour(right), (8 * 13, 0, 200))
    box = card.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.mouse.move(1, 790)
    assert card.is_hidden()


def test_keyboard_and_finger_reach_every_mark(page, groups):
    tab = page(interactive.scatter(*groups), has_touch=True)
    said = tab.locator(".cdt-card span")
    tab.keyboard.press("Tab")
    seen = set()
    for _ in range(90):
        tab.keyboard.press("ArrowRight")
        seen.add(said.inner_text())
    assert seen == {f"{label}, {row + 1}" for label in LABELS.values() for row in range(30)}
    tab.keyboard.press("ArrowDown")
    assert tab.locator(".cdt-on").count() == 1
    tab.keyboard.press("Escape")
    assert tab.locator(".cdt-card").is_hidden()
    tab.touchscreen.tap(*middle(tab, "target", 3))
    assert said.inner_text() == "giraffe, 4"


def test_two_figures_on_a_page_do_not_mix(page, groups):
    points, pictures, labels = groups
    other = labels | {"source": "cat"}
    tab = page(interactive.scatter(*groups), interactive.scatter(points, pictures, other))
    tab.mouse.move(*middle(tab.locator(".cdt-scatter").nth(1), "source", 5))
    assert tab.locator(".cdt-card:visible").inner_text().strip() == "cat, 6"


def test_one_slider_goes_through_all_rows(page):
    rows = {f"row {r}": plain([(100 * k, 60 * r, 0) for k in range(3)]) for r in range(4)}
    tab = page(interactive.slider(rows, STEPS))
    pictures = [tab.locator(".cdt-picture").nth(r) for r in range(4)]
    slider = tab.get_by_role("slider")
    for k, step in enumerate(STEPS):
        assert tab.locator("output").inner_text() == step == slider.get_attribute("aria-valuetext")
        assert all(near(colour(picture), (100 * k, 60 * r, 0)) for r, picture in enumerate(pictures))
        slider.press("ArrowRight")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_points_and_frames_are_there(page, groups):
    rows = {f"row {r}": plain([(100 * k, 60 * r, 0) for k in range(3)]) for r in range(2)}
    tab = page(interactive.scatter(*groups), interactive.slider(rows, STEPS), java_script_enabled=False)
    assert tab.locator(".cdt-plane g path").count() == 90
    strip = tab.locator(".cdt-slider .cdt-picture").nth(1)
    box = strip.bounding_box()
    assert box["width"] == pytest.approx(3 * box["height"], rel=0.02)
    assert near(colour(strip), (100, 60, 0))  # the middle one of its three frames
    assert not tab.get_by_role("slider").is_visible() and not tab.locator(".cdt-hint").is_visible()


@pytest.mark.parametrize("theme, ground", [("light", 255), ("dark", 0)])
def test_text_and_ground_are_those_of_the_books_theme(page, groups, theme, ground):
    """In dark mode the theme gives HTML outputs a light ground, which the figure takes back."""
    static = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
    styles = (static / "styles" / "pydata-sphinx-theme.css").read_text()
    tab = page(interactive.scatter(*groups), theme=theme, styles=styles)
    assert tab.locator(".text_html").evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    body, text = (tab.locator(e).first.evaluate("e => getComputedStyle(e).color") for e in ("body", ".cdt-scatter li"))
    assert body == text
    assert abs(sum(map(int, re.findall(r"\d+", text)[:3])) / 3 - ground) > 128


def test_marks_lie_where_the_points_do():
    """480 wide with margins of 12: 114 for each unit of both axes, and y goes up."""
    points = {"source": [[0, 0], [4, 1]], "target": [[2, 2]], "translated": [[0, 2], [4, 0]]}
    points = {group: np.array(own, float) for group, own in points.items()}
    html = interactive.scatter(
        points, {group: plain([(0, 0, 0)] * len(own)) for group, own in points.items()}, LABELS
    ).data
    found = {
        group: re.findall(r"M([\d.]+) ([\d.]+)", paths)
        for group, paths in re.findall(r'data-group="(\w+)"[^>]*>(.*?)</g>', html)
    }
    places = {"source": [("12.0", "240.0"), ("468.0", "126.0")], "target": [("240.0", "12.0")]}
    assert found == places | {"translated": [("12.0", "12.0"), ("468.0", "240.0")]}
    assert re.findall(r"</svg>([^<]*)</li>", html) == ["zebra (2)", "giraffe (1)", "zebra &lt;as&gt; giraffe (2)"]


def test_no_id_is_given_and_the_figure_is_the_same_every_time(groups):
    html = interactive.scatter(*groups).data
    assert not re.search(r"\sid=", html) and html == interactive.scatter(*groups).data


def test_600_pictures_at_96_pixels_are_small_enough(groups):
    drawn = ZooDomain("zebra", "test", 40, size=96).images().repeat(5, 1, 1, 1)
    points = dict.fromkeys(LABELS, np.random.default_rng(0).normal(size=(200, 2)))
    assert len(interactive.scatter(points, dict.fromkeys(LABELS, drawn), LABELS).data) < 750_000


def test_what_does_not_fit_is_refused(groups):
    points, pictures, labels = groups
    with pytest.raises(ValueError, match="points: the groups are source, target, translated, not source"):
        interactive.scatter({"source": points["source"]}, pictures, labels)
    with pytest.raises(ValueError, match="target: a point .* each of 30 pictures, not an array"):
        interactive.scatter(points | {"target": points["target"][:3]}, pictures, labels)
    with pytest.raises(ValueError, match="source: a point .*both finite"):
        interactive.scatter(points | {"source": points["source"] * np.nan}, pictures, labels)
    fewer = {"translated": points["translated"][:4]}, {"translated": pictures["translated"][:4]}
    with pytest.raises(ValueError, match="4 translations of 30 source pictures"):
        interactive.scatter(points | fewer[0], pictures | fewer[1], labels)
    for rows in ({}, {"a": plain([(0, 0, 0)] * 3), "b": plain([(0, 0, 0)] * 2)}):
        with pytest.raises(ValueError, match="rows of 3 frames"):
            interactive.slider(rows, STEPS)
    with pytest.raises(ValueError, match="at least two"):
        interactive.slider({"a": plain([(0, 0, 0)])}, ["0"])


def test_static_panels_have_the_papers_colours_and_a_mark_for_each_group(groups):
    figure = plots.embedding({"one": groups[0], "two": groups[0], "three": groups[0]})
    assert [axis.get_title() for axis in figure.axes] == ["one", "two", "three"]
    drawn = figure.axes[2].collections
    assert [len(c.get_offsets()) for c in drawn] == [30, 30, 30]
    assert len({c.get_paths()[0].vertices.tobytes() for c in drawn}) == 3
    for (group, colour), own in zip(plots.COLOURS.items(), drawn, strict=True):
        assert np.array_equal(own.get_offsets(), groups[0][group]) and to_hex(own.get_facecolor()[0]) == colour
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(plots.COLOURS)


def test_a_dotted_line_marks_where_values_begin():
    log = pd.DataFrame({"step": [1, 2, 3, 4], "identity": [4.0, 3, 2, 1], "critic": [None, None, 0.5, 0.4]})
    lines = [[line.get_xdata()[0] for line in axis.lines[1:]] for axis in plots.curves(log).axes]
    assert lines == [[3], [3]]
    drawn = {axis.get_title(): list(axis.lines[0].get_ydata()[2:]) for axis in plots.curves(log).axes}
    assert drawn == {"identity": [2, 1], "critic": [0.5, 0.4]}
    assert all(len(axis.lines) == 1 for axis in plots.curves(log[["step", "identity"]]).axes)
    assert not any(axis.get_visible() for axis in plots.curves(log[["step"]]).axes)  # nothing was logged

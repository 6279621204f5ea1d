"""The book of one profile: book/_toc.yml with that profile's executed notebooks, built strictly."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jupytext
import yaml

from cdtlib.machine import ROOT, results_root

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class BookError(RuntimeError):
    """The book could not be built without a warning."""


def contents(profile: str, root: Path = ROOT) -> tuple[dict, list[str]]:
    """The table of contents for `profile`, and the pages of book/_toc.yml left out as they do not exist.

    book/_toc.yml is the contents for the profile demo. In that of another one, its own executed copies, of whatever
    pairs, and its own status page stand in their places; parts on other profiles go.
    """
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text())
    missing = []
    for part in toc["parts"]:
        pages = {}  # what stands in the contents of each
        for chapter in part["chapters"]:
            page = chapter["file"]
            own = page if profile == "demo" else _own(page, profile)
            if own is None:
                continue
            files = [*root.glob(f"{own}.md"), *root.glob(f"{own}.ipynb")]
            there = sorted(p.relative_to(root).with_suffix("").as_posix() for p in files if ".failed" not in p.name)
            for name in there:
                # In the contents of demo, the captions of parts say what a heading says (see `told_apart`)
                title = _title(root / f"{name}.ipynb") if profile == "demo" else None
                pages.setdefault(name, ({"title": title} if title else {}) | chapter | {"file": name})
            missing += [] if there or own in missing else [own]
        part["chapters"] = list(pages.values())
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    return toc, missing


def _own(page: str, profile: str) -> str | None:
    """The page of `profile` in the place of `page`, as a pattern; None if `page` shows a third profile's results."""
    if not page.startswith("results/"):
        return page
    _, of, rest = page.split("/", 2)
    notebook, _, pair = rest.partition("-")
    return f"results/{profile}/{notebook}{'-*' if pair else ''}" if of == "demo" else None


def _title(notebook: Path) -> str | None:
    """What an executed notebook is called in the contents: its heading. None for another page, which has its own."""
    if not notebook.exists():
        return None
    cells = json.loads(notebook.read_text())["cells"]
    lines = (line for cell in cells if cell["cell_type"] == "markdown" for line in "".join(cell["source"]).splitlines())
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), None)


def setup(app: "Sphinx") -> dict:
    """A Sphinx extension: `told_apart`, for every page that is an executed notebook."""
    app.connect("source-read", lambda _, page, source: source.insert(0, told_apart(page, source.pop())))
    return {"parallel_read_safe": True}


def told_apart(page: str, source: str, root: Path = ROOT) -> str:
    """The source of a page; an executed notebook's with profile and pair in its heading, without the default
    parameters where others were given, and with a note if the notebook has since got other code, or if some of its
    numbers were taken out of its metrics' file, which says so (`withdrawn`)."""
    place = re.fullmatch(r"results/([^/]+)/notebooks/([^/-]+).*", page)
    if not place:
        return source
    notebook = json.loads(source)
    cells, profile = notebook["cells"], place[1]
    values = {}
    for cell in cells:
        tags = cell["metadata"].get("tags", [])
        if {"parameters", "injected-parameters"} & set(tags):
            for line in ast.parse("".join(cell["source"])).body:
                values[line.targets[0].id] = ast.literal_eval(line.value)
    given = [cell for cell in cells if "injected-parameters" in cell["metadata"].get("tags", [])]
    for cell in cells:
        if given and "parameters" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("remove-cell")
    heading = next(cell for cell in cells if cell["cell_type"] == "markdown")
    first, *others = "".join(heading["source"]).split("\n")
    about = [profile, *([" ↔ ".join(values["pair"])] if "pair" in values else []), *values.get("changes", [])]
    about += [f"seed {values['seed']}"] if values.get("seed") else []
    if profile != "demo" or values.get("seed"):
        first += f" ({', '.join(about)})"
    path = root / "notebooks" / f"{place[2]}.py"
    if not path.exists():
        return source
    now = [cell.source.strip() for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    then = ["".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code" and cell not in given]
    if now != then:
        others = ["", ":::{note}", f"Executed with an earlier version of `notebooks/{path.name}`.", ":::", *others]
    metrics = root / "results" / profile / "metrics" / f"{page.rpartition('/')[2]}.json"
    if metrics.exists() and (withdrawn := json.loads(metrics.read_text()).get("withdrawn")):
        others = ["", ":::{warning}", withdrawn, ":::", *others]
    heading["source"] = "\n".join([first, *others])
    return json.dumps(notebook)


def build(profile: str, root: Path = ROOT) -> Path:
    """Build the book of `profile` into _build/html and return its first page. A warning is an error.

    Raises ValueError if the profile has no executed notebook or CDT_RESULTS names another folder than the book's own,
    BookError if the build fails.
    """
    if (results := results_root()).resolve() != (root / "results").resolve():
        raise ValueError(f"the book shows the project's own results, not those in {results}: unset CDT_RESULTS")
    toc, missing = contents(profile, root)
    if not any("/notebooks/" in page["file"] for part in toc["parts"] for page in part["chapters"]):
        raise ValueError(
            f"results/{profile}/notebooks holds no executed notebook. Run: make reproduce PROFILE={profile}"
        )
    for page in missing:
        print(f"Left out of the book, as it has not been run: {page}")
    out = root / "_build"
    shutil.rmtree(out, ignore_errors=True)  # a page that is not read again would not warn again
    out.mkdir()
    path = out / f"toc-{profile}.yml"
    path.write_text(yaml.safe_dump(toc, sort_keys=False, allow_unicode=True))
    strict = ["-W", "-n", "--keep-going"]
    program = "from jupyter_book.cli.main import main; main()"  # the package cannot be run with -m
    command = [sys.executable, "-c", program, "build", ".", "--toc", str(path), "--quiet", *strict]
    if subprocess.run(command, cwd=root).returncode:
        raise BookError("The book was not built; the warnings above say why.")
    return out / "html" / "index.html"

"""The book of one profile: book/_toc.yml with that profile's executed notebooks, built strictly."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from cdtlib.machine import ROOT


class BookError(RuntimeError):
    """The book could not be built without a warning."""


def contents(profile: str, root: Path = ROOT) -> tuple[dict, list[str]]:
    """The table of contents for `profile`, and the pages of book/_toc.yml left out as they do not exist.

    book/_toc.yml is the contents for the profile demo. For another one, the parts that list executed
    notebooks give way to one part with all notebooks of that profile, and the status page to its own.
    """
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text())
    if profile != "demo":
        executed = sorted((root / "results" / profile / "notebooks").glob("*.ipynb"))
        pages = [p.relative_to(root).with_suffix("").as_posix() for p in executed if ".failed" not in p.suffixes]
        parts = [part for part in toc["parts"] if not _has_notebooks(part)]
        place = next(i for i, part in enumerate(toc["parts"]) if _has_notebooks(part))
        parts.insert(place, {"caption": f"Notebooks, profile {profile}", "chapters": [{"file": p} for p in pages]})
        for part in parts:
            for page in part["chapters"]:
                page["file"] = page["file"].replace("results/demo/status", f"results/{profile}/status")
        toc["parts"] = parts
    missing = []
    for part in toc["parts"]:
        there = [page for page in part["chapters"] if any(root.glob(f"{page['file']}.*"))]
        missing += [page["file"] for page in part["chapters"] if page not in there]
        part["chapters"] = there
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    return toc, missing


def _has_notebooks(part: dict) -> bool:
    return any("/notebooks/" in page["file"] for page in part["chapters"])


def build(profile: str, root: Path = ROOT) -> Path:
    """Build the book of `profile` into _build/html and return its first page. A warning is an error.

    Raises ValueError if the profile has no executed notebook, BookError if the build fails.
    """
    toc, missing = contents(profile, root)
    if not any(_has_notebooks(part) for part in toc["parts"]):
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

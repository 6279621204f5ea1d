"""The book's pages on the library: every module stands on exactly one of them."""

import re

from cdtlib.machine import ROOT

WITHOUT = {"cdtlib.cli"}  # `cdt --help` says what the commands do
EMPTY = {"cdtlib", "cdtlib.features", "cdtlib.metrics", "cdtlib.models", "cdtlib.training"}  # a docstring, no code


def test_every_module_is_on_one_page():
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "cdtlib").rglob("*.py")]
    modules = {m.removesuffix(".__init__") for m in modules} - WITHOUT - EMPTY
    pages = [p.read_text() for p in (ROOT / "book" / "library").glob("*.md")]
    shown = [m for page in pages for m in re.findall(r"automodule:: (\S+)", page)]
    assert sorted(shown) == sorted(modules)

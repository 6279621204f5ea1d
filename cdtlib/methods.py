"""All methods of Table 2, ours and its rivals, by the names that the command line knows them by."""

from pathlib import Path

from cdtlib import saved
from cdtlib.cascade import Cascade
from cdtlib.method import CascadedTranslation
from cdtlib.rivals import TABLE_2
from cdtlib.rivals.common import Translating
from cdtlib.settings import Settings

#: Each is made from (settings, domains, root) and offers fit(), translate(images, to) and save().
METHODS = {"cascade": CascadedTranslation, **TABLE_2}


def load(folder: Path, device: str = "cpu") -> tuple[Cascade | Translating, Settings]:
    """Read what a method's `save` wrote into `folder`: something with translate(images, to), and its settings.

    Raises FileNotFoundError, DamagedFile, or ValueError if it cannot be used here.
    """
    name = saved.read(folder)[2]["method"]
    return (Cascade if name == "cascade" else TABLE_2[name]).load(folder, device)

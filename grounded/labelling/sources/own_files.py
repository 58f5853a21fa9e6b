"""Recognises what this program wrote among the images that it is given: runs, exports, results and evaluations.

A run or an export that lies below a folder of images is none of them, nor are the overlays and masks of a result. What
is named itself, as a source, is read all the same: an export may hold copies of images.
"""

import os
from dataclasses import dataclass, field

from grounded.labelling.formats import NOTE
from grounded.labelling.store.run import RECORDS, RUN_FILE

# In a folder that holds all the first names, the second ones were written by this program, and other files were not.
_RESULTS: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (frozenset({"result.json", "overlay.png", "masks"}), frozenset({"overlay.png", "masks"}), "a result"),
    (
        frozenset({"annotations.json", "overlays", "masks"}),
        frozenset({"overlays", "masks"}),
        "a download of the app",
    ),
    (
        frozenset({"evaluation.json", "evaluation.md"}),
        frozenset({"confusion.png", "reliability.png", "worst.png"}),
        "an evaluation",
    ),
)
_NOTE_MARK = b", by grounded "  # in the first line of an export's report


@dataclass
class OwnFiles:
    """Goes with a search for images, and remembers what was left out of it.

    root      absolute folder of the search
    left_out  lines that name a folder below it and what it is, in the order of the search
    """

    root: str
    left_out: list[str] = field(default_factory=list)

    def images_in(self, folder: str, names: set[str]) -> set[str] | None:
        """Return those of a folder's files and folders that this program did not write; None if it wrote them all.

        Args:
            folder: below the root, "" for the root itself, which is never left out as a whole.
            names: of everything in it.
        """
        path = os.path.join(self.root, folder)
        kind = None
        if folder and {RUN_FILE, RECORDS} <= names:
            kind = "a labelling run"
        elif folder and NOTE in names and _is_export(os.path.join(path, NOTE)):
            kind = "an export"
        if kind:
            self.left_out.append(f"{folder}: {kind}")
            return None
        for marks, written, kind in _RESULTS:
            if marks <= names and written & names:
                self.left_out.append(f"{folder or os.curdir}: {kind}")
                names = names - written
        return names

    def without(self, paths: list[str]) -> list[str]:
        """Return absolute paths below the root without those that this program wrote."""
        known: dict[str, set[str] | None] = {}

        def is_foreign(path: str) -> bool:
            if path == self.root or len(path) <= len(self.root):
                return True
            folder, name = os.path.split(path)
            if not is_foreign(folder):
                return False
            if folder not in known:
                below = os.path.relpath(folder, self.root)
                try:
                    known[folder] = self.images_in("" if below == os.curdir else below, set(os.listdir(folder)))
                except OSError:
                    known[folder] = {name}
            allowed = known[folder]
            return allowed is not None and name in allowed

        return [path for path in paths if is_foreign(path)]


def _is_export(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _NOTE_MARK in file.read(500)
    except OSError:
        return False

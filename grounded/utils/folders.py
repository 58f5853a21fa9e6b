"""Folders that are either complete or absent, and files within them that are written bit by bit."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grounded.errors import OutputError
from grounded.utils.files import explained


@contextmanager
def written_whole(folder: Path, mark: str | None = None) -> Iterator[Path]:
    """A folder that takes its place at the end of the `with` statement, when all that it holds is there.

    Yields a new folder beside it to write into. Where the body fails, also by an interrupt, nothing is left of it, and
    what lay there before stays.

    Args:
        folder: new or empty, or one that the new folder may replace.
        mark: name of a file that tells folders which may be replaced; None if none may.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # a link stays a link, to the new folder
    missing = [path for path in folder.parents if not path.exists()]
    try:
        with explained(folder):
            _check(folder, mark)
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:100]}.", suffix=".tmp"))
        try:
            place = work / "new"
            with explained(folder):
                place.mkdir()  # mkdtemp's own is private to the user
            yield place
            with explained(folder):
                _check(folder, mark)
                _exchange(folder, place, work / "old")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except BaseException:
        for path in missing:
            with suppress(OSError):  # somebody else has put something in
                path.rmdir()
        raise


def _exchange(folder: Path, new: Path, old: Path) -> None:
    """Move `folder`, if there is one, to `old`, and `new` into its place."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise


def _check(folder: Path, mark: str | None) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"the output must be a folder, got the file {folder}")
    if any(folder.iterdir()) and not (mark and (folder / mark).is_file()):
        allowed = f"new, empty, or have {mark} in it" if mark else "new or empty"
        raise OutputError(f"the output folder must be {allowed}, got {folder}")
    if os.path.ismount(folder):
        raise OutputError(f"the output cannot be {folder}, which is mounted: name a folder in it")


@contextmanager
def opened(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A new file that is written bit by bit; folders are created. Yields `write(data)`.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")

    def write(data: bytes) -> None:
        with explained(path):
            file.write(data)

    try:
        yield write
    finally:
        with explained(path):
            file.close()


def write_file(path: Path, data: bytes) -> None:
    """Write a new file; folders are created.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    with opened(path) as write:
        write(data)

"""Files that are either complete or absent, by themselves or several together."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from grounded.errors import OutputError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def write_atomically(path: str | PathLike[str], data: bytes) -> None:
    """Write `data` under a temporary name in the folder of `path`, then move it into place; folders are created.

    A reader, and a run that is killed, never sees half a file.

    Raises:
        OutputError: the file cannot be written. An older one is then left as it was.
    """
    with written_together() as write:
        write(Path(path), data)


@contextmanager
def written_together() -> Iterator[Callable[[Path, bytes], None]]:
    """Several files that take their places at the end, in the order in which they were written.

    Yields `write(path, data)`, which writes under a temporary name beside `path` and creates folders. Where the body of
    the `with` statement fails, also by an interrupt, older files are left as they were, and no new file or folder
    stays.

    Raises:
        OutputError: a file cannot be written or put in its place.
    """
    staged: list[tuple[Path, Path]] = []  # (temporary, final)
    with ExitStack() as undo:

        def write(path: Path, data: bytes) -> None:
            with explained(path):
                _make_folders(path.parent, undo)
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
                undo.callback(Path(name).unlink, missing_ok=True)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                # mkstemp files are private to the user; a result gets the mode that a plain open() would have given it.
                os.chmod(name, 0o666 & ~_umask())
            staged.append((Path(name), path))

        yield write
        for temporary, path in staged:
            with explained(path):
                os.replace(temporary, path)
        undo.pop_all()


def check_folder(folder: Path) -> None:
    """Find out whether files can be written into `folder`, by doing so; nothing is left there.

    Raises:
        OutputError: they cannot, or the folder cannot be created.
    """
    with explained(folder), ExitStack() as undo:
        _make_folders(folder, undo)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the error of a system call into an OutputError that names `path`, and no temporary file."""
    try:
        yield
    except OSError as error:
        reason = _FULL.get(error.errno or 0) or error.strerror or error
        raise OutputError(f"cannot write {path}: {reason}") from error


def json_bytes(data: Any) -> bytes:
    """Return plain dicts, lists and scalars as a JSON file. Raises ValueError for nan, which JSON does not have."""
    return f"{json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()


def _make_folders(folder: Path, undo: ExitStack) -> None:
    """Create a folder and those above it; `undo` learns to remove the new ones."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        undo.callback(_remove_folder, path)


def _remove_folder(folder: Path) -> None:
    with suppress(OSError):  # somebody else has put something in
        folder.rmdir()


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Files and folders that are either complete or absent, and the bytes of JSON and image files. For all that writes.

Every error of the operating system becomes an `OutputError` that names the file and the reason in one line.
"""

import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from grounded.errors import BusyError, OutputError

if TYPE_CHECKING:
    from PIL import Image

LOCK_FILE = ".lock"
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in the body of a `with` statement into an OutputError on `path`, not on a temporary file."""
    try:
        yield
    except OSError as error:
        reason = _FULL.get(error.errno or 0) or error.strerror or error
        raise OutputError(f"cannot write {path}: {reason}") from error


def check_folder(folder: Path) -> None:
    """Check that files can be written into `folder`, by writing one; nothing is left there.

    Raises:
        OutputError: they cannot, or the folder cannot be created.
    """
    with output_errors(folder), ExitStack() as undo:
        _make_folders(folder, undo)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder, so that no other process works in it at the same time; it is created where there is none.

    Args:
        folder: where the lock lies, as LOCK_FILE.
        doing: what the other process does there, for the message: "works in".

    Raises:
        BusyError: another process holds it.
        OutputError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # when it is used, so that --help is fast

    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another process {doing} {folder}") from error
    try:
        yield
    finally:
        lock.release()


def json_bytes(data: Any) -> bytes:
    """Return plain dicts, lists and scalars as a JSON file. Raises ValueError for nan, which JSON does not have."""
    return f"{json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()


def image_bytes(image: "Image.Image", format: str = "PNG", **options: Any) -> bytes:
    """Return an image as the contents of a file; `options` are Pillow's for the format: `quality=85` of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


# ---- A file or several that replace older ones ----


def write_atomically(path: str | PathLike[str], data: bytes) -> None:
    """Write `data` under a temporary name in the folder of `path`, then move it into place; folders are created.

    A reader never sees half a file, not even after the process was killed.

    Raises:
        OutputError: the file cannot be written. An older one is then left as it was.
    """
    with atomic_files() as write:
        write(Path(path), data)


@contextmanager
def atomic_files() -> Iterator[Callable[[Path, bytes], None]]:
    """Write several files, which take their places together at the end, in the order in which they were written.

    Yields `write(path, data)`, which writes under a temporary name beside `path` and creates folders. Where the body of
    the `with` statement fails, also by an interrupt, older files are left as they were, and no new file or folder
    stays.

    Raises:
        OutputError: a file cannot be written or put in its place.
    """
    staged: list[tuple[Path, Path]] = []  # (temporary, final)
    with ExitStack() as undo:

        def write(path: Path, data: bytes) -> None:
            with output_errors(path):
                _make_folders(path.parent, undo)
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path), suffix=".tmp")
                undo.callback(Path(name).unlink, missing_ok=True)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                set_usual_mode(Path(name))  # mkstemp files are private to the user
            staged.append((Path(name), path))

        yield write
        for temporary, path in staged:
            with output_errors(path):
                os.replace(temporary, path)
        undo.pop_all()


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written bit by bit, which takes its place at the end of the `with` statement.

    Folders are created. Where the body fails, also by an interrupt, an older file is left as it was, and no new file or
    folder stays. What the body writes it does within `output_errors(path)`.

    Raises:
        OutputError: the file cannot be created, written to its end or put in its place.
    """
    with ExitStack() as undo:
        with output_errors(path):
            _make_folders(path.parent, undo)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path), suffix=".tmp")
            undo.callback(Path(name).unlink, missing_ok=True)
            file = os.fdopen(handle, "wb")
        try:
            yield file
        except BaseException:
            with suppress(OSError):  # what could not be written before cannot be written now
                file.close()
            raise
        with output_errors(path):
            file.close()
            set_usual_mode(Path(name))
            os.replace(name, path)
        undo.pop_all()


# ---- A folder that replaces an older one, and the new files in it ----


@contextmanager
def atomic_folder(folder: Path, mark: str | None = None) -> Iterator[Path]:
    """Write a folder that takes its place at the end of the `with` statement, when it is complete.

    Yields a new folder beside it to write into. Where the body fails, also by an interrupt, nothing is left of it, and
    an older folder stays as it was.

    Args:
        folder: new or empty, or an older one that may be replaced.
        mark: name of a file by which a folder that may be replaced is recognised; None if none may.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # a link stays a link, to the new folder
    new_parents = [path for path in folder.parents if not path.exists()]
    try:
        with output_errors(folder):
            _check_replaceable(folder, mark)
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_temporary_prefix(folder), suffix=".tmp"))
        try:
            new = work / "new"
            with output_errors(folder):
                new.mkdir()  # mkdtemp's own is private to the user
            yield new
            with output_errors(folder):
                _check_replaceable(folder, mark)
                _exchange_folders(folder, new, work / "old")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except BaseException:
        for path in new_parents:
            _remove_if_empty(path)
        raise


@contextmanager
def open_new(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Open a new file to be written bit by bit; folders are created. Yields `write(data)`.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")

    def write(data: bytes) -> None:
        with output_errors(path):
            file.write(data)

    try:
        yield write
    finally:
        with output_errors(path):
            file.close()


def write_new(path: Path, data: bytes) -> None:
    """Write a new file; folders are created.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    with open_new(path) as write:
        write(data)


def _check_replaceable(folder: Path, mark: str | None) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"the output must be a folder, got the file {folder}")
    if any(folder.iterdir()) and not (mark and (folder / mark).is_file()):
        allowed = f"new, empty, or have {mark} in it" if mark else "new or empty"
        raise OutputError(f"the output folder must be {allowed}, got {folder}")
    if os.path.ismount(folder):
        raise OutputError(f"the output cannot be {folder}, which is mounted: name a folder in it")


def _exchange_folders(folder: Path, new: Path, old: Path) -> None:
    """Move `folder`, if there is one, to `old`, and `new` into its place; what stops that half way is undone."""
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    except BaseException:  # Ctrl-C, too
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise


def _make_folders(folder: Path, undo: ExitStack) -> None:
    """Create a folder and those above it; unwinding `undo` removes the new ones."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        undo.callback(_remove_if_empty, path)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # somebody else has put something in
        folder.rmdir()


def _temporary_prefix(path: Path) -> str:
    return f".{cut_name(path.name, 100)}."  # hidden, and short enough for every file system


def cut_name(name: str, length: int) -> str:
    """Cut a file name to so many bytes, which file systems count, without cutting through a character."""
    return os.fsencode(name)[:length].decode(errors="ignore") if len(os.fsencode(name)) > length else name


def set_usual_mode(path: Path) -> None:
    """Give a file the mode that a plain open() would have given it, where a library made it private to the user."""
    os.chmod(path, 0o666 & ~_umask())


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Items of sources, which are images that have not been read yet, and the protocol of all sources."""

import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from grounded.errors import ImageError

# Pillow recognises these, and cannot decode them: it has no decoder, or would start another program.
_NOT_DECODED = {"EPS", "MPEG", "BUFR", "GRIB", "HDF5", "WMF"}


@dataclass(frozen=True)
class Item:
    """An image by name; `read` returns the bytes of its file, and raises ImageError or OSError."""

    file: str
    read: Callable[[], bytes]


@runtime_checkable
class Source(Protocol):
    """Images, one after the other and always in the same order, or by name."""

    @property
    def spec(self) -> str:
        """Absolute text from which `open_source` opens the same source."""
        ...

    def items(self) -> Iterator[Item]:
        """Yield every image once; except in compressed TARs, nothing is read before an item's `read` is called."""
        ...

    def get(self, file: str) -> bytes:
        """Return the bytes of the image of that name.

        Raises:
            ImageError: the source has no such image, or it cannot be read.
        """
        ...

    def count(self) -> int | None:
        """Return the number of images, or None if counting would take long."""
        ...


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of files that Pillow decodes, in lower case with their dot."""
    Image.init()
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in _NOT_DECODED)


def is_image(name: str) -> bool:
    """Whether a file name has the suffix of an image, in upper or lower case, and is not hidden."""
    base = posixpath.basename(name)
    return not base.startswith(".") and posixpath.splitext(base)[1].lower() in image_suffixes()


def path_to_name(path: str) -> str:
    """Turn a path of the system into a name: `/` between folders, backslash escapes for bytes that are not UTF-8."""
    return os.fsencode(path.replace(os.sep, "/")).decode("utf-8", "backslashreplace")


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ImageError: there is no such file, it cannot be read, or it is not a regular file: a pipe could block for ever.
    """
    try:
        if not os.path.isfile(path):
            raise ImageError("no such image" if not os.path.exists(path) else "not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error

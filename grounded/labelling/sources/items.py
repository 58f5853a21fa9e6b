"""Items of sources, which are images that have not been read yet, and the protocol of all sources."""

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from PIL import Image

from grounded.errors import ImageError
from grounded.labelling.sources.clips import ClipPlace
from segany.utils.addresses import address_name, is_address, read_address
from segany.utils.image_formats import FOREIGN_SUFFIXES, register_plugins

# Pillow recognises these, and cannot decode them: it has no decoder, or would start another program.
_NOT_DECODED = {"EPS", "MPEG", "BUFR", "GRIB", "HDF5", "WMF"}


@dataclass(frozen=True)
class Item:
    """An image or clip by name; `read` returns the bytes of its file, and raises ImageError or OSError."""

    file: str
    read: Callable[[], bytes]
    address: str | None = None  # where it is fetched from, http or https
    clip: ClipPlace | None = None  # where its frames are, if it is a clip


@runtime_checkable
class Source(Protocol):
    """Images and clips, one after the other and always in the same order, or by name."""

    @property
    def spec(self) -> str:
        """Absolute text from which `open_source` opens the same source."""
        ...

    def items(self) -> Iterator[Item]:
        """Yield every image and clip once; except in compressed TARs, nothing is read before `Item.read` is called."""
        ...

    def get(self, file: str) -> bytes:
        """Return the bytes of the image of that name.

        Raises:
            ImageError: the source has no such image, or it cannot be read.
        """
        ...

    def count(self) -> int | None:
        """Return the number of items, or None if counting would take long."""
        ...


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of files that Pillow decodes, in lower case with their dot."""
    register_plugins()
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in _NOT_DECODED)


def is_image(name: str) -> bool:
    """Whether a file name has the suffix of an image, in upper or lower case, and is not hidden.

    Images that cannot be read are among them, so that they are not passed over: HEIC without its package, camera raws.
    """
    base = posixpath.basename(name)
    suffix = posixpath.splitext(base)[1].lower()
    return not base.startswith(".") and (suffix in image_suffixes() or suffix in FOREIGN_SUFFIXES)


def path_to_name(path: str) -> str:
    """Turn a path of the system into a name: `/` between folders, backslash escapes for bytes that are not UTF-8."""
    return os.fsencode(path.replace(os.sep, "/")).decode("utf-8", "backslashreplace")


def address_to_name(address: str) -> str:
    """Turn an address into a name, host and path without the query: "host/a b/c.jpg" of http://host/a%20b/c.jpg?x=1."""
    parts = urlsplit(address)
    folders = [unquote(part, errors="replace").replace("/", "_") for part in parts.path.split("/")[:-1]]
    kept = (part for part in (parts.hostname or "", *folders) if part not in ("", ".", ".."))
    return "/".join([*kept, address_name(address)])


def with_digest(name: str, address: str) -> str:
    """Tell addresses apart whose names are equal: "host/image-1f0c52aa.jpg"."""
    stem, suffix = posixpath.splitext(name)
    return f"{stem}-{hashlib.sha256(address.encode()).hexdigest()[:8]}{suffix}"


def read_place(place: str) -> bytes:
    """Return the bytes of a file, or of what an http or https address leads to. Raises ImageError."""
    return read_address(place) if is_address(place) else read_file(place)


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

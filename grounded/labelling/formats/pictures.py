"""File names of pictures and of what belongs to them, and upright copies of the pictures."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageOps

from grounded.errors import ImageError
from grounded.labelling.records import ImageInfo
from grounded.utils.folders import write_file

# Formats in which a picture that has been turned can be stored again. Others become PNG.
_WRITABLE = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
_JPEG_MODES = ("L", "RGB", "CMYK")


class Names:
    """Gives every picture a name, and a stem for what belongs to it, that no other picture has.

    Folders are kept: a/b.jpg is a/b.jpg, with the stem a/b. Of a/b.jpg and a/b.png the second gets the stem a/b-2.
    Parts that lead out of a folder, "/" in front and "..", become harmless.
    """

    def __init__(self, lost: Counter[str]) -> None:
        self._lost = lost
        self._taken: set[str] = set()

    def name(self, image: ImageInfo) -> str:
        """The name of the picture's copy, with "/" between folders."""
        path = PurePosixPath(within(image.file))
        return self._unique(path.with_name(path.stem + suffix(image)))

    def stem(self, image: ImageInfo) -> str:
        """The name of the picture without its extension."""
        path = PurePosixPath(within(image.file)).with_suffix("")
        stem = self._unique(path)
        self._lost["pictures renamed, as another one's name differs by the extension alone"] += stem != str(path)
        return stem

    def _unique(self, path: PurePosixPath) -> str:
        name, number = str(path), 2
        while name in self._taken:
            name, number = str(path.with_name(f"{path.stem}-{number}{path.suffix}")), number + 1
        self._taken.add(name)
        return name


def within(file: str) -> str:
    """Return the name of a file as one that lies within a folder: "/data/../b.jpg" as "data/_/b.jpg"."""
    parts = ["_" if part == ".." else part for part in file.replace("\0", "_").split("/") if part not in ("", ".")]
    return "/".join(parts) or "_"


def suffix(image: ImageInfo) -> str:
    """Return the extension of the picture's copy, ".jpg" with its dot; "" where there is none."""
    stored = PurePosixPath(within(image.file)).suffix
    is_writable = image.orientation == 1 or stored.lower() in _WRITABLE
    return stored if is_writable else f"{stored}.png"


def save(path: Path, image: ImageInfo, images: Callable[[str], bytes], lost: Counter[str]) -> None:
    """Write a copy of a picture: the same bytes, or where it has an EXIF orientation, one that is turned upright.

    A picture that has changed since it was labelled is copied nevertheless, and counted among what is lost.

    Args:
        path: of the copy, with the extension that `suffix` tells.
        image: which.
        images: returns the bytes of a picture by its `file`.
        lost: is added to.

    Raises:
        ImageError: the picture cannot be read, or not be turned upright.
        OutputError: the copy cannot be written.
    """
    try:
        data = images(image.file)
    except ImageError as error:
        raise ImageError(f"cannot copy {image.file}: {error}") from error
    if image.sha256 is not None and hashlib.sha256(data).hexdigest() != image.sha256:
        lost["pictures that have changed since they were labelled"] += 1
    write_file(path, data if image.orientation == 1 else _upright(data, image.file, path.suffix))


def _upright(data: bytes, file: str, extension: str) -> bytes:
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as stored:
            turned = ImageOps.exif_transpose(stored)
        kind = _WRITABLE[extension.lower()]
        if kind == "JPEG" and turned.mode not in _JPEG_MODES:
            turned = turned.convert("RGB")
        turned.save(buffer, format=kind, icc_profile=turned.info.get("icc_profile"), **_OPTIONS.get(kind, {}))
    except Exception as error:  # damaged data make Pillow's decoders raise nearly anything
        raise ImageError(f"cannot turn {file} upright: {error or type(error).__name__}") from error
    return buffer.getvalue()

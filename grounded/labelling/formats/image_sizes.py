"""Sizes of images that a file of annotations states, and images that lie beside it. For all readers."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import ExifTags, Image

from grounded.data.image import MAX_PIXELS
from grounded.errors import MaskError, ResultError
from grounded.labelling.sources.items import is_image
from segany.utils.polygons import check_size


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """Return the size that a file states, as (height, width) in pixels; None where it states none.

    Nothing is allocated by what a file says before it has been through here.

    Raises:
        ResultError: no image is so large.
    """
    try:
        size = check_size((height, 1))[0], check_size((1, width))[1]
    except MaskError:
        return None
    if size[0] * size[1] > MAX_PIXELS:
        raise ResultError(f"an image must have up to {MAX_PIXELS / 1e6:.4g} megapixels, got {width} x {height} pixels")
    return size


def size_of_first(paths: Iterable[Path]) -> tuple[int, int] | None:
    """Return (height, width) of the first of some paths that is an image; None where none is."""
    return next(filter(None, map(upright_size, paths)), None)


def upright_size(file: Path | io.BytesIO) -> tuple[int, int] | None:
    """Return (height, width) of an image, its EXIF orientation applied, from its header; None where it is no image."""
    try:
        if isinstance(file, Path) and not file.is_file():  # opening a pipe could block forever
            return None
        with Image.open(file) as image:
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            size = image.size if is_turned else image.size[::-1]
    except Exception:  # damaged files make Pillow raise nearly anything
        return None
    return stated_size(*size)


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the images in a folder by their names without extension; none where there is no folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_image(path.name) and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return found

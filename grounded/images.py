"""Images on entry: a path, a PIL image or an array becomes an upright RGB image, once."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from grounded.errors import ImageError

ImageLike: TypeAlias = str | PathLike[str] | Image.Image | np.ndarray

# Pillow clips these to 8 bits when it converts them, which turns most 16-bit pictures white without a word.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class SourceImage:
    """An upright RGB image, and what is known of where it came from.

    `orientation` is the EXIF orientation (1 to 8, 1 = as stored) that was applied on opening: boxes and masks are in
    the frame of `pixels`, which for 5 to 8 has the stored width and height swapped.
    """

    pixels: Image.Image
    path: Path | None = None
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.height, self.pixels.width


def open_image(source: ImageLike | SourceImage) -> SourceImage:
    """Read `source`, apply its EXIF orientation and convert it to RGB. A `SourceImage` is returned as it is.

    Args:
        source: a path, a PIL image, or a uint8 RGB array (h, w, 3).

    Raises:
        ImageError: the file is missing or not a readable image, or the array is of another shape or dtype.
    """
    if isinstance(source, SourceImage):
        return source
    if isinstance(source, np.ndarray):
        return SourceImage(_from_array(source))
    if isinstance(source, Image.Image):
        return _upright_rgb(source, path=None)
    if isinstance(source, (str, PathLike)):
        return _from_file(Path(source))
    raise ImageError(f"an image must be a path, a PIL image or a uint8 array (h, w, 3), got {type(source).__name__}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ImageError(f"an image array must be uint8 (h, w, 3), got {array.dtype} {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))


def _from_file(path: Path) -> SourceImage:
    try:
        with Image.open(path) as image:
            return _upright_rgb(image, path)
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image in a known format") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to open safely: {error}") from None
    except OSError as error:  # a folder, no permission, a truncated file
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error


def _upright_rgb(image: Image.Image, path: Path | None) -> SourceImage:
    name = "the image" if path is None else str(path)
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {image.width} x {image.height} pixels")
    if image.mode in _DEEP_MODES:
        raise ImageError(f"{name} must have 8 bits per channel, got mode {image.mode!r}")
    try:
        stored = image.getexif().get(ExifTags.Base.Orientation, 1)
        orientation = stored if stored in range(1, 9) else 1
        upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise for damaged data
        raise ImageError(f"cannot read {name}: {error}") from error
    return SourceImage(upright, path, orientation)

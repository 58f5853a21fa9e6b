"""Pictures of every kind -> upright 8-bit RGB: files, PIL images and arrays, in every mode that Pillow reads.

Grey, palette, CMYK, YCbCr, LAB and HSV pictures are converted, and transparent pixels are shown on white. Pillow would
clip deeper pixels, which turns most such pictures white; here

- 16-bit grey keeps its upper 8 bits, as 16-bit colour does in Pillow: 0 to 65535 become 0 to 255;
- 32-bit integers (mode "I") and floats ("F") state no range. Values that lie in 0 to 255 are kept, floats that lie in
  0 to 1 are multiplied by 255, and any others are stretched, so that the lowest becomes 0 and the highest 255.
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from segany.errors import ImageError

ImageLike = Image.Image | np.ndarray | str | os.PathLike[str] | bytes

# 600 MB as RGB. A small file may claim any size, and is believed when it is decoded.
MAX_PIXELS = 200_000_000

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# Formats of at most 16 bits, for which some versions of Pillow use mode "I".
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
# Ghostscript would be started on the file.
_REFUSED_FORMATS = ("EPS",)
# What follows the first picture are previews, depth maps and layers, not frames.
_FORMATS_WITHOUT_FRAMES = ("MPO", "PSD")


@dataclass(frozen=True)
class Picture:
    """Upright RGB `pixels`, the EXIF `orientation` (1 to 8) that was applied, and `notes` on what was left out."""

    pixels: Image.Image
    orientation: int = 1
    notes: tuple[str, ...] = ()


def read(source: ImageLike, max_pixels: int | None = MAX_PIXELS) -> Picture:
    """Read a picture and make it upright RGB.

    Args:
        source: a path, the bytes of an image file, a PIL image, or a uint8 array: (h, w) grey, (h, w, 3) RGB or
            (h, w, 4) RGBA. A plain PIL image that is upright RGB already is taken without a copy.
        max_pixels: largest file to decode, by the size that its header states; None for no limit. Arrays and PIL
            images without a file are in memory already, and have no limit. Pillow's own limit is not looked at.

    Raises:
        ImageError: the file is missing, damaged, too large or not an image, or the array is of another shape or dtype.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the image", max_pixels)
    if isinstance(source, bytes):
        return _from_pil(_identify(io.BytesIO(source), "the file"), "the file", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        with _open_file(Path(source)) as file:
            return _from_pil(_identify(file, str(source)), str(source), max_pixels)
    raise ImageError(f"an image must be a path, bytes, a PIL image or a uint8 array, got {type(source).__name__}")


def _from_array(array: np.ndarray) -> Picture:
    well_shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not well_shaped or array.size == 0:
        hint = "" if array.dtype == np.uint8 else ": scale it to 0..255 and convert it"
        expected = "uint8 (h, w), (h, w, 3) or (h, w, 4)"
        raise ImageError(f"an image array must be {expected}, got {array.dtype} {array.shape}{hint}")
    pixels, notes = _to_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return Picture(pixels, notes=notes)


def _open_file(path: Path) -> io.BufferedReader:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("not a regular file")  # a pipe might never answer
        return path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except OSError as error:  # a folder, no permission
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the name
        raise ImageError(f"cannot read {path}: {error}") from error


def _identify(file: io.BufferedReader | io.BytesIO, name: str) -> Image.Image:
    """Find the format and read the header. Like `Image.open`, but without its limit, which is global and below ours."""
    Image.preinit()  # the common formats are to be tried first
    Image.init()
    prefix = file.read(16)
    for file_format in Image.ID:
        if file_format in _REFUSED_FORMATS:
            continue
        factory, accept = Image.OPEN[file_format]
        with _reporting_damage(name):
            try:
                verdict = accept is None or accept(prefix)
                if verdict and not isinstance(verdict, str):  # a text says why Pillow as installed cannot read it
                    file.seek(0)
                    return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # it only began like that format
    raise ImageError(f"{name} is not an image in a known format")


def _from_pil(image: Image.Image, name: str, max_pixels: int | None) -> Picture:
    width, height = image.size
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if max_pixels is not None and width * height > max_pixels and isinstance(image, ImageFile.ImageFile):
        size = f"{width} x {height} pixels, {width * height / 1e6:.4g} megapixels"
        raise ImageError(f"{name} is too large: {size}, and the limit is {max_pixels / 1e6:.4g}")
    with _reporting_damage(name):
        # Pillow turns TIFF files upright when it loads them, and states no orientation any more.
        turned = _orientation(image) if image.format == "TIFF" else 1
        image.load()
        orientation = _orientation(image)
        upright = ImageOps.exif_transpose(image) if orientation != 1 else image
        pixels, notes = _to_rgb(upright, image.format)
    return Picture(pixels, max(turned, orientation), (*_frame_notes(image), *notes))


@contextmanager
def _reporting_damage(name: str) -> Iterator[None]:
    """Damaged data make Pillow's decoders raise nearly anything; what comes out is an ImageError."""
    try:
        yield
    except Image.DecompressionBombError as error:  # some formats ask Pillow's own limit again
        raise ImageError(f"{name} is too large: {error}") from error
    except Exception as error:
        raise ImageError(f"cannot read {name}: {error or type(error).__name__}") from error


def _orientation(image: Image.Image) -> int:
    try:
        stored = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data, beside pixels that may be sound
        return 1
    return stored if stored in range(1, 9) else 1


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    try:
        frames, shown = int(getattr(image, "n_frames", 1)), image.tell()
    except Exception:  # frames that are never shown may be damaged
        return ()
    if frames < 2 or image.format in _FORMATS_WITHOUT_FRAMES:
        return ()
    kind, unit = ("several pages", "page") if image.format == "TIFF" else ("animated", "frame")
    return (f"{kind}: {'the first' if shown == 0 else f'{unit} {shown + 1}'} of {frames} {unit}s is used",)


def _to_rgb(image: Image.Image, file_format: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert a loaded image of any mode, and state what was lost."""
    if image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and file_format in _SIXTEEN_BIT_FORMATS):
        return _grey(np.asarray(image) >> 8), ("16 bits per pixel: the upper 8 are used",)
    if image.mode in ("I", "F"):
        return _stretched(image)
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode == "RGB":
        return (image if type(image) is Image.Image else image.copy()), ()  # a copy lets go of the file
    return image.convert("RGB"), ()


def _stretched(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    values = np.asarray(image, np.float32)
    finite = np.isfinite(values)
    low, high = (float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf)))
    if low > high:
        low = high = 0.0  # not one value is finite
    notes: tuple[str, ...] = ()
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    else:
        notes = (f"values from {low:g} to {high:g} are stretched to 0..255",)
    with np.errstate(over="ignore", invalid="ignore"):
        values = (values - np.float32(low)) * np.float32(255 / (high - low) if high > low else 0)
    return _grey(np.nan_to_num(values, nan=0, posinf=255, neginf=0).clip(0, 255).round()), notes


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that it converts to
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba)
    opaque = rgba.getchannel("A").getextrema() == (255, 255)
    return canvas, () if opaque else ("transparent pixels are shown on white",)

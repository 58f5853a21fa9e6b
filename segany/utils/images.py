"""Read images as upright 8-bit RGB: files, PIL images and arrays, in every mode that Pillow supports.

Grey, palette, CMYK, YCbCr, LAB and HSV images are converted, and transparent pixels are composited on white. Pillow
clips pixels of more than 8 bits, which turns most such images white. Here

- 16-bit grey keeps its upper 8 bits, as 16-bit colour does in Pillow: 0 to 65535 become 0 to 255;
- 32-bit integers (mode "I") and floats ("F") have no defined range. If all values lie in 0 to 255 they are kept, floats
  in 0 to 1 are multiplied by 255, and others are stretched so that the lowest becomes 0 and the highest 255.
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

# 600 MB as RGB. The header of even a small file can state any size, and decoding allocates that much memory.
MAX_PIXELS = 200_000_000

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# Formats of at most 16 bits that some versions of Pillow open in mode "I".
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
# Pillow would run Ghostscript on the file.
_REFUSED_FORMATS = ("EPS",)
# Their further images are previews, depth maps and layers, not frames.
_FORMATS_WITHOUT_FRAMES = ("MPO", "PSD")


@dataclass(frozen=True)
class LoadedImage:
    """An image as `read_image` returns it.

    pixels       upright, RGB
    orientation  the EXIF orientation (1 to 8) that was applied
    notes        lines for the user on lost content, such as frames that are not used
    """

    pixels: Image.Image
    orientation: int = 1
    notes: tuple[str, ...] = ()


def read_image(source: ImageLike, max_pixels: int | None = MAX_PIXELS) -> LoadedImage:
    """Read an image and convert it to upright RGB.

    Args:
        source: a path, the bytes of an image file, a PIL image, or a uint8 array: (h, w) grey, (h, w, 3) RGB or
            (h, w, 4) RGBA. A plain PIL image that is already upright RGB is used without a copy.
        max_pixels: largest file to decode, by the size in its header; None for no limit. Arrays and PIL images without
            a file are already in memory and have no limit. Pillow's own limit is not used.

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


def _from_array(array: np.ndarray) -> LoadedImage:
    well_shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not well_shaped or array.size == 0:
        hint = "" if array.dtype == np.uint8 else ": scale it to 0..255 and convert it"
        expected = "uint8 (h, w), (h, w, 3) or (h, w, 4)"
        raise ImageError(f"an image array must be {expected}, got {array.dtype} {array.shape}{hint}")
    pixels, notes = _to_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return LoadedImage(pixels, notes=notes)


def _open_file(path: Path) -> io.BufferedReader:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("not a regular file")  # opening a pipe could block forever
        return path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except OSError as error:  # a folder, no permission
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the name
        raise ImageError(f"cannot read {path}: {error}") from error


def _identify(file: io.BufferedReader | io.BytesIO, name: str) -> Image.Image:
    """Find the format and read the header, like `Image.open` but without its limit, which is global and lower."""
    Image.preinit()  # registers the common formats first, so they are tried first
    Image.init()
    prefix = file.read(16)
    for file_format in Image.ID:
        if file_format in _REFUSED_FORMATS:
            continue
        factory, accept = Image.OPEN[file_format]
        with _reporting_damage(name):
            try:
                accepted = accept is None or accept(prefix)
                if accepted and not isinstance(accepted, str):  # a string says why this build of Pillow cannot read it
                    file.seek(0)
                    return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # only the first bytes looked like that format
    raise ImageError(f"{name} is not an image in a known format")


def _from_pil(image: Image.Image, name: str, max_pixels: int | None) -> LoadedImage:
    width, height = image.size
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if max_pixels is not None and width * height > max_pixels and isinstance(image, ImageFile.ImageFile):
        size = f"{width} x {height} pixels, {width * height / 1e6:.4g} megapixels"
        raise ImageError(f"{name} is too large: {size}, and the limit is {max_pixels / 1e6:.4g}")
    with _reporting_damage(name):
        # Pillow rotates TIFF files when it loads them, and then reports no orientation.
        rotated_by_pillow = _orientation(image) if image.format == "TIFF" else 1
        image.load()
        orientation = _orientation(image)
        upright = ImageOps.exif_transpose(image) if orientation != 1 else image
        pixels, notes = _to_rgb(upright, image.format)
    return LoadedImage(pixels, max(rotated_by_pillow, orientation), (*_frame_notes(image), *notes))


@contextmanager
def _reporting_damage(name: str) -> Iterator[None]:
    """Raise ImageError for any error inside: damaged files make Pillow's decoders raise nearly every type."""
    try:
        yield
    except Image.DecompressionBombError as error:  # some formats check Pillow's own limit again
        raise ImageError(f"{name} is too large: {error}") from error
    except Exception as error:
        raise ImageError(f"cannot read {name}: {error or type(error).__name__}") from error


def _orientation(image: Image.Image) -> int:
    try:
        stored = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data; the pixels may be intact
        return 1
    return stored if stored in range(1, 9) else 1


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    try:
        frames, current = int(getattr(image, "n_frames", 1)), image.tell()
    except Exception:  # later frames may be damaged
        return ()
    if frames < 2 or image.format in _FORMATS_WITHOUT_FRAMES:
        return ()
    kind, unit = ("several pages", "page") if image.format == "TIFF" else ("animated", "frame")
    return (f"{kind}: {'the first' if current == 0 else f'{unit} {current + 1}'} of {frames} {unit}s is used",)


def _to_rgb(image: Image.Image, file_format: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert a loaded image of any mode to RGB, with notes on lost information."""
    if image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and file_format in _SIXTEEN_BIT_FORMATS):
        return _grey(np.asarray(image) >> 8), ("16 bits per pixel: the upper 8 are used",)
    if image.mode in ("I", "F"):
        return _stretched(image)
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode == "RGB":
        return (image if type(image) is Image.Image else image.copy()), ()  # the copy does not keep the file open
    return image.convert("RGB"), ()


def _stretched(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    values = np.asarray(image, np.float32)
    finite = np.isfinite(values)
    low, high = (float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf)))
    if low > high:
        low = high = 0.0  # no value is finite
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
        image = image.convert("LA")  # Pillow converts it to no other mode
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba)
    opaque = rgba.getchannel("A").getextrema() == (255, 255)
    return canvas, () if opaque else ("transparent pixels are shown on white",)

"""Read images as upright 8-bit RGB: files, addresses, PIL images, arrays and tensors, whatever their mode or layout.

Grey, palette, CMYK, YCbCr, LAB and HSV images are converted, and transparent pixels are composited on white. Pillow
clips pixels of more than 8 bits, which turns most such images white or black; `bit_depth` tells what is done here.
"""

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torchvision
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from segany.errors import ImageError
from segany.utils.addresses import is_address, locate, read_address, shown_address
from segany.utils.arrays import image_from_array
from segany.utils.bit_depth import from_16_bits, from_raster, stretch_upper_bits
from segany.utils.image_formats import describe_file, is_camera_raw, is_preview, raw_reason, register_plugins


@runtime_checkable
class BinaryFile(Protocol):
    """An open file, `io.BytesIO`, or anything else with a `read` that returns bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


ImageLike = (
    Image.Image | np.ndarray | torch.Tensor | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile
)

# 600 MB as RGB. The header of even a small file can state any size, and decoding allocates that much memory.
MAX_PIXELS = 200_000_000

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# Formats of at most 16 bits that some versions of Pillow open in mode "I".
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
# Pillow would run Ghostscript on the file.
_REFUSED_FORMATS = ("EPS",)
# Their further images are previews, depth maps and layers, not frames.
_FORMATS_WITHOUT_FRAMES = ("MPO", "PSD")
_GDAL_NODATA = 42113  # tag of TIFF: the value of pixels without one, as text


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


def read_image(source: ImageLike, max_pixels: int | None = MAX_PIXELS, *, allow_addresses: bool = True) -> LoadedImage:
    """Read an image and convert it to upright RGB.

    Args:
        source: one image, as
            a path, in which a leading `~` is the home folder;
            an http://, https://, file:// or data: address, see `segany.utils.addresses` for its limits;
            the bytes of an image file, or an open binary file, which is read from its beginning if it can be;
            a PIL image, used without a copy if it is plain, upright and RGB;
            an array or a tensor, (h, w), (h, w, c) or (c, h, w) with 1, 3 or 4 channels, of uint8, uint16, bool or
            floats in 0..1. Where the last axis can hold the channels it does, see `segany.utils.arrays`.
        max_pixels: largest file to decode, by the size in its header; None for no limit. Arrays and PIL images without
            a file are already in memory and have no limit. Pillow's own limit is not used.
        allow_addresses: False takes text for the path of a file and nothing else, for text that a stranger wrote.

    Raises:
        ImageError: the file is missing, damaged, too large or not an image, the address cannot be fetched, or the
            array is of another shape, dtype or range.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        image, notes = image_from_array(source)
        pixels, more = _to_rgb(image)
        return LoadedImage(pixels, notes=(*notes, *more))
    if isinstance(source, Image.Image):
        return _from_pil(source, "the image", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), "the file", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_place(source, max_pixels, allow_addresses)
    if callable(getattr(source, "read", None)):
        return _from_bytes(*_read_all(source), max_pixels)
    kinds = "a path, an address, bytes, an open binary file, a PIL image, an array or a tensor"
    raise ImageError(f"an image must be {kinds}, got {type(source).__name__}")


def _from_place(source: str | os.PathLike[str], max_pixels: int | None, allow_addresses: bool) -> LoadedImage:
    if allow_addresses:
        place = locate(source)
        if isinstance(place, str):
            return _from_bytes(read_address(place), shown_address(place), max_pixels)
    elif is_address(os.fspath(source)):
        raise ImageError(f"addresses are not fetched here, got {shown_address(os.fspath(source))}: give the file")
    else:
        place = Path(source)
    with _open_file(place) as file:
        return _from_pil(_identify(file, str(place)), str(place), max_pixels)


def _from_bytes(data: bytes, name: str, max_pixels: int | None) -> LoadedImage:
    return _from_pil(_identify(io.BytesIO(data), name), name, max_pixels)


def _read_all(file: BinaryFile) -> tuple[bytes, str]:
    """The whole contents of an open file, and its name; the position in it is left as it was."""
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "the file"
    try:
        position = None
        with suppress(AttributeError, OSError):  # a pipe, or a download: read from where it is
            position = file.tell()  # type: ignore[attr-defined]
            file.seek(0)  # type: ignore[attr-defined]  # after writing, a buffer stands at its end
        data = file.read()
        if position is not None:
            file.seek(position)  # type: ignore[attr-defined]
    except Exception as error:  # closed, or anything that an object with this method may raise
        raise ImageError(f"cannot read {name}: {error or type(error).__name__}") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"cannot read {name}: it must be open in binary mode, as by open(path, 'rb')")
    return bytes(data), name


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
    register_plugins()
    prefix = file.read(16)
    if is_camera_raw(prefix):
        raise ImageError(f"{name} {raw_reason()}")
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
    file.seek(0)
    raise ImageError(f"{name} {describe_file(file.read(512))}")


def _from_pil(image: Image.Image, name: str, max_pixels: int | None) -> LoadedImage:
    width, height = image.size
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if max_pixels is not None and width * height > max_pixels and isinstance(image, ImageFile.ImageFile):
        size = f"{width} x {height} pixels, {width * height / 1e6:.4g} megapixels"
        raise ImageError(f"{name} is too large: {size}, and the limit is {max_pixels / 1e6:.4g}")
    with _reporting_damage(name):
        if is_preview(image):
            raise ImageError(f"{name} {raw_reason()}")
        # Pillow rotates TIFF files when it loads them, and then reports no orientation.
        rotated_by_pillow = _orientation(image) if image.format == "TIFF" else 1
        is_deep = _is_deep_colour(image)
        png = _png_file(image) if is_deep else None
        image.load()
        orientation, nodata = _orientation(image), _nodata(image)
        stored, depth_notes = _read_deep_colours(image, png) if is_deep else (image, ())
        upright = ImageOps.exif_transpose(stored) if orientation != 1 else stored
        pixels, notes = _to_rgb(upright, image.format, nodata)
    return LoadedImage(pixels, max(rotated_by_pillow, orientation), (*_frame_notes(image), *depth_notes, *notes))


@contextmanager
def _reporting_damage(name: str) -> Iterator[None]:
    """Raise ImageError for any error inside: damaged files make Pillow's decoders raise nearly every type."""
    try:
        yield
    except ImageError:
        raise
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


def _nodata(image: Image.Image) -> float | None:
    """The value that a GeoTIFF gives to pixels without one."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    try:
        return float(str(image.tag_v2[_GDAL_NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        return None


# ---- 16 bits per channel in colour, which Pillow cuts to 8 when it loads a file ----


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether a file that is not loaded yet holds colours of 16 bits: its decoder is told so."""
    tiles = getattr(image, "tile", None)
    if image.mode not in ("RGB", "RGBA") or not tiles:
        return False
    arguments = tiles[0][3]
    rawmode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return isinstance(rawmode, str) and ";16" in rawmode


def _png_file(image: Image.Image) -> bytes | None:
    """The whole file of a PNG that is not loaded yet; None of other formats."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or file is None:
        return None
    position = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(position)
    return data


def _read_deep_colours(image: Image.Image, png: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a loaded image with its colours stretched where they use a small part of 16 bits, and a note.

    Args:
        image: with the upper 8 bits.
        png: its file, which torchvision reads in full; None of other formats, whose lower bits are lost.
    """
    upper = np.asarray(image)
    stretched, notes = stretch_upper_bits(upper[..., :3])
    if stretched is upper or np.shares_memory(stretched, upper):
        return image, notes
    channels = None if png is None else _decode_16_bits(png)
    if channels is not None:
        grey_or_colours = channels[: 3 if len(channels) > 2 else 1]
        stretched, notes = from_16_bits(np.moveaxis(grey_or_colours, 0, 2))
        stretched = np.broadcast_to(stretched, (*stretched.shape[:2], 3))
    values = np.dstack([stretched, upper[..., 3:]])  # alpha is no brightness: it keeps its upper bits
    result = Image.fromarray(np.ascontiguousarray(values))
    result.getexif().update(image.getexif())  # for its orientation
    return result, notes


def _decode_16_bits(png: bytes) -> np.ndarray | None:
    """The channels of a PNG file, (c, h, w) uint16; None where this version of torchvision does not read them."""
    with suppress(RuntimeError, AttributeError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision is to lose its decoders some day
        data = torch.frombuffer(bytearray(png), dtype=torch.uint8)
        channels: np.ndarray = torchvision.io.decode_image(data, torchvision.io.ImageReadMode.UNCHANGED).numpy()
        return channels if channels.dtype == np.uint16 else None
    return None


# ---- Modes ----


def _to_rgb(
    image: Image.Image, file_format: str | None = None, nodata: float | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert a loaded image of any mode to RGB, with notes on lost information."""
    if image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and file_format in _SIXTEEN_BIT_FORMATS):
        return _grey(*from_16_bits(np.asarray(image).astype(np.uint16), nodata))
    if image.mode in ("I", "F"):
        return _grey(*from_raster(np.asarray(image), nodata))
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode == "RGB":
        return (image if type(image) is Image.Image else image.copy()), ()  # the copy does not keep the file open
    return image.convert("RGB"), ()


def _grey(values: np.ndarray, notes: tuple[str, ...]) -> tuple[Image.Image, tuple[str, ...]]:
    return Image.fromarray(values).convert("RGB"), notes


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts it to no other mode
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba)
    opaque = rgba.getchannel("A").getextrema() == (255, 255)
    return canvas, () if opaque else ("transparent pixels are shown on white",)

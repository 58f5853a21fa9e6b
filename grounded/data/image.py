"""Opening images: a file, an address, a PIL image or an array becomes upright RGB, once. For every entry point."""

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from PIL import Image

from segany.utils.addresses import address_name, locate
from segany.utils.images import MAX_PIXELS, ImageLike, read_image

__all__ = ["MAX_PIXELS", "ImageLike", "SourceImage", "open_image"]


@dataclass(frozen=True)
class SourceImage:
    """An upright RGB image, with its file or address, the orientation that was applied, and notes for the user.

    `orientation` is the EXIF orientation (1 to 8, 1 = as stored) that was applied on opening: boxes and masks are in
    the frame of `pixels`, which for 5 to 8 has the stored width and height swapped. `notes` tell the
    user what was left out: "animated: the first of 12 frames is used".
    """

    pixels: Image.Image
    path: Path | None = None
    orientation: int = 1
    notes: tuple[str, ...] = ()
    address: str | None = None  # http or https, where it was fetched from

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.height, self.pixels.width

    @property
    def file_name(self) -> str | None:
        """The name of its file, or the last part of its address, as text; None of an image that has neither."""
        if self.path is not None:
            # On most systems a file name is any bytes, which need not be text.
            return os.fsencode(self.path.name).decode(errors="replace")
        return None if self.address is None else address_name(self.address)


def open_image(
    source: ImageLike | SourceImage, max_pixels: int | None = MAX_PIXELS, *, allow_addresses: bool = True
) -> SourceImage:
    """Read `source`, apply its EXIF orientation and convert it to RGB. A `SourceImage` is returned as it is.

    `segany.utils.images` explains how each kind of image becomes RGB.

    Args:
        source: one image: a path, an http://, https:// or file:// address, the bytes of an image file, an open binary
            file, a PIL image, or an array or tensor of (h, w), (h, w, c) or (c, h, w) with 1, 3 or 4 channels, of
            uint8, uint16, bool or floats in 0..1. An upright RGB image without a file is taken without a copy.
        max_pixels: largest file to decode, by the size that its header states; None for no limit. What is in memory
            already has no limit.
        allow_addresses: False takes text for the path of a file and nothing else, for text that a stranger wrote.

    Raises:
        ImageError: the file is missing, damaged, too large or not an image, the address cannot be fetched, or the
            array is of another shape, dtype or range.
    """
    if isinstance(source, SourceImage):
        return source
    loaded = read_image(source, max_pixels, allow_addresses=allow_addresses)
    path, address = None, None
    if isinstance(source, (str, PathLike)):
        place = locate(source) if allow_addresses else Path(source)
        if isinstance(place, Path):
            path = place
        elif place[:5].lower() != "data:":
            address = place
    return SourceImage(loaded.pixels, path, loaded.orientation, loaded.notes, address)

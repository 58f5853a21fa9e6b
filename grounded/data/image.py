"""Opening images: a path, a PIL image or an array becomes an upright RGB image, once. For every entry point."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from PIL import Image

from segany.utils.images import MAX_PIXELS, ImageLike, read_image

__all__ = ["MAX_PIXELS", "ImageLike", "SourceImage", "open_image"]


@dataclass(frozen=True)
class SourceImage:
    """An upright RGB image, with its file, the orientation that was applied, and notes for the user.

    `orientation` is the EXIF orientation (1 to 8, 1 = as stored) that was applied on opening: boxes and masks are in
    the frame of `pixels`, which for 5 to 8 has the stored width and height swapped. `notes` tell the
    user what was left out: "animated: the first of 12 frames is used".
    """

    pixels: Image.Image
    path: Path | None = None
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.height, self.pixels.width


def open_image(source: ImageLike | SourceImage, max_pixels: int | None = MAX_PIXELS) -> SourceImage:
    """Read `source`, apply its EXIF orientation and convert it to RGB. A `SourceImage` is returned as it is.

    `segany.utils.images` explains how each kind of image becomes RGB.

    Args:
        source: a path, the bytes of an image file, a PIL image, or a uint8 array: (h, w) grey, (h, w, 3) RGB or
            (h, w, 4) RGBA, the last shown on white. An upright RGB image without a file is taken without a copy.
        max_pixels: largest file to decode, by the size that its header states; None for no limit. What is in memory
            already has no limit.

    Raises:
        ImageError: the file is missing, damaged, too large or not an image, or the array is of another shape or dtype.
    """
    if isinstance(source, SourceImage):
        return source
    loaded = read_image(source, max_pixels)
    path = Path(source) if isinstance(source, (str, PathLike)) else None
    return SourceImage(loaded.pixels, path, loaded.orientation, loaded.notes)

"""Opens the images of records, and draws small overlays of them."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from grounded.data.image import SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import GroundedError, ImageError, describe_error
from grounded.labelling.loading import decode_image
from grounded.labelling.records import Record
from grounded.labelling.sources import Source
from grounded.output.draw import draw
from grounded.output.fonts import TextLine
from segany.utils.rle import RLE, decode_rle, encode_rle

_GREY = (226, 232, 240)
_JPEG = b"\xff\xd8"


def open_record_image(source: Source | None, record: Record, reduced_to: int | None = None) -> SourceImage:
    """Open the image of a record, upright.

    Args:
        source: the images of the run; None where they cannot be found any more.
        record: of the image.
        reduced_to: pixels that the longer side needs; a JPEG file is decoded at a half or less where that is enough.

    Raises:
        ImageError: it is missing, cannot be read, or has another size than the record says.
    """
    info = record.image
    if source is None:
        raise ImageError("the images of this run are not there any more: say where with --images")
    try:
        data = source.get(info.file)
    except (GroundedError, OSError) as error:
        raise ImageError(f"{info.file} cannot be found: {describe_error(error)}") from error
    try:
        if reduced_to and data.startswith(_JPEG):
            opened, (width, height) = _open_reduced(data, reduced_to)
        else:
            opened = decode_image(data, info.file)
            width, height = opened.pixels.size
    except (GroundedError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{info.file} cannot be read: {describe_error(error)}") from error
    if (width, height) != (info.width, info.height):
        sizes = f"{width} x {height} pixels, and was {info.width} x {info.height} when it was labelled"
        raise ImageError(f"{info.file} is another image: it is {sizes}")
    return opened


def _open_reduced(data: bytes, side: int) -> tuple[SourceImage, tuple[int, int]]:
    """Open a JPEG file at a fraction of its size, and return its full (width, height) as well."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as stored:
        width, height = stored.size
        stored.draft("RGB", (side, side))
        opened = open_image(stored)
    return opened, (height, width) if opened.orientation >= 5 else (width, height)


def draw_record(source: Source | None, record: Record, side: int, *, show_scores: bool = True) -> Image.Image:
    """Draw the instances of a record over its image, or over grey where the image is missing.

    Args:
        source: as in `open_record_image`.
        record: with the instances to draw.
        side: longest side of the result, in pixels.
        show_scores: whether labels end in the score.
    """
    scale = min(1.0, side / max(record.image.width, record.image.height))
    width, height = (max(1, round(length * scale)) for length in (record.image.width, record.image.height))
    is_missing = False
    try:
        opened = open_record_image(source, record, reduced_to=side)
        background = opened.pixels.resize((width, height), Image.Resampling.BILINEAR)
    except ImageError:
        background, is_missing = Image.new("RGB", (width, height), _GREY), True
    overlay = draw(background, scale_instances(record.instances, (height, width)), show_scores=show_scores)
    if is_missing:
        _write_centred(overlay, "image not found")
    return overlay


def scale_instances(instances: Instances, image_size: tuple[int, int]) -> Instances:
    """Return instances for a smaller image of (height, width) pixels."""
    rles = tuple(scale_mask(rle, image_size) for rle in instances.rles)
    factors = np.array(image_size, np.float32) / np.array(instances.image_size, np.float32)
    boxes = instances.boxes * np.tile(factors[::-1], 2)
    return replace(instances, image_size=image_size, rles=rles, boxes=boxes)


def scale_mask(rle: RLE, image_size: tuple[int, int]) -> RLE:
    """Return a mask for a smaller image of (height, width) pixels."""
    mask = Image.fromarray(decode_rle([rle])[0].numpy().astype(np.uint8) * 255)
    small = np.asarray(mask.resize(image_size[::-1], Image.Resampling.BOX))
    # A mask smaller than a pixel keeps the pixels that it covers most, and stays visible.
    return encode_rle((small >= max(1, min(128, int(small.max()))))[None])[0]


def _write_centred(image: Image.Image, text: str) -> None:
    """Write across the middle, as large as fits."""
    lines = (TextLine.of(text, size) for size in range(28, 5, -1))
    line = next((line for line in lines if line.width < image.width), TextLine.of(text, 6))
    line.draw(ImageDraw.Draw(image), (image.width / 2, image.height / 2), (71, 85, 105), "mm")

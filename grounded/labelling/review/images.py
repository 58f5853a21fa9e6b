"""The pictures that records are about, found again by name, and small overlays of them."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grounded.data.image import SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import GroundedError, ImageError
from grounded.labelling.loading import decode, describe
from grounded.labelling.records import Record
from grounded.labelling.sources import Source
from grounded.output.draw import draw
from segany.utils.rle import RLE, decode_rle, encode_rle

_GREY = (226, 232, 240)
_JPEG = b"\xff\xd8"


def open_picture(source: Source | None, record: Record, reduced_to: int | None = None) -> SourceImage:
    """Open the picture of a record, upright.

    Args:
        source: where it was; None where that is not known any more.
        record: of the picture.
        reduced_to: pixels that the longer side needs; where a file can be decoded at a half or less, it is.

    Raises:
        ImageError: it is not there or cannot be read, or is another one than the record is about.
    """
    info = record.image
    if source is None:
        raise ImageError("the pictures of this run are not there any more: say where with --images")
    try:
        data = source.get(info.file)
    except (GroundedError, OSError) as error:
        raise ImageError(f"{info.file} cannot be found: {describe(error)}") from error
    try:
        opened, (width, height) = _reduced(data, reduced_to) if reduced_to else _decoded(data, info.file)
    except (GroundedError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{info.file} cannot be read: {describe(error)}") from error
    if (width, height) != (info.width, info.height):
        came = f"{width} x {height} pixels, and was {info.width} x {info.height} when it was labelled"
        raise ImageError(f"{info.file} is another picture: it is {came}")
    return opened


def _decoded(data: bytes, file: str) -> tuple[SourceImage, tuple[int, int]]:
    """The picture, and its (width, height)."""
    opened = decode(data, file)
    return opened, opened.pixels.size


def _reduced(data: bytes, side: int) -> tuple[SourceImage, tuple[int, int]]:
    """The picture, at a fraction of its size where its format allows that, and its (width, height) in full."""
    if not data.startswith(_JPEG):
        return _decoded(data, "the file")
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as stored:
        width, height = stored.size
        stored.draft("RGB", (side, side))
        opened = open_image(stored)
    return opened, (height, width) if opened.orientation >= 5 else (width, height)


def overlay(source: Source | None, record: Record, side: int, *, show_scores: bool = True) -> Image.Image:
    """The instances of a record over its picture, at most `side` pixels high and wide; over grey where it is missing.

    Args:
        source: as in `open_picture`.
        record: with the instances to draw.
        side: in pixels.
        show_scores: whether labels end in the score.
    """
    scale = min(1.0, side / max(record.image.width, record.image.height))
    width, height = (max(1, round(length * scale)) for length in (record.image.width, record.image.height))
    missing = None
    try:
        ground = open_picture(source, record, reduced_to=side).pixels.resize((width, height), Image.Resampling.BILINEAR)
    except ImageError as error:
        ground, missing = Image.new("RGB", (width, height), _GREY), str(error)
    drawn = draw(ground, scaled(record.instances, (height, width)), show_scores=show_scores)
    if missing:
        _state(drawn, "picture not found")
    return drawn


def scaled(instances: Instances, image_size: tuple[int, int]) -> Instances:
    """Instances for a smaller picture of (height, width) pixels."""
    rles = tuple(_scaled_mask(rle, image_size) for rle in instances.rles)
    factors = np.array(image_size, np.float32) / np.array(instances.image_size, np.float32)
    boxes = instances.boxes * np.tile(factors[::-1], 2)
    return replace(instances, image_size=image_size, rles=rles, boxes=boxes)


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _scaled_mask(rle: RLE, image_size: tuple[int, int]) -> RLE:
    mask = Image.fromarray(decode_rle([rle])[0].numpy().astype(np.uint8) * 255)
    small = np.asarray(mask.resize(image_size[::-1], Image.Resampling.BOX))
    # A mask smaller than a pixel keeps the pixels that it has most of, and stays in sight.
    return encode_rle((small >= max(1, min(128, int(small.max()))))[None])[0]


def _state(image: Image.Image, text: str) -> None:
    """Write across the middle, as large as fits."""
    pen = ImageDraw.Draw(image)
    size = next(
        (size for size in range(28, 6, -1) if pen.textlength(text, ImageFont.load_default(size)) < image.width), 6
    )
    pen.text((image.width / 2, image.height / 2), text, (71, 85, 105), ImageFont.load_default(size), anchor="mm")

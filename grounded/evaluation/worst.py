"""A sheet of the pictures that were answered worst, the truth beside the answer."""

import io
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from grounded.data.image import open_image
from grounded.data.instances import Instances
from grounded.errors import ImageError
from grounded.evaluation.cases import Answer, Case
from grounded.evaluation.labels import Picture
from grounded.evaluation.truth import TrueObject
from grounded.labelling.review.images import scaled
from grounded.output.draw import draw
from grounded.stages.answers import from_masks
from segany.utils.rle import RLE

_SIDE, _GAP, _CAPTION = 420, 12, 30  # pixels: of a picture, between pictures, above each pair
_PAIRS_ACROSS = 2
_PAPER, _INK, _GREY, _NO_PICTURE = (255, 255, 255), (30, 30, 36), (120, 120, 128), (226, 226, 230)


def worst_sheet(pictures: Sequence[Picture], images: Callable[[str], bytes], side: int = _SIDE) -> Image.Image:
    """Draw pairs of overlays: on the left the objects of the classes that were asked, on the right the answers.

    Args:
        pictures: in the order in which to show them.
        images: returns the file of a picture by name, and raises ImageError or OSError where it has none, and the
            overlay is drawn on grey.
        side: longest side of an overlay in pixels.
    """
    pairs = [_pair(picture, images, side) for picture in pictures]
    if not pairs:
        sheet = Image.new("RGB", (2 * side, 3 * _CAPTION), _PAPER)
        ImageDraw.Draw(sheet).text((_GAP, _CAPTION), "No picture has a flaw.", _INK, ImageFont.load_default(18))
        return sheet
    rows = [pairs[start : start + _PAIRS_ACROSS] for start in range(0, len(pairs), _PAIRS_ACROSS)]
    width = max(sum(pair.width + _GAP for pair in row) for row in rows) + _GAP
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) + _GAP for row in rows) + _GAP), _PAPER)
    y = _GAP
    for row in rows:
        for column, one in enumerate(row):
            sheet.paste(one, (_GAP + column * (one.width + _GAP), y))
        y += max(one.height for one in row) + _GAP
    return sheet


def _pair(picture: Picture, images: Callable[[str], bytes], side: int) -> Image.Image:
    """Both overlays of a picture below a line on what was found."""
    case, counts = picture.case, picture.counts
    ground = _ground(case, images, side)
    drawn = [_overlay(case, things, ground) for things in (case.wanted, case.answers)]
    pair = Image.new("RGB", (2 * side + _GAP // 2, _CAPTION + max(one.height for one in drawn)), _PAPER)
    for place, one in zip((0, side + _GAP // 2), drawn, strict=True):
        pair.paste(one, (place + (side - one.width) // 2, _CAPTION))
    pen, font = ImageDraw.Draw(pair), ImageFont.load_default(15)
    found = f"found {counts.found} of {counts.objects}, wrong {counts.answers - counts.found}"
    if case.source is None:
        found = "no record"
    pen.text((pair.width, 6), found, _INK, font, anchor="ra")
    pen.text((0, 6), _fitting(f"{case.file}: truth, answer", font, side + _GAP), _GREY, font)
    return pair


def _overlay(case: Case, things: Sequence[TrueObject] | Sequence[Answer], ground: Image.Image) -> Image.Image:
    return draw(ground, scaled(_instances(case, things), (ground.height, ground.width)))


def _ground(case: Case, images: Callable[[str], bytes], side: int) -> Image.Image:
    """The picture of a case, at most `side` pixels high and wide; grey where it is missing or another one."""
    scale = min(1.0, side / max(case.size))
    height, width = (max(1, round(length * scale)) for length in case.size)
    try:
        with Image.open(io.BytesIO(_file(case, images))) as stored:
            opened = open_image(stored)
    except Exception:  # damaged files make Pillow raise nearly anything
        return Image.new("RGB", (width, height), _NO_PICTURE)
    if opened.size != case.size:
        return Image.new("RGB", (width, height), _NO_PICTURE)
    return opened.pixels.resize((width, height), Image.Resampling.BOX)


def _file(case: Case, images: Callable[[str], bytes]) -> bytes:
    """The bytes of a picture, by whichever of its names it is known."""
    # As the record names it, as the truth does, and without folders, for a source that begins further down.
    names = dict.fromkeys(name for name in (case.source, case.file) if name)
    for name in dict.fromkeys((*names, *(PurePosixPath(name).name for name in names))):
        try:
            return images(name)
        except (ImageError, OSError):
            continue
    raise ImageError(f"no such picture: {case.file}")


def _instances(case: Case, things: Sequence[TrueObject] | Sequence[Answer]) -> Instances:
    """True objects under the phrase that asked for them, so that they have the colours of their answers."""
    asking = {label: phrase for phrase, label in reversed(tuple(case.asked.items()))}
    names = [_caption(thing, asking) for thing in things]
    phrases = tuple(dict.fromkeys(names))
    ids = np.array([phrases.index(name) for name in names], dtype=np.int64)
    masks = [thing.mask or _filled(thing, case.size) for thing in things]
    scores = np.array([getattr(thing, "score", np.nan) for thing in things], dtype=np.float32)
    return from_masks(phrases, case.size, masks, ids, scores, "automatic")


def _caption(thing: TrueObject | Answer, asking: dict[str, str]) -> str:
    if isinstance(thing, Answer):
        return thing.phrase
    return f"{asking[thing.label]} (crowd)" if thing.is_crowd else asking[thing.label]


def _filled(thing: TrueObject | Answer, size: tuple[int, int]) -> RLE:
    """The box of an object without a mask, as one."""
    x0, y0, x1, y1 = thing.box
    encoded = coco_mask.frPyObjects([[x0, y0, x1 - x0, y1 - y0]], *size)[0]
    return RLE(size=list(size), counts=encoded["counts"].decode("ascii"))


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text with its beginning cut off where it is wider than `width` pixels: files differ at their ends."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"

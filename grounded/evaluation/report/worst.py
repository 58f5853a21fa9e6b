"""A sheet of the images with the worst predictions, the ground truth beside the predictions."""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageDraw

from grounded.data.image import open_image
from grounded.errors import ImageError
from grounded.evaluation.dataset import GroundTruthObject, ImagePair, Prediction, filled_box
from grounded.evaluation.evaluate import ImageResult
from grounded.labelling.review.images import scale_mask
from grounded.output.draw import draw_masks
from grounded.output.fonts import TextLine
from segany.utils.rle import rle_boxes

_SIDE, _GAP, _CAPTION = 420, 12, 30  # pixels: of an image, between images, above each pair
_PAIRS_ACROSS = 2
_WHITE, _INK, _GREY, _NO_IMAGE = (255, 255, 255), (30, 30, 36), (120, 120, 128), (226, 226, 230)


def draw_worst(results: Sequence[ImageResult], read_image: Callable[[str], bytes], side: int = _SIDE) -> Image.Image:
    """Draw pairs of overlays: on the left the ground truth of the classes in the prompt, on the right the predictions.

    Args:
        results: in the order in which to show them.
        read_image: returns the file of an image by name, and raises ImageError or OSError where it has none; the
            overlay is drawn on grey then.
        side: longest side of an overlay in pixels.
    """
    pairs = [_draw_pair(result, read_image, side) for result in results]
    if not pairs:
        sheet = Image.new("RGB", (2 * side, 3 * _CAPTION), _WHITE)
        TextLine.of("No image has a flaw.", 18).draw(ImageDraw.Draw(sheet), (_GAP, _CAPTION), _INK)
        return sheet
    rows = [pairs[start : start + _PAIRS_ACROSS] for start in range(0, len(pairs), _PAIRS_ACROSS)]
    width = max(sum(pair.width + _GAP for pair in row) for row in rows) + _GAP
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) + _GAP for row in rows) + _GAP), _WHITE)
    y = _GAP
    for row in rows:
        for column, one in enumerate(row):
            sheet.paste(one, (_GAP + column * (one.width + _GAP), y))
        y += max(one.height for one in row) + _GAP
    return sheet


def _draw_pair(result: ImageResult, read_image: Callable[[str], bytes], side: int) -> Image.Image:
    """Draw both overlays of an image below a line with its counts."""
    pair, counts = result.pair, result.counts
    background = _background(pair, read_image, side)
    overlays = [_overlay(pair, objects, background) for objects in (pair.targets, pair.predictions)]
    drawn = Image.new("RGB", (2 * side + _GAP // 2, _CAPTION + max(one.height for one in overlays)), _WHITE)
    for left, one in zip((0, side + _GAP // 2), overlays, strict=True):
        drawn.paste(one, (left + (side - one.width) // 2, _CAPTION))
    canvas = ImageDraw.Draw(drawn)
    text = f"found {counts.true_positives} of {counts.objects}, wrong {counts.predictions - counts.true_positives}"
    if pair.record_file is None:
        text = "no record"
    TextLine.of(text, 15).draw(canvas, (drawn.width, 6), _INK, "rt")
    # File names differ at their ends.
    TextLine.of(f"{pair.file}: truth, answer", 15, side + _GAP, keep="end").draw(canvas, (0, 6), _GREY)
    return drawn


def _overlay(
    pair: ImagePair, objects: Sequence[GroundTruthObject] | Sequence[Prediction], background: Image.Image
) -> Image.Image:
    """Draw objects over the reduced image; ground truth in the colour of the phrase that stands for its class."""
    class_phrases = {label: phrase for phrase, label in reversed(tuple(pair.phrase_classes.items()))}
    labels, captions = [], []
    for one in objects:
        if isinstance(one, Prediction):
            labels.append(one.phrase)
            captions.append(one.phrase if not np.isfinite(one.score) else f"{one.phrase} {one.score:.0%}")
        else:
            labels.append(f"{class_phrases[one.label]} (crowd)" if one.is_crowd else class_phrases[one.label])
            captions.append(labels[-1])
    masks = [one.mask or filled_box(one.box, pair.image_size) for one in objects]
    size = background.height, background.width
    factors = np.array(size, np.float32) / np.array(pair.image_size, np.float32)
    boxes = rle_boxes(masks).astype(np.float32) * np.tile(factors[::-1], 2)
    return draw_masks(background, [scale_mask(mask, size) for mask in masks], labels, boxes, captions)


def _background(pair: ImagePair, read_image: Callable[[str], bytes], side: int) -> Image.Image:
    """Return the image, at most `side` pixels high and wide; grey where it is missing or of another size."""
    scale = min(1.0, side / max(pair.image_size))
    height, width = (max(1, round(length * scale)) for length in pair.image_size)
    try:
        opened = open_image(_read_any_name(pair, read_image))
    except Exception:  # damaged files make Pillow raise nearly anything
        return Image.new("RGB", (width, height), _NO_IMAGE)
    if opened.size != pair.image_size:
        return Image.new("RGB", (width, height), _NO_IMAGE)
    return opened.pixels.resize((width, height), Image.Resampling.BOX)


def _read_any_name(pair: ImagePair, read_image: Callable[[str], bytes]) -> bytes:
    """Read the file of an image by the first of its names that the source knows."""
    # As the record names it, as the ground truth does, and without folders, for a source that begins further down.
    names = [name for name in (pair.record_file, pair.file) if name]
    for name in dict.fromkeys((*names, *(PurePosixPath(name).name for name in names))):
        try:
            return read_image(name)
        except (ImageError, OSError):
            continue
    raise ImageError(f"no such image: {pair.file}")

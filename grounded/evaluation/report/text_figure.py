"""The figure of masks from text (Segment Anything, figure 12): a row per image, a column per kind of prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from grounded.output.fonts import TextLine
from segany.utils.rle import RLE, decode_rle

_WIDTH, _GAP, _LINE = 300, 12, 30  # of a cell, between cells, and of a line of text, in pixels
_WHITE, _INK, _GREY = (255, 255, 255), (30, 30, 36), (120, 120, 128)
_TRUE, _RIGHT, _WRONG = (43, 108, 176), (56, 142, 90), (214, 92, 60)
_RIGHT_IOU, _OPACITY = 0.5, 0.5


@dataclass(frozen=True)
class TextExample:
    """An object in its image, and the masks that each kind of prompt gave."""

    image: Image.Image  # upright RGB
    phrase: str
    truth: RLE
    masks: Mapping[str, RLE]  # by kind of prompt
    ious: Mapping[str, float]
    point: tuple[float, float]  # (x, y) pixels, shown where the kind of prompt has one


def draw_text_figure(examples: Sequence[TextExample], kinds: Sequence[str]) -> Image.Image:
    """Draw one row for each example: the true mask, and the masks of `kinds`. Good masks are green, others red."""
    heights = [round(_WIDTH * one.image.height / one.image.width) for one in examples]
    columns = ("annotated", *kinds)
    width = _GAP + len(columns) * (_WIDTH + _GAP)
    figure = Image.new("RGB", (width, _LINE + _GAP + sum(height + _LINE + _GAP for height in heights)), _WHITE)
    pen = ImageDraw.Draw(figure)
    for column, name in enumerate(columns):
        TextLine.of(name, 18, _WIDTH).draw(pen, (_GAP + column * (_WIDTH + _GAP), 8), _INK)
    top = _LINE + _GAP
    for one, height in zip(examples, heights, strict=True):
        for column, name in enumerate(columns):
            left = _GAP + column * (_WIDTH + _GAP)
            figure.paste(_draw_cell(one, name, (_WIDTH, height)), (left, top))
            caption = one.phrase if column == 0 else f"IoU {one.ious[name]:.2f}"
            TextLine.of(caption, 16, _WIDTH).draw(pen, (left, top + height + 4), _GREY if column else _INK)
        top += height + _LINE + _GAP
    return figure


def _draw_cell(example: TextExample, kind: str, size: tuple[int, int]) -> Image.Image:
    """Draw one mask over the image, at a size (width, height), and the point where it was part of the prompt."""
    mask = decode_rle([example.masks.get(kind, example.truth)])[0].numpy()
    area = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.LANCZOS)
    colour = _TRUE if kind not in example.ious else _RIGHT if example.ious[kind] >= _RIGHT_IOU else _WRONG
    cell = example.image.resize(size, Image.Resampling.LANCZOS)
    cell.paste(colour, mask=area.point(lambda value: round(value * _OPACITY)))
    cell.paste(colour, mask=area.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(3)))
    if "point" in kind:
        scale = size[0] / example.image.width
        x, y = example.point[0] * scale, example.point[1] * scale
        ImageDraw.Draw(cell).ellipse((x - 6, y - 6, x + 6, y + 6), fill=_WHITE, outline=_INK, width=2)
    return cell

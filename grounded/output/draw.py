"""Overlays: translucent masks with outlines, and a readable label for every instance. For users and the app."""

import colorsys
import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw, ImageFilter

from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import ImageError
from grounded.output.cutouts import mask_window
from grounded.output.fonts import TextLine
from segany.utils.rle import RLE, decode_rle, rle_area

Colour: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[int, int, int, int]

# Pixels that are blended in floats at a time: they fit a processor's cache; a large image would take gigabytes.
_PIXELS_AT_ONCE = 1 << 16
_INK, _PAPER = (20, 20, 24), (255, 255, 255)


def draw(
    image: ImageLike | SourceImage,
    instances: Instances,
    opacity: float = 0.45,
    show_scores: bool = True,
) -> Image.Image:
    """Return a copy of the image with the instances drawn over it.

    Every phrase has its own colour, the same in every image. Small masks lie above large ones, and labels above all.

    Args:
        image: the image that was segmented, in any form that the pipeline takes.
        instances: of that image.
        opacity: of the mask areas, from 0 to 1.
        show_scores: whether labels end in the score, in percent.

    Raises:
        ImageError: the image cannot be read, or is not of the size that the instances are of.
    """
    source = open_image(image)
    if source.size != instances.image_size:
        raise ImageError(f"the image must be of (height, width) {instances.image_size}, got {source.size}")
    labels = instances.labels.tolist()
    captions = labels
    if show_scores:
        captions = [
            f"{label} {score:.0%}" if np.isfinite(score) else label
            for label, score in zip(labels, instances.scores, strict=True)
        ]
    return draw_masks(source.pixels, instances.rles, labels, instances.boxes, captions, opacity)


def draw_masks(
    image: Image.Image,
    rles: Sequence[RLE],
    labels: Sequence[str],
    boxes: Float32[np.ndarray, "n 4"],
    captions: Sequence[str],
    opacity: float = 0.45,
    colours: Sequence[Colour] | None = None,
) -> Image.Image:
    """Return a copy of an RGB image with masks drawn over it, small ones above large ones, and captions above all.

    Args:
        image: upright, of the size of the masks.
        rles: n masks.
        labels: of the masks, which they have their colours by.
        boxes: xyxy in pixels; captions are placed beside them.
        captions: one per mask.
        opacity: of the mask areas, from 0 to 1.
        colours: of the masks, in place of those of their labels.
    """
    canvas = np.array(image)
    line_width = max(1.5, max(image.size) / 350)
    colours = [phrase_colour(label) for label in labels] if colours is None else colours
    for i in np.argsort(-rle_area(rles), kind="stable"):
        mask = decode_rle([rles[i]])[0].numpy()
        _blend_mask(canvas, mask, colours[i], opacity, line_width)
    overlay = Image.fromarray(canvas)
    _draw_labels(overlay, captions, boxes, colours)
    return overlay


def phrase_colour(phrase: str) -> Colour:
    """Return the RGB colour of a phrase, which depends on nothing but its text."""
    digest = hashlib.sha256(phrase.encode()).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    # Lightness varies too, so that two phrases of about the same hue can still be told apart.
    lightness = (0.48, 0.56, 0.64)[digest[2] % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _blend_mask(
    canvas: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    colour: Colour,
    opacity: float,
    line_width: float,
) -> None:
    """Tint the area of a mask on `canvas`, in place, and outline it. Smooth at the edges; `line_width` in pixels."""
    if not mask.any():
        return
    rows, columns = mask_window(mask, margin=round(3 * line_width) + 2)
    sharp = Image.fromarray(mask[rows, columns].astype(np.uint8) * 255)
    soft = np.asarray(sharp.filter(ImageFilter.GaussianBlur(line_width / 2)))
    window = canvas[rows, columns]
    step = max(1, _PIXELS_AT_ONCE // soft.shape[1])
    for start in range(0, len(soft), step):
        strip = slice(start, start + step)
        window[strip] = _blended(window[strip], soft[strip], colour, opacity)


def _blended(
    pixels: UInt8[np.ndarray, "h w 3"], soft: UInt8[np.ndarray, "h w"], colour: Colour, opacity: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Paint where `soft`, a blurred mask, is above one half, and a line along that border as wide as the blur."""
    cover = soft[..., None].astype(np.float32) / 255
    border = 4 * cover * (1 - cover)  # 1 where the blurred mask passes 1/2
    area = ((cover - 0.5) * 4 + 0.5).clip(0, 1)
    blended = pixels.astype(np.float32)
    for paint, alpha in (
        (colour, opacity * area),
        (_INK, 0.55 * (border * 4).clip(0, 1)),  # a dark rim keeps the line visible on a ground of its own colour
        (colour, ((border - 0.45) * 3).clip(0, 1)),
    ):
        blended += alpha * (np.array(paint, dtype=np.float32) - blended)
    return blended.round().astype(np.uint8)


def _draw_labels(
    overlay: Image.Image, captions: Sequence[str], boxes: Float32[np.ndarray, "n 4"], colours: Sequence[Colour]
) -> None:
    """Draw one caption per box on a plate of its colour, inside the image and where there is room beside the others."""
    pen = ImageDraw.Draw(overlay)
    size = min(max(11, round(max(overlay.size) / 45)), max(6, min(overlay.size) // 4))
    padding = max(2, size // 4)
    taken: list[Box] = []
    for caption, box, colour in zip(captions, boxes, colours, strict=True):
        line = TextLine.of(caption, size, overlay.width - 2 * padding)
        width, height = round(line.width) + 2 * padding, line.ascent + line.descent + 2 * padding
        x, y = _place(box, (width, height), overlay.size, taken)
        taken.append((x, y, x + width, y + height))
        pen.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=padding, fill=colour)
        line.draw(pen, (x + padding, y + padding), _text_colour(colour))


def _place(
    box: Float32[np.ndarray, "4"], plate: tuple[int, int], image_size: tuple[int, int], taken: list[Box]
) -> tuple[int, int]:
    """Left and top pixel of a plate near the corner of its box: the first place where it overlaps the others least.

    `plate` and `image_size` are (width, height).
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    width, height = plate
    wanted = [(x0, y0 - height), (x0, y0), (x1 - width, y0 - height), (x0, y1), (x0, y1 - height), (x1 - width, y1)]
    wanted += [(x0, y0 + step * height) for step in range(1, 6)]
    places = [
        (
            round(min(max(x, 0), max(0, image_size[0] - width))),
            round(min(max(y, 0), max(0, image_size[1] - height))),
        )
        for x, y in wanted
    ]
    return min(places, key=lambda place: sum(_overlap((*place, place[0] + width, place[1] + height), t) for t in taken))


def _overlap(a: Box, b: Box) -> int:
    """Common area of two boxes in pixels."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _text_colour(ground: Colour) -> Colour:
    """Dark or white, whichever contrasts more with `ground` (relative luminance and contrast ratio of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in ground)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _INK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else _PAPER

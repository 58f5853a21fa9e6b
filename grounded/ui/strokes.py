"""What was painted over a picture, in two colours -> what belongs to an instance, and what does not."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

GREEN, RED = "#1a7f37", "#cf222e"  # brush and eraser; told apart by hue, so that soft edges count as well
_OPAQUE = 96  # alpha from which a pixel counts: strokes have soft edges


def strokes(
    layers: Sequence[UInt8[np.ndarray, "_ _ 4"]], image_size: tuple[int, int]
) -> tuple[Bool[np.ndarray, "h w"] | None, Bool[np.ndarray, "h w"] | None]:
    """Return the masks of brush and eraser in the frame of the picture; None for one that was not used.

    Args:
        layers: RGBA, of any size, each covering the whole picture; later ones lie above.
        image_size: (height, width) of the picture.
    """
    height, width = image_size
    brush, eraser = np.zeros((2, height, width), bool)
    for layer in layers:
        red, green, _, alpha = np.moveaxis(layer.astype(np.int16), -1, 0)
        painted = alpha >= _OPAQUE
        added = _scaled(painted & (green >= red), image_size)
        removed = _scaled(painted & (green < red), image_size)
        brush, eraser = (brush | added) & ~removed, (eraser | removed) & ~added
    return brush if brush.any() else None, eraser if eraser.any() else None


def _scaled(mask: Bool[np.ndarray, "_ _"], image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    if mask.shape == image_size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(image_size[::-1], Image.Resampling.NEAREST))

"""Square crops of objects, as CLIP sees them in training and as segany's text prompt is taught with."""

import numpy as np
from PIL import Image

GREY = 124  # what hides the background: the mean of the CLIP normalisation


def square_crop(image: np.ndarray, box: tuple[float, float, float, float], margin: float, side: int) -> np.ndarray:
    """Cut a square around a box (xyxy pixels), `margin` of its longer side wider at each edge; (side, side, 3) uint8.

    What lies beyond the picture is grey.
    """
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0) * (0.5 + margin)
    center_x, center_y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top, right, bottom = (
        int(np.floor(v)) for v in (center_x - half, center_y - half, center_x + half + 1, center_y + half + 1)
    )
    height, width = image.shape[:2]
    canvas = np.full((bottom - top, right - left, 3), GREY, np.uint8)
    ys, xs = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    canvas[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left] = image[ys, xs]
    return np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BILINEAR))


def grey_background(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with everything outside the (h, w) bool mask grey."""
    return np.where(mask[..., None], image, np.uint8(GREY))

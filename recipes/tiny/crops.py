"""Square crops of objects, as CLIP sees them in training and as segany's text prompt is taught with."""

import numpy as np
from PIL import Image
from scipy import ndimage

GREY = 124  # what hides the background: the mean of the CLIP normalisation


def square_crop(image: np.ndarray, box: tuple[float, float, float, float], margin: float, side: int) -> np.ndarray:
    """Cut a square around a box (xyxy pixels), `margin` of its longer side wider at each edge; (side, side, 3) uint8.

    What lies beyond the image is grey.
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
    """The image with everything outside the (h, w) bool mask grey."""
    return np.where(mask[..., None], image, np.uint8(GREY))


def roughened(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An (h, w) bool mask with its outline moved in and out at random, as a segmenter might have drawn it.

    By up to about a tenth of its longer side; never empty where the mask is not.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    pad = longer // 8 + 1
    around = (
        slice(max(rows[0] - pad, 0), rows[-1] + 1 + pad),
        slice(max(columns[0] - pad, 0), columns[-1] + 1 + pad),
    )
    inside = np.pad(mask[around], 1)  # so that there is an outside
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    coarse = Image.fromarray(rng.normal(0, 1, (5, 5)).astype(np.float32))
    field = np.asarray(coarse.resize(inside.shape[::-1], Image.Resampling.BICUBIC))
    moved = (depth + rng.uniform(0, 0.06) * longer * field > 0)[1:-1, 1:-1]
    if not moved.any():
        return mask
    result = np.zeros_like(mask)
    result[around] = moved
    return result

"""Masks as outlines for annotation tools that know nothing but simple rings."""

from collections import Counter

import numpy as np
from jaxtyping import Bool, Float64
from pycocotools import mask as coco_mask

from grounded.output.polygons import TOLERANCE, Polygon, Ring, joined, mask_to_polygons
from segany.utils.rle import RLE, decode_rle

HOLES = "holes, which a ring goes into and back by the same way"
# With the default tolerance outlines keep 0.0035 pixels away from the centres of pixels: this moves across none.
_INWARD = 0.0025


def outlines(rle: RLE, lost: Counter[str] | None = None, tolerance: float = TOLERANCE) -> list[Ring]:
    """Return one ring for each part of a mask, none for an empty one; holes are joined to it by `polygons.joined`.

    Corners lie inside the mask, if only just: programs that round them down to pixels and draw the outline itself too,
    as LabelMe does with Pillow, then do not let it grow. By pixel centres rings give back the mask to the bit.

    Args:
        rle: the mask.
        lost: is told of the holes.
        tolerance: in pixels, see `polygons.mask_to_polygons`.
    """
    if not coco_mask.area(rle):
        return []
    mask = decode_rle([rle])[0].numpy()
    padded = np.pad(mask, 1)
    rings = []
    for polygon in mask_to_polygons(mask, tolerance):
        if lost is not None:
            lost[HOLES] += len(polygon.holes)
        outer, *holes = (_inwards(ring, padded) for ring in polygon.rings)
        rings.append(joined(Polygon(outer, tuple(holes))))
    return rings


def _inwards(ring: Float64[np.ndarray, "k 2"], padded: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, "k 2"]:
    """Move corners, each between a pixel of the mask and one beside it or below it, towards the one in the mask.

    Args:
        ring: in pixels of the mask.
        padded: the mask, with one pixel of background around it.
    """
    column, row = np.floor(ring).astype(np.int64).T + 1
    step = np.where(padded[row, column], _INWARD, -_INWARD)  # the pixel on the right of the corner, or below it
    between_columns = ring[:, 0] == np.floor(ring[:, 0])
    return ring + np.stack([step * between_columns, step * ~between_columns], axis=1)

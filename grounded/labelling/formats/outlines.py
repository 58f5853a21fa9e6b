"""Masks as simple rings and back, for annotation tools that draw polygons, rectangles and ellipses."""

import math
from collections import Counter

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from grounded.errors import ResultError
from grounded.output.polygons import TOLERANCE, Polygon, Ring, join_holes, mask_to_polygons
from segany.utils.rle import RLE, decode_rle

HOLES = "holes, which a ring goes into and back by the same way"
# With the default tolerance outlines keep 0.0035 pixels away from the centres of pixels: this moves across none.
_INWARD = 0.0025
_ELLIPSE_CORNERS = 180


def outlines(rle: RLE, lost: Counter[str] | None = None, tolerance: float = TOLERANCE) -> list[Ring]:
    """Return one ring for each part of a mask, none for an empty one; holes are joined to it by `polygons.join_holes`.

    Corners lie inside the mask, if only just: programs that round them down to pixels and draw the outline itself too,
    as LabelMe does with Pillow, then do not let it grow. By pixel centres rings give back the mask to the bit.

    Args:
        rle: the mask.
        lost: holes are counted here.
        tolerance: in pixels, see `polygons.mask_to_polygons`.
    """
    mask = decode_rle([rle])[0].numpy()
    if not mask.any():
        return []
    padded = np.pad(mask, 1)
    rings = []
    for polygon in mask_to_polygons(mask, tolerance):
        if lost is not None:
            lost[HOLES] += len(polygon.holes)
        outer, *holes = (_move_inwards(ring, padded) for ring in polygon.rings)
        rings.append(join_holes(Polygon(outer, tuple(holes))))
    return rings


def _move_inwards(ring: Float64[np.ndarray, "k 2"], padded: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, "k 2"]:
    """Move corners, each between a pixel of the mask and one beside it or below it, towards the one in the mask.

    Args:
        ring: in pixels of the mask.
        padded: the mask, with one pixel of background around it.
    """
    column, row = np.floor(ring).astype(np.int64).T + 1
    step = np.where(padded[row, column], _INWARD, -_INWARD)  # the pixel on the right of the corner, or below it
    between_columns = ring[:, 0] == np.floor(ring[:, 0])
    return ring + np.stack([step * between_columns, step * ~between_columns], axis=1)


def polygon_ring(points: ArrayLike) -> Ring:
    """Return corners (x, y) in pixels as a ring. Raises ResultError where they are not three or more."""
    try:
        return Polygon(np.asarray(points, dtype=np.float64)).outer
    except (TypeError, ValueError) as error:
        raise ResultError(f"not a polygon: {error}") from error


def ellipse_ring(centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> Ring:
    """Return an ellipse as a ring; `radii` are along x and y in pixels before it is turned clockwise."""
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    outline = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    return _rotate(outline, degrees) + np.array(centre)


def rectangle_ring(corner: tuple[float, float], sides: tuple[float, float], degrees: float = 0.0) -> Ring:
    """Return a rectangle as a ring, turned clockwise around its upper left `corner`."""
    outline = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.array(sides)
    return _rotate(outline, degrees) + np.array(corner)


def _rotate(points: Float64[np.ndarray, "k 2"], degrees: float) -> Float64[np.ndarray, "k 2"]:
    """Turn points (x, y) clockwise around the origin."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[cos, sin], [-sin, cos]])

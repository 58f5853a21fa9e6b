"""Masks as simple rings and back, for annotation tools that draw polygons, rectangles and ellipses."""

import math
from collections import Counter
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64

from grounded.output.polygons import TOLERANCE, Polygon, Ring, join_holes, mask_to_polygons, polygons_to_mask
from segany.utils.polygons import check_ring
from segany.utils.rle import RLE, decode_rle, encode_columns, rle_from_runs

Pair: TypeAlias = tuple[float, float] | Float64[np.ndarray, "2"]
"""Along x and along y, in pixels."""

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


def ring_to_rle(corners: object, image_size: tuple[int, int]) -> RLE:
    """Return which pixel centres lie in a polygon that comes from a file. It takes no memory outside its box.

    Args:
        corners: (x, y) in pixels.
        image_size: (height, width).

    Raises:
        MaskError: they are no polygon, by the rules of `segany.utils.polygons.check_ring`.
    """
    ring = check_ring(corners, image_size)
    (left, top), (right, bottom) = (np.floor(ring.min(axis=0)), np.ceil(ring.max(axis=0)))
    left, right = (int(np.clip(side, 0, image_size[1])) for side in (left, right))
    top, bottom = (int(np.clip(side, 0, image_size[0])) for side in (top, bottom))
    part = polygons_to_mask([Polygon(ring - [left, top])], (bottom - top, right - left))
    return part_to_rle(part, (left, top), image_size)


def part_to_rle(part: Bool[np.ndarray, "h w"], corner: tuple[int, int], image_size: tuple[int, int]) -> RLE:
    """Return a mask that is given as a part of an image, or beyond it, where it is cut at the image's border.

    Args:
        part: the mask.
        corner: (x, y) of its first pixel in the image, or outside.
        image_size: (height, width).
    """
    left, top = corner
    cut = part[max(-top, 0) : max(image_size[0] - top, 0), max(-left, 0) : max(image_size[1] - left, 0)]
    if not cut.size:
        return rle_from_runs([image_size[0] * image_size[1]], image_size)
    columns = torch.from_numpy(np.ascontiguousarray(cut.T))
    (rle,) = encode_columns(columns[None], (max(left, 0), max(top, 0)), image_size)
    return rle


def ellipse_ring(centre: Pair, radii: Pair, degrees: float = 0.0) -> Ring:
    """Return an ellipse as a ring; `radii` are along x and y in pixels before it is turned clockwise."""
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)
    return _rotate(outline, degrees) + np.asarray(centre)


def rectangle_ring(corner: Pair, sides: Pair, degrees: float = 0.0) -> Ring:
    """Return a rectangle as a ring, turned clockwise around its upper left `corner`."""
    outline = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.asarray(sides)
    return _rotate(outline, degrees) + np.asarray(corner)


def _rotate(points: Float64[np.ndarray, "k 2"], degrees: float) -> Float64[np.ndarray, "k 2"]:
    """Turn points (x, y) clockwise around the origin."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[cos, sin], [-sin, cos]])

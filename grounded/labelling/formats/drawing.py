"""Shapes as masks."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from grounded.errors import ResultError
from grounded.output.polygons import Polygon, Ring, polygons_to_mask
from segany.utils.rle import RLE, encode_rle

_CORNERS = 180  # of an ellipse


def ring(points: ArrayLike) -> Ring:
    """Return corners (x, y) in pixels as a ring. Raises ResultError where they are not three or more."""
    try:
        return Polygon(np.asarray(points, dtype=np.float64)).outer
    except (TypeError, ValueError) as error:
        raise ResultError(f"not a polygon: {error}") from error


def ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> Ring:
    """Return an ellipse as a ring; `radii` are along x and y in pixels before it is turned clockwise."""
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    outline = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    return _turned(outline, degrees) + np.array(centre)


def rectangle(corner: tuple[float, float], sides: tuple[float, float], degrees: float = 0.0) -> Ring:
    """Return a rectangle as a ring, turned clockwise around its upper left `corner`."""
    outline = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.array(sides)
    return _turned(outline, degrees) + np.array(corner)


def to_rle(rings: Sequence[Ring], image_size: tuple[int, int]) -> RLE:
    """Return the pixels, of (height, width), whose centres lie in any of the rings, by the even-odd rule in each."""
    return of_mask(polygons_to_mask([Polygon(ring) for ring in rings], image_size))


def of_mask(mask: Bool[np.ndarray, "h w"]) -> RLE:
    """Return the run-length encoding of one mask."""
    return encode_rle(mask[None])[0]


def _turned(points: Float64[np.ndarray, "k 2"], degrees: float) -> Float64[np.ndarray, "k 2"]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[cos, sin], [-sin, cos]])

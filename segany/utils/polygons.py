"""Polygons that come from files and clients: checked, and cut to the image, before they are drawn.

pycocotools draws an outline point by point, whether it lies in the image or not, and overflows where it is far away.
"""

from collections.abc import Sequence
from reprlib import repr as shortened  # of a huge list the beginning

import numpy as np
from jaxtyping import Float64, Int64

from segany.errors import MaskError

_MAX_PIXELS = 2**32 - 1  # of a mask, whose runs are 32 bits in pycocotools
_MAX_COORDINATE = 1_000_000  # pixels; what is farther away is damage, not a polygon that leaves the image
_MAX_OUTLINE = 2_000_000  # pixels; pycocotools takes some 100 bytes for each
_STEPS = 5  # per pixel; to such a grid pycocotools rounds corners


def check_size(size: object) -> tuple[int, int]:
    """Return the size of a mask as (height, width) in pixels.

    Args:
        size: two whole numbers of at least 1; they may be written 12.0 and "12".

    Raises:
        MaskError: it is something else, or a mask of this size has more than 2**32 - 1 pixels.
    """
    sides = list(size) if isinstance(size, Sequence | np.ndarray) and not isinstance(size, str | bytes) else []
    numbers = [number for number in map(_whole_number, sides[:3]) if number is not None]
    if len(sides) != 2 or len(numbers) != 2:
        raise MaskError(f"a size must be two whole numbers, height and width, of at least 1, got {shortened(size)}")
    height, width = numbers
    if height * width > _MAX_PIXELS:
        raise MaskError(f"a mask must have up to {_MAX_PIXELS} pixels, got {height} x {width}")
    return height, width


def _whole_number(side: object) -> int | None:
    if isinstance(side, str) and len(side) < 20 and side.strip().isdecimal():
        side = int(side)
    if isinstance(side, bool) or not isinstance(side, int | float | np.integer | np.floating):
        return None
    return int(side) if 1 <= side <= _MAX_PIXELS and side == int(side) else None


def check_ring(corners: object, image_size: tuple[int, int]) -> Float64[np.ndarray, "k 2"]:
    """Return the corners of a polygon from outside, so that drawing it takes time and memory as its image does.

    A ring that goes far out of the image is cut to it such that pycocotools draws the same pixels: it is replaced by
    the points on the grid of a fifth of a pixel that pycocotools would go through, as far as they touch the image.

    Args:
        corners: [x0, y0, x1, y1, ...], or (x, y) pairs, in pixels.
        image_size: (height, width).

    Raises:
        MaskError: there are fewer than three corners, an x without a y, something that is no number or not finite, a
            coordinate beyond a million, or an outline longer than two million pixels.
    """
    height, width = check_size(image_size)
    ring = _as_corners(corners)
    farthest = np.abs(ring).max()
    if not farthest <= _MAX_COORDINATE:  # written so that nan fails as well
        raise MaskError(f"corners of a polygon must be finite and within {_MAX_COORDINATE} pixels, got {farthest:g}")
    is_near = (ring >= (-width, -height)).all() and (ring <= (2 * width, 2 * height)).all()
    inside = ring if is_near else ring.clip(0, (width, height))
    outline = np.abs(np.diff(inside, axis=0, append=inside[:1])).max(axis=1).sum()
    if outline > _MAX_OUTLINE:
        raise MaskError(f"the outline of a polygon must be up to {_MAX_OUTLINE} pixels long, got {outline:.0f}")
    return ring if is_near else _cut(ring, height, width)


def _as_corners(corners: object) -> Float64[np.ndarray, "k 2"]:
    if not isinstance(corners, list | tuple | np.ndarray):
        raise MaskError(f"a polygon must be a list of numbers, got {shortened(corners)}")
    try:
        numbers = np.asarray(corners)
    except ValueError:  # lists of several lengths
        numbers = np.asarray(None)
    if numbers.size and (numbers.dtype.kind not in "iuf" or not _is_ring(numbers)):
        raise MaskError(
            f"a polygon must have an x and a y for each corner, all of them numbers, got {shortened(corners)}"
        )
    if numbers.size < 6:
        raise MaskError(f"a polygon must have three corners or more, got {numbers.size // 2}")
    return numbers.reshape(-1, 2).astype(np.float64)


def _is_ring(numbers: np.ndarray) -> bool:
    return numbers.size % 2 == 0 and (numbers.ndim == 1 or (numbers.ndim == 2 and numbers.shape[1] == 2))


def _cut(ring: Float64[np.ndarray, "k 2"], height: int, width: int) -> Float64[np.ndarray, "_ 2"]:
    """Replace the edges by the points that pycocotools goes through, those outside moved to the image's border.

    It reads from an outline where this passes from one column of the grid into the next, and at which height, with
    heights outside moved to the border and columns outside left out; so such a move changes nothing.
    """
    limits = np.array([_STEPS * width, _STEPS * height], np.float64)
    corners = np.trunc(_STEPS * ring + 0.5)  # as C converts to int
    edges, points = _edge_points(corners, np.roll(corners, -1, axis=0), limits)
    outline = np.insert(corners, edges + 1, points, axis=0).clip(0, limits)
    cut = _without_middle_points(outline) / _STEPS
    return cut if len(cut) >= 3 else np.zeros((3, 2))  # nothing of it touches the image


def _edge_points(
    starts: Float64[np.ndarray, "k 2"], ends: Float64[np.ndarray, "k 2"], limits: Float64[np.ndarray, "2"]
) -> tuple[Int64[np.ndarray, "m"], Float64[np.ndarray, "m 2"]]:
    """The points on the grid of edges that cross the border of the image, and the number of the edge of each.

    They go from an edge's start to its end, one by one in its longer direction, as far as they are in the image there.
    """
    rows = np.arange(len(starts))
    along = np.where(np.abs(ends - starts)[:, 0] >= np.abs(ends - starts)[:, 1], 0, 1)
    across = 1 - along
    is_reversed = starts[rows, along] > ends[rows, along]
    low = np.where(is_reversed[:, None], ends, starts)
    high = np.where(is_reversed[:, None], starts, ends)
    is_inside = ((low >= 0) & (low <= limits) & (high >= 0) & (high <= limits)).all(axis=1)
    first = low[rows, along].clip(min=0)
    counts = (
        np.where(is_inside, 0, np.minimum(high[rows, along], limits[along]) - first + 1).clip(min=0).astype(np.int64)
    )
    edges = np.repeat(rows, counts)
    place = np.arange(len(edges)) - np.repeat(counts.cumsum() - counts, counts)
    place = np.where(is_reversed[edges], counts[edges] - 1 - place, place) + first[edges]
    length = high[rows, along] - low[rows, along]
    slope = (high[rows, across] - low[rows, across]) / length.clip(min=1)
    points = np.empty((len(edges), 2))
    points[np.arange(len(edges)), along[edges]] = place
    steps = place - low[rows, along][edges]
    points[np.arange(len(edges)), across[edges]] = np.trunc(low[rows, across][edges] + slope[edges] * steps + 0.5)
    return edges, points


def _without_middle_points(points: Float64[np.ndarray, "m 2"]) -> Float64[np.ndarray, "k 2"]:
    """Leave out repeated points, and the middle ones of lines along the axes, which moving to the border makes."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    if len(points) == 0:
        return points
    is_level = points == np.roll(points, 1, axis=0)  # along x, y with the point before
    return points[~(is_level & np.roll(is_level, -1, axis=0)).any(axis=1)]

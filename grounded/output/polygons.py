"""Conversion of masks to polygons, and of polygons to masks. For the export formats.

Coordinates are (x, y) in pixels, (0, 0) at the upper left corner of the first pixel, so that pixel centres lie at .5. A
pixel belongs to a polygon when its centre does. Outlines run halfway between the centres of pixels inside and outside,
corners cut by half a pixel; drawn by pixel centres they give back the mask, to the bit.

Run-length encodings and PNG masks hold any mask. Most polygon formats know nothing but simple rings: COCO polygons,
YOLO, LabelMe, Label Studio and CVAT. Several parts of an instance become several rings there, and holes are lost,
unless a ring goes into them and back by the same way: see `join_holes`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import contourpy
import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from grounded.data.parallel_arrays import set_frozen
from segany.utils.rle import RLE, decode_rle

Ring = Float64[np.ndarray, "_ 2"]

# Outlines stay sqrt(2) / 4 = 0.3535 away from the centres of pixels, and twice that from one another and themselves.
# Moved by less, they pass by no centre, do not cross, and the outline of a single pixel does not vanish.
TOLERANCE = 0.35
_PIXELS_AT_ONCE = 1 << 22  # that are filled; they take 16 bytes each


@dataclass(frozen=True, eq=False)
class Polygon:
    """A connected part of a mask: a ring around it, and a ring around each of its holes.

    A ring (k, 2) has at least three corners, (x, y) in pixels; the last is joined to the first, which is not repeated.

    Raises:
        ValueError: a ring is not (k, 2), has less than three corners, or is not finite.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()

    def __post_init__(self) -> None:
        outer, *holes = (_check_ring(ring) for ring in (self.outer, *self.holes))
        set_frozen(self, outer=outer, holes=tuple(holes))

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The outer ring, then those of the holes."""
        return (self.outer, *self.holes)


def mask_to_polygons(mask: RLE | Bool[np.ndarray, "h w"], tolerance: float = TOLERANCE) -> list[Polygon]:
    """Return the parts of a mask, none for an empty one.

    Pixels that touch at a corner alone are two parts; holes that do are one. Outer rings run clockwise as seen on a
    screen, holes counterclockwise. Corners on a straight line between their neighbours are left out.

    Args:
        mask: in full, or run-length encoded.
        tolerance: largest distance in pixels from an outline to its simplification (Douglas and Peucker, 1973); 0 for
            none. Up to the default `polygons_to_mask` gives back the same mask, and no ring crosses or touches itself
            or another one. With more there are fewer corners, a ring may cross another, and none vanishes.

    Raises:
        ValueError: the tolerance is negative or nan.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 pixels or more, got {tolerance}")
    pixels = mask if isinstance(mask, np.ndarray) else decode_rle([mask])[0].numpy()
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if len(rows) == 0:
        return []
    top, left = int(rows[0]), int(columns[0])
    # Only the box around the mask is looked at, for speed. The rim of background closes the outlines.
    part = np.pad(pixels[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float64)
    contours = contourpy.contour_generator(z=part, fill_type=contourpy.FillType.OuterOffset)
    corner = np.array([left, top]) - 0.5  # the generator counts from the centre of the first pixel of the rim
    polygons = []
    for points, offsets in zip(*contours.filled(0.5, 2.0), strict=True):
        rings = [
            _simplify(_drop_collinear(points[start : end - 1] + corner), tolerance)  # the last repeats the first
            for start, end in pairwise(offsets)
        ]
        polygons.append(Polygon(rings[0], tuple(rings[1:])))
    return polygons


def polygons_to_mask(polygons: Sequence[Polygon], image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return which pixel centres lie in any of the polygons, by the even-odd rule in each; exactly, without smoothing.

    A centre on the outline itself is inside where the outline is on its left or above it. What lies outside the image
    is cut off.

    Args:
        polygons: any, also such that cross themselves or overlap.
        image_size: (height, width) in pixels.
    """
    mask = np.zeros(image_size, dtype=bool)
    for polygon in polygons:
        _fill(mask, polygon)
    return mask


def join_holes(polygon: Polygon) -> Ring:
    """Return the polygon as one ring, for formats that know no holes.

    From its leftmost corner each hole is joined to what is left of it by a horizontal bridge, which the ring passes to
    and fro. Drawn by the even-odd rule or by the nonzero one it is the same mask as before. A program that draws
    outlines shows the bridges.
    """
    ring = polygon.outer
    is_positive = _signed_area(ring) > 0
    # From left to right, so that a bridge can only meet the outer ring and holes that are joined to it already.
    for hole in sorted(polygon.holes, key=lambda hole: hole[:, 0].min()):
        start = np.lexsort((hole[:, 1], hole[:, 0]))[0]
        hole = np.roll(hole, -start, axis=0)
        if (_signed_area(hole) > 0) == is_positive:
            hole = np.roll(hole[::-1], 1, axis=0)
        edge, landing = _find_bridge(ring, hole[0])
        ring = np.concatenate([ring[: edge + 1], [landing], hole, hole[:1], [landing], ring[edge + 1 :]])
    return ring


def _check_ring(ring: ArrayLike) -> Ring:
    ring = np.asarray(ring, dtype=np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
        raise ValueError(f"a ring must be (k, 2) with at least three corners, got {ring.shape}")
    if not np.isfinite(ring).all():
        raise ValueError("a ring must be finite, got nan or infinity")
    return ring


def _drop_collinear(ring: Ring) -> Ring:
    # Corners are multiples of a half, so that there is no rounding.
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _simplify(ring: Ring, tolerance: float) -> Ring:
    """The ring with fewer corners; with a finer tolerance where too little would remain of it."""
    if tolerance == 0:
        return ring
    # Chains between two corners far apart, which both stay.
    ring = np.roll(ring, -_farthest(ring, ring[_farthest(ring, ring[0])]), axis=0)
    opposite = _farthest(ring, ring[0])
    tolerance = min(tolerance, float(np.ptp(ring)))
    closed = np.concatenate([ring, ring[:1]])
    while True:
        stays = np.zeros(len(closed), dtype=bool)
        for start, end in ((0, opposite), (opposite, len(ring))):
            stays[list(_corners(closed, start, end, tolerance))] = True
        simplified = ring[stays[:-1]]
        if len(simplified) >= 3 and _signed_area(simplified) * _signed_area(ring) > 0:
            return simplified
        tolerance /= 2


def _corners(points: Ring, start: int, end: int, tolerance: float) -> Iterator[int]:
    """Indices of the points that stay of a chain, both ends among them (Douglas and Peucker, 1973)."""
    yield from (start, end)
    chains = [(start, end)]
    while chains:
        start, end = chains.pop()
        if end - start < 2:
            continue
        distances = _distances(points[start + 1 : end], points[start], points[end])
        middle = int(distances.argmax())
        if distances[middle] > tolerance:
            middle += start + 1
            yield middle
            chains += [(start, middle), (middle, end)]


def _distances(points: Ring, a: Float64[np.ndarray, "2"], b: Float64[np.ndarray, "2"]) -> Float64[np.ndarray, "k"]:
    """Distances in pixels of points to the segment from a to b, which differ."""
    along = np.clip((points - a) @ (b - a) / np.sum((b - a) ** 2), 0, 1)
    return np.linalg.norm(points - a - along[:, None] * (b - a), axis=1)


def _farthest(ring: Ring, point: Float64[np.ndarray, "2"]) -> int:
    return int(np.sum((ring - point) ** 2, axis=1).argmax())


def _signed_area(ring: Ring) -> float:
    """Area in pixels, positive where the ring runs clockwise as seen on a screen."""
    x, y = (ring - ring[0]).T  # large coordinates would cost digits
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _find_bridge(ring: Ring, point: Float64[np.ndarray, "2"]) -> tuple[int, Float64[np.ndarray, "2"]]:
    """The nearest place of a ring on the horizontal line to the left of a point, and the edge that it lies on."""
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    reaches = (np.minimum(y0, y1) <= point[1]) & (point[1] <= np.maximum(y0, y1))
    slanted = y0 != y1
    share = np.divide(point[1] - y0, y1 - y0, out=np.zeros_like(y0), where=slanted)
    x = np.where(slanted, x0 + share * (x1 - x0), np.maximum(x0, x1))
    x[~reaches | (x > point[0])] = -np.inf
    edge = int(x.argmax())
    if np.isneginf(x[edge]):  # the hole reaches beyond the ring, which only coarse simplifications do
        edge = int(np.sum((ring - point) ** 2, axis=1).argmin())
        return edge, ring[edge]
    return edge, np.array([x[edge], point[1]])


def _fill(mask: Bool[np.ndarray, "h w"], polygon: Polygon) -> None:
    """Set the pixels whose centres lie in a polygon."""
    starts = np.concatenate(polygon.rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in polygon.rings])
    (left, top), (right, bottom) = (
        (_first_centre(x, mask.shape[1]), _first_centre(y, mask.shape[0]))
        for x, y in (starts.min(axis=0), starts.max(axis=0))
    )
    if top == bottom or left == right:
        return
    # An edge is read downwards, so that one which is passed to and fro crosses twice at exactly the same place.
    upwards = (starts[:, 1] > ends[:, 1])[:, None]
    starts, ends = np.where(upwards, ends, starts), np.where(upwards, starts, ends)
    first, last = (_first_centre(side, mask.shape[0]) for side in (starts[:, 1], ends[:, 1]))
    counts = last - first
    edges = np.repeat(np.arange(len(counts)), counts)  # one entry for each row of centres that an edge crosses
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    (x0, y0), (x1, y1) = starts[edges].T, ends[edges].T
    columns = _first_centre(x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0)), mask.shape[1]).clip(left, right)
    # Every crossing turns inside to outside for all that follows in its row. Some rows at a time, to save memory.
    width = right - left + 1
    height = max(1, _PIXELS_AT_ONCE // width)
    for start in range(top, bottom, height):
        stop = min(start + height, bottom)
        chosen = slice(None) if height >= bottom - top else (start <= rows) & (rows < stop)
        places = (rows[chosen] - start) * width + columns[chosen] - left
        crossings = np.bincount(places, minlength=(stop - start) * width).reshape(-1, width)[:, :-1]
        mask[start:stop, left:right] |= np.cumsum(crossings, axis=1) % 2 == 1


def _first_centre(position: Any, length: int) -> Any:
    """The first of `length` pixels whose centre is at a position or behind it; `length` where there is none."""
    return np.clip(np.ceil(position - 0.5), 0, length).astype(np.int64)

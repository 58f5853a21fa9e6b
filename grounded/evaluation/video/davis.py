"""Region similarity J and boundary accuracy F of tracked masks, by the protocol of DAVIS (Perazzi et al., 2016).

For `grounded evaluate video`, and for whoever has masks in memory. Values are those of the public davis2017-evaluation.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.spatial import KDTree

# How far a boundary pixel may lie from the true boundary, as a fraction of the image's diagonal.
TOLERANCE = 0.008
# Recall counts the frames above this value.
_GOOD = 0.5


class RegionAndBoundary(NamedTuple):
    """J and F of one track, each averaged over its frames."""

    region: float
    boundary: float

    @property
    def mean(self) -> float:
        """J&F, the mean of both."""
        return (self.region + self.boundary) / 2


class Statistics(NamedTuple):
    """What DAVIS reports of a measure over the frames of an object (Perazzi et al., 2016, section 4.3).

    mean    over the frames
    recall  the fraction of the frames above 0.5
    decay   how much the mean of the last quarter of the frames is below that of the first
    """

    mean: float
    recall: float
    decay: float


def measure_track(
    masks: Iterable[Bool[np.ndarray, "h w"]], truths: Iterable[Bool[np.ndarray, "h w"]]
) -> RegionAndBoundary:
    """Compare a track with the truth, frame by frame.

    DAVIS leaves out the first frame of a clip, whose mask is given, and the last: leave them out before.

    Raises:
        ValueError: there are no frames, or not as many of both.
    """
    pairs = list(zip(masks, truths, strict=True))
    if not pairs:
        raise ValueError("measure_track needs one frame or more, got none")
    regions = [region_similarity(mask, truth) for mask, truth in pairs]
    boundaries = [boundary_accuracy(mask, truth) for mask, truth in pairs]
    return RegionAndBoundary(float(np.mean(regions)), float(np.mean(boundaries)))


def statistics(values: Float64[np.ndarray, "t"]) -> Statistics:
    """Summarise the values of one object in t frames, t at least 1.

    Quarters share the frame at which one ends and the next begins, as in the public code.
    """
    # To the nearest frame, halves upwards, counted from 1; the public code stores these as 8 bits, we do not.
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    return Statistics(
        mean=float(values.mean()), recall=float((values > _GOOD).mean()), decay=float(first.mean() - last.mean())
    )


def region_similarity(mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """J, the intersection over union; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_accuracy(
    mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], tolerance: float = TOLERANCE
) -> float:
    """F, the harmonic mean of precision and recall of the boundary's pixels; 1 where both have none.

    Args:
        mask: to be measured.
        truth: of the same size.
        tolerance: distance up to which boundary pixels match, as a fraction of the diagonal, rounded up to pixels.
    """
    return boundary_f(Boundary.of(mask), Boundary.of(truth), tolerance_in_pixels(mask.shape, tolerance))


def tolerance_in_pixels(image_size: tuple[int, ...], tolerance: float = TOLERANCE) -> int:
    """Distance up to which boundary pixels match in images of (height, width)."""
    return int(np.ceil(tolerance * np.linalg.norm(image_size)))


class Boundary:
    """The boundary pixels of one mask, to be compared with those of others."""

    def __init__(self, pixels: Int64[np.ndarray, "k 2"]) -> None:
        self.pixels = pixels  # (row, column)
        # Not balanced: pixels lie on a grid, and medians of equal numbers take long.
        self._tree = KDTree(pixels, balanced_tree=False, compact_nodes=False) if len(pixels) else None

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "h w"]) -> "Boundary":
        """Find the pixels that differ from their neighbour to the right, below, or to the lower right.

        Beyond the image a pixel's neighbour is like itself, so that a mask has no boundary at the image's border.
        """
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(np.zeros((0, 2), np.int64))
        # Around the mask nothing changes, so only its box is looked at, and the pixels that touch it.
        top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
        crop = np.pad(mask[top : rows[-1] + 2, left : columns[-1] + 2], ((0, 1), (0, 1)), mode="edge")
        pixels, right, below, diagonal = crop[:-1, :-1], crop[:-1, 1:], crop[1:, :-1], crop[1:, 1:]
        found = np.argwhere((pixels != right) | (pixels != below) | (pixels != diagonal))
        return cls(found + np.array([top, left]))

    def near(self, other: "Boundary", radius: int) -> float:
        """The fraction of these pixels that have one of `other` at most `radius` pixels away; neither may be empty."""
        assert other._tree is not None
        distances, _ = other._tree.query(self.pixels, distance_upper_bound=radius + 0.5)
        return float(np.mean(distances <= radius))


def boundary_f(found: Boundary, true: Boundary, radius: int) -> float:
    """F of two boundaries, whose pixels match up to `radius` pixels apart."""
    if not len(found.pixels) or not len(true.pixels):
        return float(len(found.pixels) == len(true.pixels))
    precision, recall = found.near(true, radius), true.near(found, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

"""Counts the boundary pixels of an edge map that agree with several annotations, at each of many thresholds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from grounded.errors import ResultError
from grounded.evaluation.boundaries.matching import BoundaryMatcher
from grounded.evaluation.boundaries.thinning import thin

# Of BSDS500: the greatest distance of a matched pair as a share of the image diagonal, and the number of thresholds.
TOLERANCE, THRESHOLDS = 0.0075, 99


@dataclass(frozen=True, eq=False)
class BoundaryCounts:
    """Pixels of one image, or of several together, at t rising thresholds.

    A true pixel counts once for each annotation that has it; a predicted one is matched if it is matched in any.
    """

    matched_true: Int64[np.ndarray, "t"]
    true: Int64[np.ndarray, "t"]  # the same at all thresholds
    matched_predicted: Int64[np.ndarray, "t"]
    predicted: Int64[np.ndarray, "t"]

    @property
    def recall(self) -> Float64[np.ndarray, "t"]:
        """Share of the true pixels that are matched; 0 where there are none."""
        return self.matched_true / np.maximum(self.true, 1)

    @property
    def precision(self) -> Float64[np.ndarray, "t"]:
        """Share of the predicted pixels that are matched; 0 where there are none."""
        return self.matched_predicted / np.maximum(self.predicted, 1)

    def __add__(self, other: "BoundaryCounts") -> "BoundaryCounts":
        return BoundaryCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def at(self, index: int) -> "BoundaryCounts":
        """Return the counts at one threshold alone (t = 1)."""
        return BoundaryCounts(*(values[index : index + 1] for values in vars(self).values()))


def edge_thresholds(count: int = THRESHOLDS) -> Float64[np.ndarray, "t"]:
    """Return evenly spaced thresholds strictly between 0 and 1, rising."""
    return np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count)


def measure_edge_map(
    edge_map: Float[np.ndarray, "h w"],
    annotations: Sequence[Bool[np.ndarray, "h w"]],
    thresholds: int = THRESHOLDS,
    tolerance: float = TOLERANCE,
    thinned: bool = True,
) -> BoundaryCounts:
    """Threshold an edge map, thin it, and match its pixels one to one with those of each annotation.

    Args:
        edge_map: strengths from 0 to 1.
        annotations: boundary pixels as each annotator drew them, used as they are.
        thresholds: how many, see `edge_thresholds`; pixels of at least a threshold are predicted.
        tolerance: greatest distance of a matched pair, as a share of the image diagonal.
        thinned: whether the thresholded map is thinned first, as the protocol has it.

    Raises:
        ResultError: there is no annotation, sizes differ, or strengths lie outside 0 to 1.
    """
    _check(edge_map, annotations)
    max_distance = tolerance * math.hypot(*edge_map.shape)
    matchers = [BoundaryMatcher(annotation, max_distance) for annotation in annotations]
    matched_true, matched_predicted, predicted = (np.zeros(thresholds, np.int64) for _ in range(3))
    # From high to low: a map gains pixels from one threshold to the next, and hardly loses any.
    for index, threshold in reversed(list(enumerate(edge_thresholds(thresholds)))):
        edges = edge_map >= threshold
        if thinned:
            edges = thin(edges)
        matched = np.zeros(edges.shape, bool)
        for matcher in matchers:
            matcher.update(edges)
            matched_true[index] += matcher.size
            matched |= matcher.matched
        matched_predicted[index], predicted[index] = matched.sum(), edges.sum()
    true = np.full(thresholds, sum(int(annotation.sum()) for annotation in annotations), np.int64)
    return BoundaryCounts(matched_true, true, matched_predicted, predicted)


def _check(edge_map: np.ndarray, annotations: Sequence[np.ndarray]) -> None:
    if not annotations:
        raise ResultError("an image must have at least one annotation, got none")
    for annotation in annotations:
        if annotation.shape != edge_map.shape:
            raise ResultError(f"the annotation is {_size(annotation)} pixels, the edge map {_size(edge_map)}")
    if edge_map.size and not (edge_map.min() >= 0 and edge_map.max() <= 1):
        raise ResultError(f"edge strengths must lie in [0, 1], got {edge_map.min():.4g} to {edge_map.max():.4g}")


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"

"""ODS, OIS, AP and R50 from the counts of images, computed as the benchmarks of Berkeley and Dollár do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from grounded.evaluation.boundaries.measure import BoundaryCounts, edge_thresholds

_STEPS = 100  # between two thresholds, along a straight line in precision and recall


@dataclass(frozen=True, eq=False)
class BoundaryScores:
    """The measures of boundaries over a data set, from 0 to 1.

    The curve holds precision and recall over all pixels of the data set at each of t rising thresholds.
    """

    ods: float  # best F at one threshold for the whole data set
    ois: float  # F over the data set when each image has its own best threshold
    average_precision: float  # mean precision at recalls of 0, 0.01, ..., 1, without those that no threshold reaches
    recall_at_half_precision: float | None  # R50; None where precision never reaches 0.5
    threshold: float  # that of ODS
    ods_precision: float
    ods_recall: float
    thresholds: Float64[np.ndarray, "t"]
    precision: Float64[np.ndarray, "t"]
    recall: Float64[np.ndarray, "t"]


def score_boundaries(counts: Sequence[BoundaryCounts]) -> BoundaryScores:
    """Return the measures of one or more images.

    Raises:
        ValueError: there is no image.
    """
    if not counts:
        raise ValueError("counts must hold at least one image, got none")
    total = sum(counts[1:], start=counts[0])
    thresholds = edge_thresholds(len(total.true))
    threshold, precision, recall = best_point(thresholds, total.precision, total.recall)
    own = [one.at(_last_best(f_measure(one.precision, one.recall))) for one in counts]
    chosen = sum(own[1:], start=own[0])
    return BoundaryScores(
        ods=float(f_measure(precision, recall)),
        ois=float(f_measure(chosen.precision, chosen.recall)[0]),
        average_precision=average_precision(total.precision, total.recall),
        recall_at_half_precision=recall_at_precision(total.precision, total.recall, 0.5),
        threshold=threshold,
        ods_precision=precision,
        ods_recall=recall,
        thresholds=thresholds,
        precision=total.precision,
        recall=total.recall,
    )


def f_measure(
    precision: Float64[np.ndarray, "*n"] | float, recall: Float64[np.ndarray, "*n"] | float
) -> Float64[np.ndarray, "*n"]:
    """Return the harmonic mean of precision and recall; 0 where both are 0."""
    precision, recall = np.asarray(precision, np.float64), np.asarray(recall, np.float64)
    total = precision + recall
    return np.asarray(2 * precision * recall / np.where(total > 0, total, 1))


def best_point(
    thresholds: Float64[np.ndarray, "t"], precision: Float64[np.ndarray, "t"], recall: Float64[np.ndarray, "t"]
) -> tuple[float, float, float]:
    """Return threshold, precision and recall of the best F on the curve, with straight lines between its points."""
    position = np.linspace(0, len(thresholds) - 1, (len(thresholds) - 1) * _STEPS + 1)
    at = np.arange(len(thresholds))
    curves = [np.interp(position, at, values) for values in (thresholds, precision, recall)]
    best = int(f_measure(curves[1], curves[2]).argmax())
    threshold, precision_there, recall_there = (float(curve[best]) for curve in curves)
    return threshold, precision_there, recall_there


def average_precision(precision: Float64[np.ndarray, "t"], recall: Float64[np.ndarray, "t"]) -> float:
    """Return the sum of the precision at recalls of 0, 0.01, ..., 1, divided by 100 as the benchmark has it.

    Recalls beyond the curve count as precision 0. 0 for a curve of one recall.
    """
    recalls, first = np.unique(recall, return_index=True)
    if len(recalls) < 2:
        return 0.0
    return float(np.interp(np.arange(101) / 100, recalls, precision[first], left=0, right=0).sum() / 100)


def recall_at_precision(
    precision: Float64[np.ndarray, "t"], recall: Float64[np.ndarray, "t"], least: float
) -> float | None:
    """Return the recall at a precision, or at the lowest one of the curve if that is higher; None if all are lower."""
    precisions, first = np.unique(precision, return_index=True)
    if precisions[-1] < least:
        return None
    return float(np.interp(max(least, precisions[0]), precisions, recall[first]))


def _last_best(values: Float64[np.ndarray, "t"]) -> int:
    """Return the index of the highest value; of equal ones the last, as the benchmark has it."""
    return len(values) - 1 - int(values[::-1].argmax())

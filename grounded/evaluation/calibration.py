"""Calibration of scores: of predictions with a score of 0.8, are 80% right?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Predictions whose scores lie in [low, high), in the last bin also those of 1."""

    low: float
    high: float
    count: int
    mean_score: float | None  # None without predictions
    accuracy: float | None  # share that is right


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram, and the expected calibration error: the mean distance of its bins from the diagonal."""

    bins: tuple[Bin, ...]
    error: float | None  # expected calibration error in [0, 1]; None without predictions
    unscored: int  # predictions without a score, which are left out


def calibration(scores: Float[np.ndarray, "n"], correct: Bool[np.ndarray, "n"], bins: int = BINS) -> Calibration:
    """Compare scores with the share of predictions that are right (Guo et al., 2017).

    Args:
        scores: of the predictions, nan for unknown; scores outside [0, 1] count as 0 or 1.
        correct: whether each prediction is right.
        bins: of equal width in [0, 1].

    Raises:
        ValueError: the arrays differ in length, or there is no bin.
    """
    if scores.shape != correct.shape:
        raise ValueError(f"scores and correct must be of one length, got {len(scores)} and {len(correct)}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    known = ~np.isnan(scores)
    scores, hits = np.clip(scores[known].astype(np.float64), 0, 1), correct[known].astype(np.float64)
    edges = np.arange(bins + 1) / bins
    bin_ids = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    counts = np.bincount(bin_ids, minlength=bins)
    score_sums, hit_sums = (np.bincount(bin_ids, weights=values, minlength=bins) for values in (scores, hits))
    table = tuple(
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(counts[i]),
            mean_score=float(score_sums[i] / counts[i]) if counts[i] else None,
            accuracy=float(hit_sums[i] / counts[i]) if counts[i] else None,
        )
        for i in range(bins)
    )
    error = float(np.abs(hit_sums - score_sums).sum() / len(scores)) if len(scores) else None
    return Calibration(table, error, int((~known).sum()))

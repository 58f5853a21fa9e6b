"""Whether scores mean what they say: of answers with a score of 0.8, are 80% right?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Answers whose scores lie in [low, high), the last bin up to 1 and with it."""

    low: float
    high: float
    count: int
    mean_score: float | None  # None without answers
    share_right: float | None


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram, and the expected calibration error: the mean distance of its bins from the diagonal."""

    bins: tuple[Bin, ...]
    error: float | None  # in [0, 1]; None without answers
    unknown: int  # answers without a score, which are left out


def reliability(scores: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], bins: int = BINS) -> Reliability:
    """Compare scores with the share of answers that are right (Guo et al., 2017).

    Args:
        scores: of the answers, nan for unknown; what lies outside [0, 1] counts as 0 or 1.
        right: whether each answer is right.
        bins: of equal width in [0, 1].

    Raises:
        ValueError: the arrays differ in length, or there is no bin.
    """
    if scores.shape != right.shape:
        raise ValueError(f"scores and right must be of one length, got {len(scores)} and {len(right)}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    known = ~np.isnan(scores)
    score, hit = np.clip(scores[known].astype(np.float64), 0, 1), right[known].astype(np.float64)
    edges = np.arange(bins + 1) / bins
    places = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    score_sums, hits = (np.bincount(places, weights=values, minlength=bins) for values in (score, hit))
    table = tuple(
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(counts[i]),
            mean_score=float(score_sums[i] / counts[i]) if counts[i] else None,
            share_right=float(hits[i] / counts[i]) if counts[i] else None,
        )
        for i in range(bins)
    )
    error = float(np.abs(hits - score_sums).sum() / len(score)) if len(score) else None
    return Reliability(table, error, int((~known).sum()))

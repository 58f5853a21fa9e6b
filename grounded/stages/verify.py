"""Verify: CLIP looks at each mask, and of masks that nearly coincide the best stays."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.protocols import RegionScorer
from segany.utils.rle import RLE, rle_area, rle_containment, rle_iou


def score(
    scorer: RegionScorer, image: SourceImage, rles: Sequence[RLE], phrases: Sequence[str]
) -> Float32[np.ndarray, "n p"]:
    """Return CLIP's probability of each phrase for each mask of an image."""
    return scorer.score(image.pixels, rles, phrases)


def with_clip_scores(instances: Instances, probabilities: Float[np.ndarray, "n p"]) -> Instances:
    """Add CLIP's score of each instance for its own phrase, and rank by it and what else is known.

    The rank is the geometric mean with the detector's score, or with predicted IoU where no detector has scored.
    """
    own = probabilities[np.arange(len(instances)), instances.phrase_ids].astype(np.float32)
    scored = np.isfinite(instances.detector_scores)
    other = np.where(scored, instances.detector_scores, instances.predicted_iou.clip(0, 1))
    return replace(instances, clip_scores=own, scores=np.sqrt(own * other))


def keep_recognised(instances: Instances, probabilities: Float[np.ndarray, "n p"], clip_threshold: float) -> Instances:
    """Drop instances that do not look like their phrase to CLIP; a user's click is no guess, and stays."""
    scored = with_clip_scores(instances, probabilities)
    return scored[(scored.clip_scores >= clip_threshold) | (scored.sources == "point")]


def distinct_rows(instances: Instances, nms_threshold: float | None, containment_threshold: float | None) -> list[int]:
    """Return the rows of the instances that stay when empty masks and duplicates within a phrase go, best first."""
    rows = np.flatnonzero(rle_area(instances.rles)).tolist()
    drawn = instances[rows]
    kept = suppress(drawn.rles, drawn.scores, drawn.phrase_ids, nms_threshold, containment_threshold)
    return [rows[i] for i in kept]


def suppress(
    rles: Sequence[RLE],
    scores: Float[np.ndarray, "n"],
    phrase_ids: Int[np.ndarray, "n"],
    nms_threshold: float | None,
    containment_threshold: float | None = None,
) -> Int64[np.ndarray, "m"]:
    """Non-maximum suppression of masks within each phrase: the indices of the masks that stay, best score first.

    A mask is dropped when a mask of the same phrase that stays, and has at least its score, overlaps it with an IoU
    above `nms_threshold`, or when more than `containment_threshold` of the smaller of the two lies in the other. None
    switches a test off. Masks of different phrases never suppress each other: a wheel in a car is two instances.
    """
    stay: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        rivals = [rles[j] for j in stay if phrase_ids[j] == phrase_ids[i]]
        if not _is_covered(rles[i], rivals, nms_threshold, containment_threshold):
            stay.append(i)
    return np.array(stay, dtype=np.int64)


def _is_covered(
    rle: RLE, rivals: Sequence[RLE], nms_threshold: float | None, containment_threshold: float | None
) -> bool:
    if not rivals:
        return False
    if nms_threshold is not None and rle_iou([rle], rivals).max() > nms_threshold:
        return True
    if containment_threshold is None:
        return False
    shares = np.maximum(rle_containment([rle], rivals)[0], rle_containment(rivals, [rle])[:, 0])
    return bool(shares.max() > containment_threshold)

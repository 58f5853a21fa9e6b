"""Non-maximum suppression of masks within one phrase, on run-length encodings."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Int64
from pycocotools import mask as coco_mask

from segany.utils.rle import RLE


def suppress(
    rles: Sequence[RLE],
    scores: Float[np.ndarray, "n"],
    phrase_ids: Int[np.ndarray, "n"],
    iou_threshold: float | None,
    containment_threshold: float | None = None,
) -> Int64[np.ndarray, "m"]:
    """Return the indices of the masks to keep, best score first.

    A mask is dropped when a kept mask of the same phrase, which has at least its score, overlaps it by more than
    `iou_threshold`, or when more than `containment_threshold` of the smaller of the two lies in the other. None
    switches a test off. Masks of different phrases never suppress each other: a wheel in a car is two answers.
    """
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        rivals = [rles[j] for j in kept if phrase_ids[j] == phrase_ids[i]]
        if not _is_covered(rles[i], rivals, iou_threshold, containment_threshold):
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def _is_covered(
    rle: RLE, rivals: Sequence[RLE], iou_threshold: float | None, containment_threshold: float | None
) -> bool:
    if not rivals:
        return False
    if iou_threshold is not None and _ratios(rle, rivals, over_first=False).max() > iou_threshold:
        return True
    if containment_threshold is None:
        return False
    shares = np.maximum(_ratios(rle, rivals, over_first=True), [_ratios(r, [rle], over_first=True)[0] for r in rivals])
    return bool(shares.max() > containment_threshold)


def _ratios(rle: RLE, rivals: Sequence[RLE], over_first: bool) -> Float[np.ndarray, "m"]:
    """Intersection of `rle` with each rival, over their union, or with `over_first` over the area of `rle`."""
    # COCO's "crowd" overlap divides by the area of the first mask alone.
    return coco_mask.iou([rle], list(rivals), [over_first] * len(rivals))[0]

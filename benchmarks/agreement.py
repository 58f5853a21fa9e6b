"""How far the answers of two implementations agree."""

from collections import defaultdict

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.peers import Found


def mean_iou(a: Found, b: Found) -> tuple[float, float]:
    """Mean IoU of each mask with the best mask of the same point in the other; 0 where there is none.

    Returns both directions: of the masks of `a`, and of those of `b`.
    """
    there, back = _by_point(a), _by_point(b)
    return _one_way(there, back), _one_way(back, there)


def _one_way(ours: dict, theirs: dict) -> float:
    best: list[float] = []
    for point, rles in ours.items():
        others = theirs.get(point, [])
        if others:
            best += coco_mask.iou(rles, others, [0] * len(others)).max(1).tolist()
        else:
            best += [0.0] * len(rles)
    return float(np.mean(best)) if best else 0.0


def _by_point(found: Found) -> dict:
    assert found.points is not None
    groups = defaultdict(list)
    # In one dtype before rounding: 28.12 in float32 is not 28.12 in float64.
    for point, rle in zip(found.points.astype(np.float64).round(2).tolist(), found.rles, strict=True):
        groups[tuple(point)].append(rle)
    return groups

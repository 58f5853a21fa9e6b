"""Measures of semantic segmentation and of mask boundaries: class IoU and the boundary F-score."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from grounded.evaluation.dataset import ImagePair
from segany.utils.rle import RLE, rle_area, rle_intersection, rle_union

# Share of the image diagonal by which boundaries may lie apart, as in the evaluation of DAVIS (Perazzi et al., 2016).
BOUNDARY_TOLERANCE = 0.008


def boundary_f_score(
    prediction: Bool[np.ndarray, "h w"], target: Bool[np.ndarray, "h w"], tolerance: float = BOUNDARY_TOLERANCE
) -> float:
    """Return the harmonic mean of boundary precision and boundary recall (Csurka et al., 2013; Perazzi et al., 2016).

    Precision is the share of the predicted boundary pixels that lie near the true boundary, recall the share of the
    true boundary pixels that lie near the predicted one. Near is at most `tolerance` of the image diagonal, rounded up
    to whole pixels, between pixel centres. 1 where neither mask has a boundary, 0 where one alone has.

    Args:
        prediction: the mask to evaluate.
        target: the true mask in the same image.
        tolerance: as a share of the diagonal.

    Raises:
        ValueError: the masks differ in size, or the tolerance is negative.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"masks must be of one size, got {prediction.shape} and {target.shape}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    max_distance = math.ceil(tolerance * math.hypot(*target.shape))
    window = _bounding_window(prediction | target)
    predicted, true = mask_boundary(prediction[window]), mask_boundary(target[window])
    if not predicted.any() or not true.any():
        return float(predicted.any() == true.any())
    precision = float((_distances_to(true)[predicted] <= max_distance).mean())
    recall = float((_distances_to(predicted)[true] <= max_distance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mask_boundary(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a mask that have a neighbour outside it, out of four.

    The border of the image is no boundary: a mask that is cut off there has none.
    """
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def _bounding_window(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Return the rows and columns of a mask's bounding box, with a margin of one pixel inside the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, int(rows[0]) - 1), int(rows[-1]) + 2),
        slice(max(0, int(columns[0]) - 1), int(columns[-1]) + 2),
    )


def _distances_to(boundary: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """Return the distance of each pixel to the nearest one of the boundary, in pixels."""
    return np.asarray(ndimage.distance_transform_edt(~boundary), dtype=np.float64)


@dataclass(frozen=True)
class ClassIou:
    """IoU of each class over the pixels of all images, and its mean over the classes that have ground truth."""

    mean: float | None  # None without any ground truth
    classes: Mapping[str, float]  # those that have a pixel in the ground truth or in a prediction


def class_iou(pairs: Sequence[ImagePair]) -> ClassIou:
    """Return the intersection over union of true and predicted pixels of each class (Everingham et al., 2015).

    The masks of a class are joined in each image; pixels are added up over the images before they are divided. Pixels
    that are in a crowd and in no other object of the class count neither way.

    Raises:
        ResultError: the ground truth has boxes alone.
    """
    intersections: Counter[str] = Counter()
    unions: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    for pair in pairs:
        for label in {target.label for target in pair.targets} | {p.label for p in pair.predictions}:
            targets = [t.require_mask() for t in pair.targets if t.label == label and not t.is_crowd]
            crowds = [t.require_mask() for t in pair.targets if t.label == label and t.is_crowd]
            predictions = [p.mask for p in pair.predictions if p.label == label]
            intersection, union = _intersection_and_union(targets, predictions, crowds)
            intersections[label] += intersection
            unions[label] += union
            objects[label] += len(targets)
    classes = {label: intersections[label] / unions[label] for label in sorted(unions) if unions[label]}
    known = [iou for label, iou in classes.items() if objects[label]]
    return ClassIou(sum(known) / len(known) if known else None, classes)


def _intersection_and_union(
    targets: Sequence[RLE], predictions: Sequence[RLE], crowds: Sequence[RLE]
) -> tuple[int, int]:
    """Return the pixels of the intersection and of the union of two sets of masks, less those in a crowd alone."""
    if not predictions:
        return 0, _union_area(targets)
    if not targets:
        return 0, _union_area(predictions) - _common_area(predictions, crowds)
    intersection = _common_area(targets, predictions)
    union = _union_area([*targets, *predictions])
    if not crowds:
        return intersection, union
    in_crowds = rle_intersection([rle_union(predictions), rle_union(crowds)])
    return intersection, union - _union_area([in_crowds]) + _common_area([in_crowds], targets)


def _union_area(masks: Sequence[RLE]) -> int:
    return int(rle_area([rle_union(masks)])[0]) if masks else 0


def _common_area(first: Sequence[RLE], second: Sequence[RLE]) -> int:
    """Return the number of pixels that both sets of masks cover; run lengths are never decoded."""
    if not first or not second:
        return 0
    return int(rle_area([rle_intersection([rle_union(first), rle_union(second)])])[0])

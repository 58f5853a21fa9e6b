"""Average precision as LVIS defines it (Gupta et al., 2019): not every class is annotated in every image.

A class counts in the images where it is annotated, or stated to be absent: predictions elsewhere are neither right nor
wrong and dropped. Where the objects of a class are not annotated to the end, predictions that match none are ignored.
At most 300 predictions of an image count. Otherwise as COCO's AP; there are no crowds.

Written here, since the evaluator of the `lvis` package (0.5.3) does not run with NumPy 1.24 or later, and holds
every pair of a class and an image in memory. The tests compare the two.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from grounded.evaluation.average_precision import AveragePrecision, ClassPrecision
from grounded.evaluation.dataset import GroundTruthObject, ImagePair, Prediction
from grounded.evaluation.matching import UNMATCHED, match_with_ignored
from grounded.evaluation.proposals import AREAS, FREQUENCIES, IOU_THRESHOLDS
from grounded.labelling.formats.lvis import Federation
from segany.utils.rle import rle_area, rle_iou

MAX_PREDICTIONS = 300  # of an image, over all classes
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class FederatedPrecision:
    """AP over all classes, of each by itself, and over the classes of each frequency; None without ground truth."""

    by_class: ClassPrecision
    frequencies: Mapping[str, float | None]  # "rare", "common", "frequent"


@dataclass(frozen=True)
class _MatchedImage:
    """Predictions of one class in one image, best first, against objects of one range of sizes."""

    scores: Float64[np.ndarray, "n"]
    is_right: Bool[np.ndarray, "t n"]
    is_wrong: Bool[np.ndarray, "t n"]  # ignored ones are neither
    objects: int


def federated_precision(pairs: Sequence[ImagePair], federation: Federation) -> FederatedPrecision:
    """Return LVIS's AP of masks, over the classes that have ground truth in some image.

    Args:
        pairs: of all images, by file; crowds, which LVIS does not have, are left out.
        federation: of the same annotation file.

    Raises:
        ResultError: an object has no mask.
    """
    images: dict[str, list[tuple[list[GroundTruthObject], list[Prediction], bool]]] = defaultdict(list)
    for pair in pairs:
        ranked = sorted(pair.predictions, key=lambda one: -one.score if one.score == one.score else np.inf)
        objects, found = defaultdict(list), defaultdict(list)
        for target in pair.ground_truth:
            if not target.is_crowd:
                objects[target.label].append(target)
        for prediction in ranked[:MAX_PREDICTIONS]:
            found[prediction.label].append(prediction)
        for label in objects.keys() | (found.keys() & federation.absent.get(pair.file, frozenset())):
            is_incomplete = label in federation.incomplete.get(pair.file, frozenset())
            images[label].append((objects[label], found[label], is_incomplete))
    classes = {label: _class_precision(own) for label, own in sorted(images.items())}
    known = [one for one in classes.values() if one.mean is not None]
    names = ("mean", "at_50", "at_75", "small", "medium", "large")
    overall = AveragePrecision(**{name: _mean([getattr(one, name) for one in known]) for name in names})
    frequencies = {
        name: _mean([one.mean for label, one in classes.items() if federation.frequencies.get(label) == name])
        for name in FREQUENCIES
    }
    return FederatedPrecision(ClassPrecision(overall, classes), frequencies)


def _class_precision(images: Sequence[tuple[list[GroundTruthObject], list[Prediction], bool]]) -> AveragePrecision:
    if not any(objects for objects, _, _ in images):
        return AveragePrecision()
    measured = [(*one, rle_iou([p.mask for p in one[1]], [t.require_mask() for t in one[0]])) for one in images]
    precisions = {area: _interpolated_precision([_match_image(*one, area=area) for one in measured]) for area in AREAS}
    means = {area: None if p is None else float(p.mean()) for area, p in precisions.items()}
    overall = precisions["all"]
    return AveragePrecision(
        mean=means["all"],
        at_50=None if overall is None else float(overall[0].mean()),
        at_75=None if overall is None else float(overall[5].mean()),
        small=means["small"],
        medium=means["medium"],
        large=means["large"],
    )


def _match_image(
    objects: Sequence[GroundTruthObject],
    predictions: Sequence[Prediction],
    is_incomplete: bool,
    ious: Float64[np.ndarray, "n m"],
    area: str,
) -> _MatchedImage:
    low, high = AREAS[area]
    areas = np.array([one.area for one in objects], dtype=np.float64)
    ignored = (areas < low) | (areas > high)
    own_areas = rle_area([one.mask for one in predictions])
    is_outside = (own_areas < low) | (own_areas > high) | is_incomplete
    right, wrong = [], []
    for threshold in IOU_THRESHOLDS:
        matched = match_with_ignored(ious, ignored, np.zeros(len(objects), bool), threshold)
        is_matched = matched != UNMATCHED
        is_right = is_matched.copy()
        is_right[is_matched] = ~ignored[matched[is_matched]]
        right.append(is_right)
        wrong.append(~is_matched & ~is_outside)
    scores = np.array([one.score if one.score == one.score else -np.inf for one in predictions], dtype=np.float64)
    return _MatchedImage(scores, np.stack(right), np.stack(wrong), int((~ignored).sum()))


def _interpolated_precision(images: Sequence[_MatchedImage]) -> Float64[np.ndarray, "t r"] | None:
    """Return the greatest precision at each recall or above, for each IoU threshold; None without objects."""
    objects = sum(one.objects for one in images)
    if not objects:
        return None
    order = np.argsort(-np.concatenate([one.scores for one in images]), kind="stable")
    right = np.concatenate([one.is_right for one in images], axis=1)[:, order].cumsum(axis=1)
    wrong = np.concatenate([one.is_wrong for one in images], axis=1)[:, order].cumsum(axis=1)
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)  # of recalls that are not reached
    return np.stack(
        [row[np.searchsorted(own / objects, _RECALLS, side="left")] for row, own in zip(envelope, right, strict=True)]
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

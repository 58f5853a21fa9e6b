"""Greedy matching of predictions to ground truth, and the counts that follow from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from pycocotools import mask as coco_mask  # IoU of boxes with crowds

from grounded.data.parallel_arrays import set_frozen
from grounded.evaluation.dataset import GroundTruthObject, ImagePair, Prediction
from segany.utils.rle import rle_iou

IouType = Literal["mask", "box"]

UNMATCHED, IGNORED = -1, -2


@dataclass(frozen=True, eq=False)
class Matches:
    """For each of the n predictions of an image the ground truth that it was matched to.

    Raises:
        ValueError: the arrays are not of one length.
    """

    target_ids: Int64[np.ndarray, "n"]  # into ImagePair.ground_truth; UNMATCHED, or IGNORED for predictions in a crowd
    ious: Float64[np.ndarray, "n"]  # with that object, 0 without one
    pairwise: Float64[np.ndarray, "n m"]  # IoU of every prediction with every object, see `pairwise_iou`

    def __post_init__(self) -> None:
        set_frozen(self, target_ids=np.asarray(self.target_ids, np.int64), ious=np.asarray(self.ious, np.float64))
        if not len(self.target_ids) == len(self.ious) == len(self.pairwise):
            lengths = f"{len(self.target_ids)} target_ids and {len(self.ious)} IoUs"
            raise ValueError(f"matches must be of n predictions, got {lengths}")

    def __len__(self) -> int:
        return len(self.target_ids)

    @property
    def is_true_positive(self) -> Bool[np.ndarray, "n"]:
        return self.target_ids >= 0

    @property
    def is_evaluated(self) -> Bool[np.ndarray, "n"]:
        """Whether a prediction is a true or a false positive, rather than ignored."""
        return self.target_ids != IGNORED


def match_pair(pair: ImagePair, iou_type: IouType, threshold: float) -> Matches:
    """Match the predictions of an image to the ground truth of the classes in its prompt, class by class.

    Predictions choose in the order of their scores, unknown scores last. Each takes the object with the greatest IoU
    that is still free, if that IoU is at least `threshold`. One without such an object is ignored where at least
    `threshold` of its own area lies in a crowd of its class. This is the protocol of COCO (Lin et al., 2014;
    pycocotools).

    Raises:
        ResultError: masks are to be compared and the ground truth has boxes alone.
    """
    pairwise = pairwise_iou(pair.predictions, pair.ground_truth, iou_type)
    prompted = set(pair.phrase_classes.values())
    labels = np.array([t.label if t.label in prompted else "" for t in pair.ground_truth], dtype=object)
    is_same_class = np.array([p.label for p in pair.predictions], dtype=object)[:, None] == labels[None]
    return match_greedily(
        np.where(is_same_class, pairwise, 0.0),
        np.array([target.is_crowd for target in pair.ground_truth], dtype=bool),
        np.array([prediction.score for prediction in pair.predictions], dtype=np.float64),
        threshold,
        pairwise,
    )


def match_greedily(
    candidates: Float[np.ndarray, "n m"],
    crowds: Bool[np.ndarray, "m"],
    scores: Float[np.ndarray, "n"],
    threshold: float,
    pairwise: Float[np.ndarray, "n m"] | None = None,
) -> Matches:
    """Match n predictions to m objects one to one, by the rules of `match_pair`.

    Args:
        candidates: IoU of each prediction with each object, 0 where they must not be matched.
        crowds: which objects are crowds, that take any number of predictions.
        scores: of the predictions, nan for unknown.
        threshold: least IoU, above 0.
        pairwise: IoU to keep in the result, by default the candidates.
    """
    n = len(scores)
    target_ids, ious = np.full(n, UNMATCHED), np.zeros(n)
    free = ~crowds
    for row in np.argsort(-scores, kind="stable"):  # nan comes last
        available = np.where(free, candidates[row], 0.0)
        best = int(available.argmax()) if len(crowds) else 0
        if len(crowds) and available[best] >= threshold:
            target_ids[row], ious[row], free[best] = best, available[best], False
        elif (candidates[row][crowds] >= threshold).any():
            target_ids[row] = IGNORED
    return Matches(target_ids, ious, np.asarray(candidates if pairwise is None else pairwise, np.float64))


def match_with_ignored(
    ious: Float64[np.ndarray, "n m"],
    ignored: Bool[np.ndarray, "m"],
    crowds: Bool[np.ndarray, "m"],
    threshold: float,
) -> Int64[np.ndarray, "n"]:
    """Return for each of n predictions, best first, the object that it is matched to, or UNMATCHED.

    This is the matching of pycocotools and of `lvis` to the letter. A prediction takes the object with the greatest
    IoU that is free and counts; only where there is none it may take one that is ignored, for its size or as a crowd.
    A crowd takes any number. Of equal IoUs the last counts.

    Args:
        ious: of predictions with objects, see `pairwise_iou`.
        ignored: objects that do not count, crowds among them.
        crowds: objects that are crowds.
        threshold: least IoU, above 0.
    """
    matched = np.full(len(ious), UNMATCHED)
    free, reached = np.ones(len(ignored), bool), ious >= min(threshold, 1 - 1e-10)
    for row in np.flatnonzero(reached.any(axis=1)):
        available = reached[row] & (free | crowds)
        counting = available & ~ignored
        places = np.flatnonzero(counting if counting.any() else available)
        if len(places):
            values = ious[row, places]
            matched[row] = place = places[len(values) - 1 - values[::-1].argmax()]
            free[place] = False
    return matched


def pairwise_iou(
    predictions: Sequence[Prediction], targets: Sequence[GroundTruthObject], iou_type: IouType
) -> Float64[np.ndarray, "n m"]:
    """Return the IoU of each prediction with each object; with a crowd, the share of the prediction that lies in it.

    Raises:
        ResultError: masks are to be compared and the ground truth has boxes alone.
    """
    crowds = [target.is_crowd for target in targets]
    if iou_type == "mask":
        return rle_iou([p.mask for p in predictions], [target.require_mask() for target in targets], crowds)
    if not predictions or not targets:
        return np.zeros((len(predictions), len(targets)))
    return coco_mask.iou(_xywh(predictions), _xywh(targets), crowds)


def _xywh(objects: Sequence[Prediction] | Sequence[GroundTruthObject]) -> Float64[np.ndarray, "n 4"]:
    boxes = np.array([one.box for one in objects], dtype=np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


@dataclass(frozen=True)
class Counts:
    """Objects and predictions counted. Crowds, and predictions in crowds, are not."""

    objects: int = 0
    predictions: int = 0
    true_positives: int = 0  # predictions that match an object, and as many objects
    iou_sum: float = 0.0  # over the true positives
    boundary_sum: float = 0.0  # boundary F-scores of the true positives, nan where boxes are compared

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.objects + other.objects,
            self.predictions + other.predictions,
            self.true_positives + other.true_positives,
            self.iou_sum + other.iou_sum,
            self.boundary_sum + other.boundary_sum,
        )

    @property
    def errors(self) -> int:
        """False negatives and false positives."""
        return self.objects + self.predictions - 2 * self.true_positives

    @property
    def precision(self) -> float | None:
        return self.true_positives / self.predictions if self.predictions else None

    @property
    def recall(self) -> float | None:
        return self.true_positives / self.objects if self.objects else None

    @property
    def mean_iou(self) -> float | None:
        """Mean over the true positives."""
        return self.iou_sum / self.true_positives if self.true_positives else None

    @property
    def boundary_f(self) -> float | None:
        """Mean over the true positives; None where boxes are compared."""
        is_known = self.true_positives and not np.isnan(self.boundary_sum)
        return self.boundary_sum / self.true_positives if is_known else None

    @property
    def panoptic_quality(self) -> float | None:
        """IoU of the true positives, with half an object lost for each error (Kirillov et al., 2019)."""
        total = self.objects + self.predictions
        return 2 * self.iou_sum / total if total else None


def count_matches(pair: ImagePair, matches: Matches, boundary_scores: Float64[np.ndarray, "n"]) -> dict[str, Counts]:
    """Return the counts of each class in the prompt that has an object or a prediction in an image.

    Args:
        pair: the image.
        matches: of its predictions.
        boundary_scores: boundary F-score of each true positive; the other values do not matter.
    """
    objects = [target.label for target in pair.targets if not target.is_crowd]
    labels = np.array([prediction.label for prediction in pair.predictions], dtype=object)
    result = {}
    for label in dict.fromkeys((*objects, *labels)):
        is_label = labels == label
        is_true_positive = is_label & matches.is_true_positive
        result[label] = Counts(
            objects=objects.count(label),
            predictions=int((is_label & matches.is_evaluated).sum()),
            true_positives=int(is_true_positive.sum()),
            iou_sum=float(matches.ious[is_true_positive].sum()),
            boundary_sum=float(boundary_scores[is_true_positive].sum()),
        )
    return result


def sum_counts(parts: Iterable[Counts]) -> Counts:
    return sum(parts, Counts())

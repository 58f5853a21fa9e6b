"""Evaluates the labels of a run against ground truth: all measures in one value."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from grounded.errors import ConfigError, ResultError
from grounded.evaluation.average_precision import ClassPrecision, average_precision
from grounded.evaluation.calibration import BINS, Calibration, calibration
from grounded.evaluation.confusion import AbsentClassRates, ConfusionMatrix, absent_class_rates, confusion_matrix
from grounded.evaluation.dataset import ImagePair, MatchedDataset
from grounded.evaluation.matching import Counts, IouType, Matches, count_matches, match_pair, sum_counts
from grounded.evaluation.segmentation import BOUNDARY_TOLERANCE, ClassIou, boundary_f_score, class_iou
from segany.utils.rle import decode_rle


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Raises:
        ConfigError: a value is out of its range.
    """

    iou_types: tuple[IouType, ...] = ("mask", "box")  # AP is of all of them; all other measures are of the first
    iou_threshold: float = 0.5  # least IoU of a true positive with its object
    boundary_tolerance: float = BOUNDARY_TOLERANCE  # share of the image diagonal
    bins: int = BINS  # of the reliability diagram
    worst: int = 12  # images

    def __post_init__(self) -> None:
        if not self.iou_types:
            raise ConfigError("iou_types must name mask, box or both, got none")
        if not 0 < self.iou_threshold <= 1:
            raise ConfigError(f"iou_threshold must lie in (0, 1], got {self.iou_threshold}")
        if not 0 <= self.boundary_tolerance < 1:
            raise ConfigError(f"boundary_tolerance must lie in [0, 1), got {self.boundary_tolerance}")
        if self.bins < 1 or self.worst < 0:
            raise ConfigError(f"bins must be at least 1 and worst at least 0, got {self.bins} and {self.worst}")


@dataclass(frozen=True)
class ImageResult:
    """The counts of one image, over all classes."""

    pair: ImagePair
    counts: Counts


@dataclass(frozen=True)
class LabelEvaluation:
    """All measures of `evaluate_labels`."""

    config: EvaluationConfig
    dataset: MatchedDataset
    precision: Mapping[IouType, ClassPrecision]
    overall: Counts
    classes: Mapping[str, Counts]  # those in the prompts
    class_iou: ClassIou | None  # None where boxes are compared
    absent_classes: AbsentClassRates
    calibration: Calibration
    confusion: ConfusionMatrix
    worst: tuple[ImageResult, ...]  # lowest panoptic quality first; images without an error are not among them


def evaluate_labels(
    dataset: MatchedDataset,
    config: EvaluationConfig | None = None,
    progress: Callable[[Sequence[ImagePair]], Iterable[ImagePair]] = iter,
) -> LabelEvaluation:
    """Compare predictions with ground truth, for the classes that are in the prompts.

    Masks are decoded two at a time, so that memory holds no more than run lengths.

    Args:
        dataset: from `match_records`.
        config: how to measure.
        progress: passes the image pairs on while it shows how far they are, such as tqdm.

    Raises:
        ResultError: there is nothing to measure, or masks are wanted alone and the ground truth has boxes alone.
    """
    config = _measurable(dataset, config or EvaluationConfig())
    by_type = {
        each: [pair.ignoring_boxes() for pair in dataset.pairs] if each == "mask" else dataset.pairs
        for each in config.iou_types
    }
    iou_type = config.iou_types[0]
    pairs = by_type[iou_type]
    all_matches: list[Matches] = []
    results: list[ImageResult] = []
    classes = {label: Counts() for label in dataset.phrase_classes.values()}
    for shown, pair in zip(progress(dataset.pairs), pairs, strict=True):
        matches = match_pair(pair, iou_type, config.iou_threshold)
        if iou_type == "mask":
            boundary_scores = _boundary_scores(pair, matches, config.boundary_tolerance)
        else:
            boundary_scores = np.full(len(matches), np.nan)
        counts = count_matches(pair, matches, boundary_scores)
        all_matches.append(matches)
        results.append(ImageResult(shown, sum_counts(counts.values())))
        for label, part in counts.items():
            classes[label] += part
    return LabelEvaluation(
        config=config,
        dataset=dataset,
        precision={each: average_precision(by_type[each], each) for each in config.iou_types},
        overall=sum_counts(classes.values()),
        classes=classes,
        class_iou=class_iou(pairs) if iou_type == "mask" else None,
        absent_classes=absent_class_rates(pairs),
        calibration=_calibration(pairs, all_matches, config.bins),
        confusion=confusion_matrix(pairs, all_matches, config.iou_threshold),
        worst=_worst(results, config.worst),
    )


def _measurable(dataset: MatchedDataset, config: EvaluationConfig) -> EvaluationConfig:
    """Return how to measure: boxes alone where the ground truth has nothing else, and both were wanted."""
    if not dataset.pairs:
        raise ResultError("nothing to measure: the records and the ground truth have no image in common")
    if not dataset.phrase_classes:
        raise ResultError("nothing to measure: no phrase is a class of the ground truth")
    targets = [target for pair in dataset.pairs for target in pair.targets]
    if targets and all(target.is_crowd for target in targets):
        raise ResultError(
            f"nothing to measure: all {len(targets)} objects of the ground truth are crowds, as some tools mark every "
            "mask that was drawn with a brush; count them as objects with --count-crowds (count_crowds=True)"
        )
    if "mask" not in config.iou_types or not targets or any(target.mask is not None for target in targets):
        return config
    if "box" in config.iou_types:
        return replace(config, iou_types=("box",))
    targets[0].require_mask()
    return config


def _boundary_scores(pair: ImagePair, matches: Matches, tolerance: float) -> Float64[np.ndarray, "n"]:
    """Return the boundary F-score of each true positive with its object, 0 for the other predictions."""
    scores = np.zeros(len(matches))
    for row in np.flatnonzero(matches.is_true_positive):
        target = pair.ground_truth[matches.target_ids[row]]
        prediction_mask, target_mask = decode_rle([pair.predictions[row].mask, target.require_mask()]).numpy()
        scores[row] = boundary_f_score(prediction_mask, target_mask, tolerance)
    return scores


def _calibration(pairs: Sequence[ImagePair], all_matches: Sequence[Matches], bins: int) -> Calibration:
    """Return the calibration of all predictions that are not ignored."""
    scores = np.array([prediction.score for pair in pairs for prediction in pair.predictions], dtype=np.float64)
    is_true_positive = np.concatenate([np.zeros(0, bool), *(matches.is_true_positive for matches in all_matches)])
    is_evaluated = np.concatenate([np.zeros(0, bool), *(matches.is_evaluated for matches in all_matches)])
    return calibration(scores[is_evaluated], is_true_positive[is_evaluated], bins)


def _worst(results: Sequence[ImageResult], count: int) -> tuple[ImageResult, ...]:
    """Return the images of lowest panoptic quality; of equal ones those with more errors first."""
    rated = [(quality, result) for result in results if (quality := result.counts.panoptic_quality) is not None]
    flawed = [(quality, result) for quality, result in rated if quality < 1]
    flawed.sort(key=lambda pair: (pair[0], -pair[1].counts.errors))
    return tuple(result for _, result in flawed[:count])

"""All measures of a run's labels against a truth, gathered."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from pycocotools import mask as coco_mask

from grounded.errors import ConfigError, ResultError
from grounded.evaluation.absence import Absence, absence
from grounded.evaluation.average_precision import PrecisionByClass, average_precision
from grounded.evaluation.boundary import TOLERANCE, boundary_f_score
from grounded.evaluation.calibration import BINS, Reliability, reliability
from grounded.evaluation.cases import Case, Paired
from grounded.evaluation.confusion import Confusion, confusion
from grounded.evaluation.counts import Counts, count_case, total
from grounded.evaluation.matching import Kind, Matches, match_case, true_mask
from grounded.evaluation.miou import ClassIou, class_iou


@dataclass(frozen=True)
class MeasureSettings:
    """How labels are measured.

    Raises:
        ConfigError: a value is out of its range.
    """

    kinds: tuple[Kind, ...] = ("mask", "box")  # AP is of all of them; whatever else compares shapes, of the first
    iou_threshold: float = 0.5  # least IoU of an answer with the object that it finds
    boundary_tolerance: float = TOLERANCE  # share of the image diagonal
    bins: int = BINS  # of the reliability diagram
    worst: int = 12  # pictures

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ConfigError("kinds must name mask, box or both, got none")
        if not 0 < self.iou_threshold <= 1:
            raise ConfigError(f"iou_threshold must lie in (0, 1], got {self.iou_threshold}")
        if not 0 <= self.boundary_tolerance < 1:
            raise ConfigError(f"boundary_tolerance must lie in [0, 1), got {self.boundary_tolerance}")
        if self.bins < 1 or self.worst < 0:
            raise ConfigError(f"bins must be at least 1 and worst at least 0, got {self.bins} and {self.worst}")


@dataclass(frozen=True)
class Picture:
    """How well one picture was answered."""

    case: Case
    counts: Counts


@dataclass(frozen=True)
class LabelEvaluation:
    """Everything that `evaluate_labels` measures."""

    settings: MeasureSettings
    paired: Paired
    precision: Mapping[Kind, PrecisionByClass]
    overall: Counts
    classes: Mapping[str, Counts]  # those that were asked
    pixels: ClassIou | None  # None where boxes are compared
    absence: Absence
    reliability: Reliability
    confusion: Confusion
    worst: tuple[Picture, ...]  # lowest quality first; pictures without any flaw are not among them

    def phrases(self, label: str) -> list[str]:
        """Return the phrases that asked for a class."""
        return [phrase for phrase, asked in self.paired.asked.items() if asked == label]


def evaluate_labels(
    paired: Paired,
    settings: MeasureSettings | None = None,
    progress: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> LabelEvaluation:
    """Measure what was answered against what is there. Only classes that were asked are measured.

    Masks are decoded two at a time, so that memory holds no more than run lengths.

    Args:
        paired: records beside their truth, from `cases.pair`.
        settings: how to measure.
        progress: passes the cases on while it shows how far they are, such as tqdm.

    Raises:
        ResultError: there is nothing to measure, or masks are asked for and the truth has boxes alone.
    """
    settings = settings or MeasureSettings()
    _check(paired, settings)
    cases, with_masks = paired.cases, settings.kinds[0] == "mask"
    matches: list[Matches] = []
    pictures: list[Picture] = []
    classes = {label: Counts() for label in paired.asked.values()}
    for case in progress(cases):
        match = match_case(case, settings.kinds[0], settings.iou_threshold)
        boundaries = (
            _boundaries(case, match, settings.boundary_tolerance) if with_masks else np.full(len(match), np.nan)
        )
        counts = count_case(case, match, boundaries)
        matches.append(match)
        pictures.append(Picture(case, total(counts.values())))
        for label, part in counts.items():
            classes[label] += part
    return LabelEvaluation(
        settings=settings,
        paired=paired,
        precision={kind: average_precision(cases, kind) for kind in settings.kinds},
        overall=total(classes.values()),
        classes=classes,
        pixels=class_iou(cases) if with_masks else None,
        absence=absence(cases),
        reliability=_reliability(cases, matches, settings.bins),
        confusion=confusion(cases, matches, settings.iou_threshold),
        worst=_worst(pictures, settings.worst),
    )


def _check(paired: Paired, settings: MeasureSettings) -> None:
    if not paired.cases:
        raise ResultError("nothing to measure: the records and the truth have no picture in common")
    if not paired.asked:
        raise ResultError("nothing to measure: no phrase that was asked is a class of the truth")
    if "mask" in settings.kinds:
        for thing in (thing for case in paired.cases for thing in case.wanted):
            true_mask(thing)


def _boundaries(case: Case, match: Matches, tolerance: float) -> Float64[np.ndarray, "n"]:
    """Boundary F-score of each answer with the object that it found, 0 for the others."""
    scores = np.zeros(len(match))
    for row in np.flatnonzero(match.found):
        pair = [case.answers[row].mask, true_mask(case.truths[match.truths[row]])]
        answer, truth = (coco_mask.decode(dict(mask)).view(bool) for mask in pair)
        scores[row] = boundary_f_score(answer, truth, tolerance)
    return scores


def _reliability(cases: Sequence[Case], matches: Sequence[Matches], bins: int) -> Reliability:
    """The reliability of all answers that are right or wrong."""
    scores = [answer.score for case in cases for answer in case.answers]
    found, judged = (
        np.concatenate([np.zeros(0, bool), *parts])
        for parts in ([match.found for match in matches], [match.judged for match in matches])
    )
    return reliability(np.array(scores, dtype=np.float64)[judged], found[judged], bins)


def _worst(pictures: Sequence[Picture], count: int) -> tuple[Picture, ...]:
    """The pictures of lowest quality; of equal ones those with more errors first."""
    known = [(quality, picture) for picture in pictures if (quality := picture.counts.quality) is not None]
    flawed = [(quality, picture) for quality, picture in known if quality < 1]
    flawed.sort(key=lambda pair: (pair[0], -pair[1].counts.errors))
    return tuple(picture for _, picture in flawed[:count])

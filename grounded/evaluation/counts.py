"""What was found and missed, counted by class."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from grounded.evaluation.cases import Case
from grounded.evaluation.matching import Matches


@dataclass(frozen=True)
class Counts:
    """What was found among some objects and answers. Crowds, and answers in crowds, are not counted."""

    objects: int = 0
    answers: int = 0
    found: int = 0  # objects with an answer, and as many answers that are right
    iou_sum: float = 0.0  # of the found
    boundary_sum: float = 0.0  # boundary F-scores of the found, nan where boxes are compared

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.objects + other.objects,
            self.answers + other.answers,
            self.found + other.found,
            self.iou_sum + other.iou_sum,
            self.boundary_sum + other.boundary_sum,
        )

    @property
    def errors(self) -> int:
        """Objects missed and answers that are wrong."""
        return self.objects + self.answers - 2 * self.found

    @property
    def precision(self) -> float | None:
        return self.found / self.answers if self.answers else None

    @property
    def recall(self) -> float | None:
        return self.found / self.objects if self.objects else None

    @property
    def mean_iou(self) -> float | None:
        """Of the objects found."""
        return self.iou_sum / self.found if self.found else None

    @property
    def boundary_f(self) -> float | None:
        """Mean over the objects found; None where boxes are compared."""
        return self.boundary_sum / self.found if self.found and not np.isnan(self.boundary_sum) else None

    @property
    def quality(self) -> float | None:
        """Panoptic quality (Kirillov et al., 2019): the IoU of the found, with half an object lost for each error."""
        total = self.objects + self.answers
        return 2 * self.iou_sum / total if total else None


def count_case(case: Case, match: Matches, boundaries: Float64[np.ndarray, "n"]) -> dict[str, Counts]:
    """Return the counts of each class that has an object or an answer in a picture and was asked there.

    Args:
        case: the picture.
        match: its answers with its objects.
        boundaries: F-score of each answer that is right; the others are not looked at.
    """
    objects = [thing.label for thing in case.wanted if not thing.is_crowd]
    labels = np.array([answer.label for answer in case.answers], dtype=object)
    result = {}
    for label in dict.fromkeys((*objects, *labels)):
        mine = labels == label
        found = mine & match.found
        result[label] = Counts(
            objects=objects.count(label),
            answers=int((mine & match.judged).sum()),
            found=int(found.sum()),
            iou_sum=float(match.ious[found].sum()),
            boundary_sum=float(boundaries[found].sum()),
        )
    return result


def total(parts: Iterable[Counts]) -> Counts:
    """Return the sum of counts."""
    return sum(parts, Counts())

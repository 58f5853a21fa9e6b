"""Which answer found which true object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from pycocotools import mask as coco_mask

from grounded.data.parallel_arrays import set_frozen
from grounded.errors import ResultError
from grounded.evaluation.cases import Answer, Case
from grounded.evaluation.truth import TrueObject
from segany.utils.rle import RLE

Kind = Literal["mask", "box"]

NOTHING, IGNORED = -1, -2


@dataclass(frozen=True, eq=False)
class Matches:
    """For each of the n answers of a case which of its true objects it found.

    Raises:
        ValueError: the arrays are not of one length.
    """

    truths: Int64[np.ndarray, "n"]  # into Case.truths; NOTHING, or IGNORED for what lies in a crowd
    ious: Float64[np.ndarray, "n"]  # with that object, 0 without one
    overlaps: Float64[np.ndarray, "n m"]  # IoU of every answer with every true object; see `overlaps`

    def __post_init__(self) -> None:
        set_frozen(self, truths=np.asarray(self.truths, np.int64), ious=np.asarray(self.ious, np.float64))
        if not len(self.truths) == len(self.ious) == len(self.overlaps):
            raise ValueError(f"matches must be of n answers, got {len(self.truths)} truths and {len(self.ious)} IoUs")

    def __len__(self) -> int:
        return len(self.truths)

    @property
    def found(self) -> Bool[np.ndarray, "n"]:
        """Whether an answer is right."""
        return self.truths >= 0

    @property
    def judged(self) -> Bool[np.ndarray, "n"]:
        """Whether an answer is right or wrong, rather than ignored."""
        return self.truths != IGNORED


def match_case(case: Case, kind: Kind, threshold: float) -> Matches:
    """Match the answers of a case to the true objects of the classes that were asked, class by class.

    Answers choose in the order of their scores, unknown scores last. Each takes the object with the greatest IoU that
    is still free, if that IoU is at least `threshold`. One that finds none is ignored where at least `threshold` of its
    own area lies in a crowd of its class. This is the protocol of COCO (Lin et al., 2014; pycocotools).

    Raises:
        ResultError: the masks are to be compared and the truth has boxes alone.
    """
    table = overlaps(case.answers, case.truths, kind)
    wanted = set(case.asked.values())
    labels = np.array([thing.label if thing.label in wanted else "" for thing in case.truths], dtype=object)
    crowds = np.array([thing.is_crowd for thing in case.truths], dtype=bool)
    return match(
        np.where(np.array([a.label for a in case.answers], dtype=object)[:, None] == labels[None], table, 0.0),
        crowds,
        np.array([answer.score for answer in case.answers], dtype=np.float64),
        threshold,
        table,
    )


def match(
    candidates: Float[np.ndarray, "n m"],
    crowds: Bool[np.ndarray, "m"],
    scores: Float[np.ndarray, "n"],
    threshold: float,
    table: Float[np.ndarray, "n m"] | None = None,
) -> Matches:
    """Match n answers to m true objects one to one; `match_case` explains how.

    Args:
        candidates: IoU of each answer with each object, 0 where they may not be matched.
        crowds: which objects are crowds, that take any number of answers.
        scores: of the answers, nan for unknown.
        threshold: least IoU, above 0.
        table: what to keep as `overlaps`, by default the candidates.
    """
    n = len(scores)
    truths, ious = np.full(n, NOTHING), np.zeros(n)
    free = ~crowds
    for row in np.argsort(-scores, kind="stable"):  # nan comes last
        open_to = np.where(free, candidates[row], 0.0)
        best = int(open_to.argmax()) if len(crowds) else 0
        if len(crowds) and open_to[best] >= threshold:
            truths[row], ious[row], free[best] = best, open_to[best], False
        elif (candidates[row][crowds] >= threshold).any():
            truths[row] = IGNORED
    return Matches(truths, ious, np.asarray(candidates if table is None else table, np.float64))


def overlaps(answers: Sequence[Answer], truths: Sequence[TrueObject], kind: Kind) -> Float64[np.ndarray, "n m"]:
    """Return the IoU of each answer with each true object; with a crowd, the share of the answer that lies in it.

    Raises:
        ResultError: the masks are to be compared and the truth has boxes alone.
    """
    if not answers or not truths:
        return np.zeros((len(answers), len(truths)))
    crowds = [int(thing.is_crowd) for thing in truths]
    if kind == "box":
        return coco_mask.iou(_xywh(answers), _xywh(truths), crowds)
    return coco_mask.iou([dict(a.mask) for a in answers], [dict(true_mask(thing)) for thing in truths], crowds)


def true_mask(thing: TrueObject) -> RLE:
    """Return the mask of a true object.

    Raises:
        ResultError: the truth has boxes alone.
    """
    if thing.mask is None:
        raise ResultError(f"the truth has {thing.label!r} without a mask: measure boxes alone")
    return thing.mask


def _xywh(things: Sequence[Answer] | Sequence[TrueObject]) -> Float64[np.ndarray, "n 4"]:
    boxes = np.array([thing.box for thing in things], dtype=np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)

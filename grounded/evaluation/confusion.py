"""What is taken for what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grounded.evaluation.cases import Case
from grounded.evaluation.matching import IGNORED, Matches


@dataclass(frozen=True)
class Confusion:
    """How many answers to each phrase lie on objects of each class.

    Every answer counts once: with the class of the object it found; else with the class of that object of another class
    which it overlaps most, whether or not something else found that one; else with no class. A second answer to an
    object that is found already counts with no class, too. Each true object on which no answer lies counts once, with
    no phrase. Answers in a crowd of their class do not count.
    """

    classes: tuple[str, ...]  # asked ones first, then those not asked that answers lie on
    asked: Mapping[str, str]  # phrase -> class
    counts: Mapping[tuple[str | None, str | None], int]  # (class, phrase), None for no class and no phrase

    def count(self, label: str | None, phrase: str | None) -> int:
        return self.counts.get((label, phrase), 0)


def confusion(cases: Sequence[Case], matches: Sequence[Matches], threshold: float) -> Confusion:
    """Count what was answered to what, by the overlaps that the matches were made from.

    Args:
        cases: pictures.
        matches: of each of them.
        threshold: least IoU of an answer that lies on an object.
    """
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for case, match in zip(cases, matches, strict=True):
        counts += _of_case(case, match, threshold)
    asked = {phrase: label for case in cases for phrase, label in case.asked.items()}
    classes = dict.fromkeys((*asked.values(), *(label for label, _ in counts if label is not None)))
    return Confusion(tuple(classes), asked, dict(counts))


def _of_case(case: Case, match: Matches, threshold: float) -> Counter[tuple[str | None, str | None]]:
    counts: Counter[tuple[str | None, str | None]] = Counter()
    crowds = np.array([thing.is_crowd for thing in case.truths], dtype=bool)
    lain_on = set()
    for row, answer in enumerate(case.answers):
        place = int(match.truths[row])
        if place == IGNORED:
            continue
        if place < 0 and len(crowds):
            others = np.array([thing.label != answer.label for thing in case.truths]) & ~crowds
            best = int(np.where(others, match.overlaps[row], 0.0).argmax())
            if others[best] and match.overlaps[row, best] >= threshold:
                place = best
        if place >= 0:
            lain_on.add(place)
        counts[case.truths[place].label if place >= 0 else None, answer.phrase] += 1
    asked = set(case.asked.values())
    for place, thing in enumerate(case.truths):
        if place not in lain_on and thing.label in asked and not thing.is_crowd:
            counts[thing.label, None] += 1
    return counts

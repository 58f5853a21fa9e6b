"""False positives: how often a phrase is answered where there is nothing of its kind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grounded.evaluation.cases import Case


@dataclass(frozen=True)
class Absent:
    """Pictures without any object of a phrase's class in which the phrase was asked, and those of them answered."""

    pictures: int
    answered: int

    @property
    def share(self) -> float | None:
        """Share of the pictures that have at least one instance; None without any picture."""
        return self.answered / self.pictures if self.pictures else None


@dataclass(frozen=True)
class Absence:
    """Answers to what is absent, over all pairs of a picture and a phrase, and by phrase."""

    overall: Absent
    phrases: Mapping[str, Absent]


def absence(cases: Sequence[Case]) -> Absence:
    """Count the pairs of a picture and an asked phrase of whose class the truth has nothing there, not even a crowd."""
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    phrases: dict[str, None] = {}
    for case in cases:
        present = {thing.label for thing in case.truths}
        found = {answer.phrase for answer in case.answers}
        for phrase, label in case.asked.items():
            phrases[phrase] = None
            if label not in present:
                asked[phrase] += 1
                answered[phrase] += phrase in found
    by_phrase = {phrase: Absent(asked[phrase], answered[phrase]) for phrase in phrases}
    return Absence(Absent(asked.total(), answered.total()), by_phrase)

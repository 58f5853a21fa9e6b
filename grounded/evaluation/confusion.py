"""Confusion matrix of classes and phrases, and false positives on classes that an image does not have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grounded.evaluation.dataset import ImagePair
from grounded.evaluation.matching import IGNORED, Matches


@dataclass(frozen=True)
class ConfusionMatrix:
    """How many predictions of each phrase lie on objects of each class.

    Every prediction counts once: with the class of the object it matches; else with the class of that object of another
    class which it overlaps most, whether or not another prediction matches that one; else with no class. A second
    prediction of an object that is matched already counts with no class, too. Each object on which no prediction lies
    counts once, with no phrase. Predictions in a crowd of their class do not count.
    """

    classes: tuple[str, ...]  # those in the prompts first, then others that predictions lie on
    phrase_classes: Mapping[str, str]  # phrase -> class
    counts: Mapping[tuple[str | None, str | None], int]  # (class, phrase), None for no class and no phrase

    def count(self, label: str | None, phrase: str | None) -> int:
        return self.counts.get((label, phrase), 0)


def confusion_matrix(pairs: Sequence[ImagePair], matches: Sequence[Matches], threshold: float) -> ConfusionMatrix:
    """Count predictions by the class of the object that they lie on.

    Args:
        pairs: images.
        matches: of each of them.
        threshold: least IoU of a prediction that lies on an object.
    """
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for pair, own in zip(pairs, matches, strict=True):
        counts += _count_pair(pair, own, threshold)
    phrase_classes = {phrase: label for pair in pairs for phrase, label in pair.phrase_classes.items()}
    classes = dict.fromkeys((*phrase_classes.values(), *(label for label, _ in counts if label is not None)))
    return ConfusionMatrix(tuple(classes), phrase_classes, dict(counts))


def _count_pair(pair: ImagePair, matches: Matches, threshold: float) -> Counter[tuple[str | None, str | None]]:
    counts: Counter[tuple[str | None, str | None]] = Counter()
    labels = np.array([target.label for target in pair.ground_truth], dtype=object)
    crowds = np.array([target.is_crowd for target in pair.ground_truth], dtype=bool)
    covered = set()
    for row, prediction in enumerate(pair.predictions):
        target_id = int(matches.target_ids[row])
        if target_id == IGNORED:
            continue
        if target_id < 0 and len(crowds):
            others = (labels != prediction.label) & ~crowds
            best = int(np.where(others, matches.pairwise[row], 0.0).argmax())
            if others[best] and matches.pairwise[row, best] >= threshold:
                target_id = best
        if target_id >= 0:
            covered.add(target_id)
        counts[pair.ground_truth[target_id].label if target_id >= 0 else None, prediction.phrase] += 1
    prompted = set(pair.phrase_classes.values())
    for target_id, target in enumerate(pair.ground_truth):
        if target_id not in covered and target.label in prompted and not target.is_crowd:
            counts[target.label, None] += 1
    return counts


@dataclass(frozen=True)
class FalsePositiveRate:
    """Images without any object of a phrase's class whose prompt had the phrase, and those with predictions of it."""

    images: int
    false_positives: int

    @property
    def rate(self) -> float | None:
        """Share of the images that have at least one prediction; None without any image."""
        return self.false_positives / self.images if self.images else None


@dataclass(frozen=True)
class AbsentClassRates:
    """False-positive rates on absent classes, over all pairs of an image and a phrase, and by phrase."""

    overall: FalsePositiveRate
    phrases: Mapping[str, FalsePositiveRate]


def absent_class_rates(pairs: Sequence[ImagePair]) -> AbsentClassRates:
    """Count the pairs of an image and a phrase in its prompt whose class is absent there, crowds included."""
    images: Counter[str] = Counter()
    false_positives: Counter[str] = Counter()
    phrases: dict[str, None] = {}
    for pair in pairs:
        present = {target.label for target in pair.ground_truth}
        predicted = {prediction.phrase for prediction in pair.predictions}
        for phrase, label in pair.phrase_classes.items():
            phrases[phrase] = None
            if label not in present:
                images[phrase] += 1
                false_positives[phrase] += phrase in predicted
    by_phrase = {phrase: FalsePositiveRate(images[phrase], false_positives[phrase]) for phrase in phrases}
    return AbsentClassRates(FalsePositiveRate(images.total(), false_positives.total()), by_phrase)

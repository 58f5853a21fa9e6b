"""What a data set is labelled with: classes, the phrases that mean them, and the phrases that only look like them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.data.phrases import parse, shortened
from grounded.labelling import ontology
from grounded.labelling.ontology import Asked, LabelClass, Ontology
from grounded.stages.suppression import suppress

# Masks, unlike boxes, of two objects hardly overlap: with more than half in common they are of the same one.
_SAME_OBJECT = 0.5


@dataclass(frozen=True)
class Vocabulary:
    """Asks the pipeline `queries`, and turns what it answers into instances of `classes`."""

    ontology: Ontology

    @classmethod
    def from_text(cls, text: str | Sequence[str]) -> "Vocabulary":
        """Every phrase of the text is a class of its own; text is read as `Pipeline.segment` reads it.

        Raises:
            PromptError: the text holds no phrase.
        """
        return cls(Ontology(tuple(LabelClass(phrase, (Asked(phrase),)) for phrase in parse(text))))

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> "Vocabulary":
        """Read a file of the form that `grounded.labelling.ontology` describes.

        Raises:
            ConfigError: the file cannot be read, or its contents are wrong; the message names file and key.
        """
        return cls(ontology.load(path))

    @classmethod
    def from_dict(cls, data: Any) -> "Vocabulary":
        """Inverse of `to_dict`; takes all that a YAML file may hold.

        Raises:
            ConfigError: the contents are wrong.
        """
        return cls(ontology.read(data, where="vocabulary"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, the same for however the vocabulary was written."""
        return self.ontology.to_dict()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The c names that instances are labelled with."""
        return tuple(one.name for one in self.ontology.classes)

    @cached_property
    def queries(self) -> tuple[str, ...]:
        """The q phrases that the pipeline is asked for: those of each class in turn, then the negatives."""
        return (*(asked.phrase for asked in self._asked), *self.ontology.negatives)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """For each query a number that it shares with those that mean the same: its class; a negative has its own."""
        own = [i for i, one in enumerate(self.ontology.classes) for _ in one.asked]
        return (*own, *range(len(self.classes), len(self.classes) + len(self.ontology.negatives)))

    def answer(self, instances: Instances) -> Instances:
        """Turn instances of `queries` into instances of `classes`, best first.

        Dropped are instances

        - that score less than the threshold of their phrase,
        - of a negative,
        - that the detector scores higher for a negative than for any phrase of their class,
        - whose mask is also that of a better instance of a negative,
        - whose mask is also that of a better instance of their class, found by another of its phrases.

        The score for a class is the highest among its phrases. Where classes are nothing but phrases, the instances
        are returned as they are.

        Raises:
            ValueError: the instances are not of `queries`.
        """
        if instances.phrases != self.queries:
            wanted, given = shortened(repr(self.queries)), shortened(repr(instances.phrases))
            raise ValueError(f"instances must be of the phrases {wanted}, got {given}")
        if not self.ontology.negatives and all(one.is_plain for one in self.ontology.classes):
            return instances
        thresholds = np.array([-np.inf if one.threshold is None else one.threshold for one in self._asked])
        ids, count = np.array(self.groups)[instances.phrase_ids], len(self.classes)
        positive, negative = instances[ids < count], instances[ids >= count]
        positive = positive[~(positive.scores < thresholds[positive.phrase_ids])]  # an unknown score is not below
        labelled = self._labelled(positive)
        strange = np.fmax.reduce(positive.phrase_scores[:, len(self._asked) :], axis=1, initial=-np.inf)
        known = labelled.phrase_scores[np.arange(len(labelled)), labelled.phrase_ids]
        labelled = labelled[~(strange > known)]
        labelled = labelled[~_is_outdone(labelled, negative)]
        return labelled[self._distinct(labelled)]

    @cached_property
    def _asked(self) -> tuple[Asked, ...]:
        return tuple(asked for one in self.ontology.classes for asked in one.asked)

    def _labelled(self, instances: Instances) -> Instances:
        """The same instances as those of classes."""
        groups = np.array(self.groups)
        columns = [instances.phrase_scores[:, groups == i] for i in range(len(self.classes))]
        matrix = np.stack([np.fmax.reduce(column, axis=1) for column in columns], axis=1)
        return replace(instances, phrases=self.classes, phrase_ids=groups[instances.phrase_ids], phrase_scores=matrix)

    def _distinct(self, instances: Instances) -> Int64[np.ndarray, "m"]:
        """The instances without those that another phrase of their class has found again, best first.

        What a class of one phrase found has been told apart by the pipeline, and is left as it is.
        """
        several = np.array([len(one.asked) > 1 for one in self.ontology.classes])[instances.phrase_ids]
        rivals = np.where(several, instances.phrase_ids, len(self.classes) + np.arange(len(instances)))
        return suppress(instances.rles, instances.scores, rivals, _SAME_OBJECT)


def _is_outdone(instances: Instances, by: Instances) -> Bool[np.ndarray, "n"]:
    """Whether an instance has its mask in common with one of others that scores more."""
    if len(instances) == 0 or len(by) == 0:
        return np.zeros(len(instances), bool)
    common = coco_mask.iou(list(instances.rles), list(by.rles), [False] * len(by)) > _SAME_OBJECT
    return (common & (by.scores > instances.scores[:, None])).any(axis=1)

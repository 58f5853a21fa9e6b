"""The detector alone and the whole chain on photographs, asked for what each shows and for what it does not.

The AP is over all pairs of a photograph and a phrase together, so that a false positive on an absent phrase costs, and
needs one ranking of scores over all names.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torchvision.ops import box_iou

from grounded import Pipeline
from recipes.photo.validation import Example
from recipes.tiny.measure import mask_iou

LEAST_IOU = 0.5
LOWEST_SCORE = 0.02  # of detections that count in their AP


@dataclass
class Ranking:
    """Detections of many phrases in many images, each right or wrong at `LEAST_IOU`."""

    scores: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    objects: int = 0

    def add(self, scores: np.ndarray, ious: np.ndarray) -> None:
        """Add what was found for one phrase in one image: n scores, and the IoU (n, m) with the m objects."""
        self.objects += ious.shape[1]
        free = np.ones(ious.shape[1], bool)
        for row in np.argsort(-scores, kind="stable"):
            own = np.where(free, ious[row], -1.0)
            best = int(own.argmax()) if len(own) else -1
            is_right = best >= 0 and own[best] >= LEAST_IOU
            if is_right:
                free[best] = False
            self.scores.append(float(scores[row]))
            self.right.append(bool(is_right))

    @property
    def recall(self) -> float:
        """The share of the objects that was found."""
        return sum(self.right) / max(self.objects, 1)

    @property
    def ap50(self) -> float:
        """The mean over 101 recalls of the greatest precision at that recall or above."""
        order = np.argsort(-np.array(self.scores), kind="stable")
        right = np.array(self.right, bool)[order].cumsum()
        precision = right / np.arange(1, len(right) + 1)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        reached = np.searchsorted(right / max(self.objects, 1), np.linspace(0, 1, 101))
        return float(envelope[reached].mean())


def measure_detector(pipeline: Pipeline, examples: Iterable[Example]) -> dict[str, float]:
    """AP50 of the boxes of a pipeline's detector, without the rest of the chain."""
    ranking = Ranking()
    for example in examples:
        asked = (*example.present, *example.absent)
        (found,) = pipeline.detector.detect([example.image], [asked])  # type: ignore[union-attr]
        for number, name in enumerate(asked):
            rows = found.phrase_ids == number
            ious = box_iou(torch.from_numpy(found.boxes[rows]).double(), torch.from_numpy(example.boxes(name)))
            ranking.add(found.score[rows], ious.numpy())
    return {"AP50": ranking.ap50, "recall": ranking.recall}


def measure_chain(pipeline: Pipeline, examples: Iterable[Example]) -> dict[str, float]:
    """Mask AP50 and recall of the whole chain, and the share of absent phrases that come back with a mask."""
    ranking, absent, returned = Ranking(), 0, 0
    for example in examples:
        asked = (*example.present, *example.absent)
        instances = pipeline.segment(example.image, list(asked))
        for number, name in enumerate(asked):
            own = instances[instances.phrase_ids == number]
            ranking.add(own.scores, mask_iou(own.masks, example.masks(name)))
            if name in example.absent:
                absent, returned = absent + 1, returned + bool(len(own))
    return {
        "mask AP50": ranking.ap50,
        "recall at IoU 0.5": ranking.recall,
        "absent phrases with a mask": returned / max(absent, 1),
    }

"""IoU of classes pixel by pixel, whatever the instances: the usual measure of semantic segmentation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pycocotools import mask as coco_mask

from grounded.evaluation.cases import Case
from grounded.evaluation.matching import true_mask
from segany.utils.rle import RLE


@dataclass(frozen=True)
class ClassIou:
    """IoU of each class over the pixels of all pictures, and its mean over the classes that have true objects."""

    mean: float | None  # None without any true object
    classes: Mapping[str, float]  # those that have a pixel in the truth or in an answer


def class_iou(cases: Sequence[Case]) -> ClassIou:
    """Return the intersection over union of true and answered pixels of each class (Everingham et al., 2015).

    The masks of a class are joined in each picture; pixels are added up over the pictures before they are divided.
    Pixels that are in a crowd and in no other object of the class count neither way.

    Raises:
        ResultError: the truth has boxes alone.
    """
    both: Counter[str] = Counter()
    either: Counter[str] = Counter()
    true: Counter[str] = Counter()
    for case in cases:
        for label in {thing.label for thing in case.wanted} | {answer.label for answer in case.answers}:
            truths = [true_mask(t) for t in case.wanted if t.label == label and not t.is_crowd]
            crowds = [true_mask(t) for t in case.wanted if t.label == label and t.is_crowd]
            answers = [answer.mask for answer in case.answers if answer.label == label]
            common, union = _pixels(truths, answers, crowds)
            both[label] += common
            either[label] += union
            true[label] += len(truths)
    classes = {label: both[label] / either[label] for label in sorted(either) if either[label]}
    known = [iou for label, iou in classes.items() if true[label]]
    return ClassIou(sum(known) / len(known) if known else None, classes)


def _pixels(truths: Sequence[RLE], answers: Sequence[RLE], crowds: Sequence[RLE]) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two sets of masks, less what is in a crowd alone."""
    if not answers:
        return 0, _area(truths)
    if not truths:
        return 0, _area(answers) - _common_area(answers, crowds)
    common = _common_area(truths, answers)
    union = _area([*truths, *answers])
    if not crowds:
        return common, union
    in_both = coco_mask.merge([_joined(answers), _joined(crowds)], intersect=True)
    return common, union - int(coco_mask.area(in_both)) + _common_area([in_both], truths)


def _joined(masks: Sequence[RLE]) -> RLE:
    return coco_mask.merge([dict(mask) for mask in masks])


def _area(masks: Sequence[RLE]) -> int:
    return int(coco_mask.area(_joined(masks))) if masks else 0


def _common_area(first: Sequence[RLE], second: Sequence[RLE]) -> int:
    """Pixels that both sets of masks cover; run lengths are never decoded."""
    if not first or not second:
        return 0
    return int(coco_mask.area(coco_mask.merge([_joined(first), _joined(second)], intersect=True)))

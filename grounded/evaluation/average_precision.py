"""Average precision as COCO defines it, computed by pycocotools."""

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounded.evaluation.cases import Answer, Case
from grounded.evaluation.matching import Kind, true_mask
from grounded.evaluation.truth import TrueObject

SIZES = ("small", "medium", "large")  # areas below 32² pixels, below 96² pixels, above


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision, over classes that have true objects; None where there are none.

    `mean` is over IoU thresholds from 0.5 to 0.95 in steps of 0.05, and so are those by size.
    """

    mean: float | None
    at_50: float | None
    at_75: float | None
    small: float | None
    medium: float | None
    large: float | None


@dataclass(frozen=True)
class PrecisionByClass:
    """Average precision of all classes together, and of each by itself."""

    overall: AveragePrecision
    classes: Mapping[str, AveragePrecision]


def average_precision(cases: Sequence[Case], kind: Kind) -> PrecisionByClass:
    """Return COCO's AP of masks or boxes, for the classes that were asked.

    The protocol is pycocotools': 101 points of recall, at most 100 answers per class and picture, crowds ignored.
    Answers of unknown score are ranked last. Boxes are those of the records, where a detector's may differ from its
    mask's. One class is evaluated at a time, in the pictures where it occurs: the same numbers in less memory.

    Raises:
        ResultError: masks are asked for and the truth has boxes alone.
    """
    by_class: dict[str, dict[int, tuple[list[TrueObject], list[Answer]]]] = defaultdict(dict)
    for number, case in enumerate(cases, start=1):
        for thing in case.wanted:
            by_class[thing.label].setdefault(number, ([], []))[0].append(thing)
        for answer in case.answers:
            by_class[answer.label].setdefault(number, ([], []))[1].append(answer)
    sizes = {number: case.size for number, case in enumerate(cases, start=1)}
    asked = sorted({label for case in cases for label in case.asked.values()})
    classes = {label: _of_class(by_class.get(label, {}), sizes, kind) for label in asked}
    fields = AveragePrecision.__dataclass_fields__
    overall = {name: _mean([getattr(value, name) for value in classes.values()]) for name in fields}
    return PrecisionByClass(AveragePrecision(**overall), classes)


def _of_class(
    pictures: Mapping[int, tuple[list[TrueObject], list[Answer]]], sizes: Mapping[int, tuple[int, int]], kind: Kind
) -> AveragePrecision:
    if not any(truths for truths, _ in pictures.values()):
        return AveragePrecision(None, None, None, None, None, None)
    images = [{"id": number, "height": sizes[number][0], "width": sizes[number][1]} for number in pictures]
    truths = [_true_entry(thing, number, kind) for number, (things, _) in pictures.items() for thing in things]
    answers = [_answer_entry(answer, number, kind) for number, (_, found) in pictures.items() for answer in found]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluator = COCOeval(_indexed(images, truths), _indexed(images, answers), "segm" if kind == "mask" else "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    # (IoU threshold, recall, class, area, most answers), -1 where there is no true object
    precision = evaluator.eval["precision"][:, :, 0, :, -1]
    return AveragePrecision(
        *(_known(values) for values in (precision[..., 0], precision[0, :, 0], precision[5, :, 0])),
        *(_known(precision[..., 1 + size]) for size in range(len(SIZES))),
    )


def _indexed(images: list[dict[str, Any]], entries: list[dict[str, Any]]) -> COCO:
    """A data set of one class. Built directly, because `COCO.loadRes` raises where there are no answers."""
    # An annotation with id 0 would be taken for no match.
    annotations = [{"id": number, "category_id": 1, **entry} for number, entry in enumerate(entries, start=1)]
    data = COCO()
    data.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "it"}]}
    data.createIndex()
    return data


def _true_entry(thing: TrueObject, number: int, kind: Kind) -> dict[str, Any]:
    entry = {"image_id": number, "bbox": _xywh(thing), "area": thing.area, "iscrowd": int(thing.is_crowd)}
    return {**entry, "segmentation": dict(true_mask(thing))} if kind == "mask" else entry


def _answer_entry(answer: Answer, number: int, kind: Kind) -> dict[str, Any]:
    x, y, width, height = _xywh(answer)
    area = float(coco_mask.area(answer.mask)) if kind == "mask" else width * height
    score = answer.score if math.isfinite(answer.score) else -1.0  # last
    entry = {"image_id": number, "bbox": [x, y, width, height], "area": area, "iscrowd": 0, "score": score}
    return {**entry, "segmentation": dict(answer.mask)} if kind == "mask" else entry


def _xywh(thing: TrueObject | Answer) -> list[float]:
    x0, y0, x1, y1 = thing.box
    return [x0, y0, x1 - x0, y1 - y0]


def _known(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.min() > -1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

"""Average precision as COCO defines it, computed by pycocotools."""

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Float64
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounded.evaluation.dataset import GroundTruthObject, ImagePair, Prediction
from grounded.evaluation.matching import IouType
from segany.utils.rle import rle_area


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision, over classes that have ground truth; None where there are none.

    `mean` is over IoU thresholds from 0.5 to 0.95 in steps of 0.05, and so are those by size: areas below 32² pixels,
    below 96² pixels, and above.
    """

    mean: float | None = None
    at_50: float | None = None
    at_75: float | None = None
    small: float | None = None
    medium: float | None = None
    large: float | None = None


@dataclass(frozen=True)
class ClassPrecision:
    """Average precision of all classes together, and of each by itself."""

    overall: AveragePrecision
    classes: Mapping[str, AveragePrecision]


@dataclass
class _ClassObjects:
    """The ground truth and the predictions of one class in one image."""

    image_size: tuple[int, int]
    targets: list[GroundTruthObject] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)


def average_precision(pairs: Sequence[ImagePair], iou_type: IouType) -> ClassPrecision:
    """Return COCO's AP of masks or boxes, for the classes in the prompts.

    The protocol is that of pycocotools: 101 points of recall, at most 100 predictions per class and image, crowds
    ignored. Predictions of unknown score are ranked last. Boxes are those of the records, where a detector's may differ
    from its mask's. One class is evaluated at a time, in the images where it occurs: the same numbers in less memory.

    Raises:
        ResultError: masks are to be compared and the ground truth has boxes alone.
    """
    by_class: dict[str, dict[int, _ClassObjects]] = defaultdict(dict)
    for image_id, pair in enumerate(pairs, start=1):
        for target in pair.targets:
            by_class[target.label].setdefault(image_id, _ClassObjects(pair.image_size)).targets.append(target)
        for prediction in pair.predictions:
            images = by_class[prediction.label]
            images.setdefault(image_id, _ClassObjects(pair.image_size)).predictions.append(prediction)
    labels = sorted({label for pair in pairs for label in pair.phrase_classes.values()})
    classes = {label: _evaluate_class(by_class.get(label, {}), iou_type) for label in labels}
    overall = {f.name: _mean([getattr(value, f.name) for value in classes.values()]) for f in fields(AveragePrecision)}
    return ClassPrecision(AveragePrecision(**overall), classes)


def _evaluate_class(images: Mapping[int, _ClassObjects], iou_type: IouType) -> AveragePrecision:
    if not any(image.targets for image in images.values()):
        return AveragePrecision()
    entries = [
        {"id": image_id, "height": image.image_size[0], "width": image.image_size[1]}
        for image_id, image in images.items()
    ]
    targets = [_target_entry(one, image_id, iou_type) for image_id, i in images.items() for one in i.targets]
    predictions = [_prediction_entry(p, image_id, iou_type) for image_id, i in images.items() for p in i.predictions]
    coco_type = "segm" if iou_type == "mask" else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluator = COCOeval(_coco_dataset(entries, targets), _coco_dataset(entries, predictions), coco_type)
        evaluator.evaluate()
        evaluator.accumulate()
    # (IoU threshold, recall, class, area, most predictions), -1 where there is no ground truth
    precision = evaluator.eval["precision"][:, :, 0, :, -1]
    return AveragePrecision(
        mean=_mean_precision(precision[..., 0]),
        at_50=_mean_precision(precision[0, :, 0]),
        at_75=_mean_precision(precision[5, :, 0]),
        small=_mean_precision(precision[..., 1]),
        medium=_mean_precision(precision[..., 2]),
        large=_mean_precision(precision[..., 3]),
    )


def _coco_dataset(images: list[dict[str, Any]], entries: list[dict[str, Any]]) -> COCO:
    """Return a data set of one class. Built directly, because `COCO.loadRes` raises where there are no predictions."""
    # An annotation with id 0 would be taken for no match.
    annotations = [{"id": number, "category_id": 1, **entry} for number, entry in enumerate(entries, start=1)]
    dataset = COCO()
    dataset.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "class"}]}
    dataset.createIndex()
    return dataset


def _target_entry(target: GroundTruthObject, image_id: int, iou_type: IouType) -> dict[str, Any]:
    entry = {"image_id": image_id, "bbox": _xywh(target), "area": target.area, "iscrowd": int(target.is_crowd)}
    return {**entry, "segmentation": dict(target.require_mask())} if iou_type == "mask" else entry


def _prediction_entry(prediction: Prediction, image_id: int, iou_type: IouType) -> dict[str, Any]:
    x, y, width, height = _xywh(prediction)
    area = float(rle_area([prediction.mask])[0]) if iou_type == "mask" else width * height
    score = prediction.score if math.isfinite(prediction.score) else -1.0  # last
    entry = {"image_id": image_id, "bbox": [x, y, width, height], "area": area, "iscrowd": 0, "score": score}
    return {**entry, "segmentation": dict(prediction.mask)} if iou_type == "mask" else entry


def _xywh(one: GroundTruthObject | Prediction) -> list[float]:
    x0, y0, x1, y1 = one.box
    return [x0, y0, x1 - x0, y1 - y0]


def _mean_precision(values: Float64[np.ndarray, "..."]) -> float | None:
    return float(values.mean()) if values.min() > -1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

"""Small ground truths, predictions and records, of masks that are rectangles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.evaluation.dataset import GroundTruth, GroundTruthObject, ImagePair, Prediction, ground_truth_from_coco
from grounded.labelling.formats.coco_file import coco_from_dict
from grounded.labelling.records import ImageInfo, Record
from segany.utils.rle import RLE, encode_rle

SIZE = (10, 10)


def block(x: int, y: int, width: int, height: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A (height, width) mask of one rectangle, whose IoU with another one is easily told."""
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def rle(mask: np.ndarray) -> RLE:
    return encode_rle(mask[None])[0]


def tight_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    x, y, width, height = coco_mask.toBbox(dict(rle(mask))).tolist()
    return x, y, x + width, y + height


def target(label: str, mask: np.ndarray, is_crowd: bool = False) -> GroundTruthObject:
    return GroundTruthObject(label, tight_box(mask), float(mask.sum()), rle(mask), is_crowd)


def predicted(label: str, mask: np.ndarray, score: float = 0.9, phrase: str | None = None) -> Prediction:
    return Prediction(label, phrase or label, score, tight_box(mask), rle(mask))


def image_pair(
    ground_truth: Sequence[GroundTruthObject] = (),
    predictions: Sequence[Prediction] = (),
    prompt: Sequence[str] | Mapping[str, str] = ("dog",),
    file: str = "a.jpg",
    size: tuple[int, int] = SIZE,
) -> ImagePair:
    """An image whose prompt is class names, or phrases with their classes."""
    phrase_classes = dict(prompt) if isinstance(prompt, Mapping) else {label: label for label in prompt}
    return ImagePair(file, file, size, phrase_classes, tuple(ground_truth), tuple(predictions))


def record(
    file: str,
    phrases: Sequence[str],
    found: Sequence[tuple[str, np.ndarray, float]] = (),
    size: tuple[int, int] = SIZE,
    boxes: Sequence[Sequence[float]] | None = None,
) -> Record:
    """A record of instances (phrase, mask, score), with tight boxes or those that are given."""
    n, boxes = len(found), boxes or [tight_box(mask) for _, mask, _ in found]
    unknown = np.full(n, np.nan, np.float32)
    instances = Instances(
        phrases=tuple(phrases),
        image_size=size,
        phrase_ids=np.array([phrases.index(phrase) for phrase, _, _ in found], dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32).reshape(n, 4),
        rles=tuple(rle(mask) for _, mask, _ in found),
        scores=np.array([score for _, _, score in found], dtype=np.float32),
        detector_scores=unknown,
        clip_scores=unknown,
        predicted_iou=unknown,
        phrase_scores=np.full((n, len(phrases)), np.nan, np.float32),
        sources=np.array(["detector"] * n, dtype=np.str_),
    )
    return Record(image=ImageInfo(file=file, width=size[1], height=size[0]), instances=instances)


def coco(
    images: Mapping[str, Sequence[tuple[str, np.ndarray]]],
    classes: Sequence[str] = ("dog", "cat"),
    size: tuple[int, int] = SIZE,
) -> dict[str, Any]:
    """A COCO annotation file of images {file: [(class, mask), ...]}."""
    listed = [{"id": 7 + i, "file_name": f, "height": size[0], "width": size[1]} for i, f in enumerate(images)]
    entries = [
        {"image_id": image["id"], "category_id": 3 + classes.index(label), "segmentation": dict(rle(mask))}
        for image, objects in zip(listed, images.values(), strict=True)
        for label, mask in objects
    ]
    return {
        "images": listed,
        "annotations": [
            {
                "id": i,
                "iscrowd": 0,
                "area": int(coco_mask.area(entry["segmentation"])),
                "bbox": coco_mask.toBbox(entry["segmentation"]).tolist(),
                **entry,
            }
            for i, entry in enumerate(entries)
        ],
        "categories": [{"id": 3 + i, "name": name} for i, name in enumerate(classes)],
    }


def ground_truth(
    images: Mapping[str, Sequence[tuple[str, np.ndarray]]], classes: Sequence[str] = ("dog", "cat")
) -> GroundTruth:
    return ground_truth_from_coco(coco_from_dict(coco(images, classes)))

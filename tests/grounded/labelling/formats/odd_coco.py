"""COCO files with something odd in them, and what there is in them for every reader."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from segany.utils.rle import encode_rle
from tests.data import disk

NAN = float("nan")
SQUARE = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]  # of columns 2 to 11 and rows 3 to 8
MASK = disk(30, 40, 20, 15, 9)
(COMPRESSED,) = encode_rle(MASK[None])
_LENGTHS = np.diff(np.flatnonzero(np.diff(MASK.T.ravel(), prepend=False)), prepend=0, append=MASK.size).tolist()
RUNS = {"size": [30, 40], "counts": _LENGTHS}
GOOD = {"segmentation": [SQUARE], "bbox": [2, 3, 10, 6], "area": 60}


def coco_data(entries: list[Any], **changes: Any) -> dict[str, Any]:
    """A file of two images, the first of which has these annotations: dogs, numbered from 1, unless they say else."""
    numbered = [
        {"id": i, "image_id": 7, "category_id": 3, "iscrowd": 0, **entry} if isinstance(entry, dict) else entry
        for i, entry in enumerate(entries, start=1)
    ]
    images = [
        {"id": 7, "file_name": "sub/a.jpg", "height": 30, "width": 40},
        {"id": 8, "file_name": "b.jpg", "height": 30, "width": 40},
    ]
    categories = [{"id": 3, "name": "a dog"}, {"id": 9, "name": "a cat"}]
    return {"images": images, "categories": categories, "annotations": numbered, **changes}


@dataclass(frozen=True)
class OddFile:
    """A file, and how many masks and boxes alone every reader finds in it, with the notes on the rest."""

    data: Any
    masks: int = 1
    boxes: int = 0
    notes: tuple[str, ...] = ()  # beginnings of the lines


def odd(entry: Any, masks: int = 1, boxes: int = 0, *notes: str) -> OddFile:
    """A file with a good annotation, and an odd one."""
    return OddFile(coco_data([GOOD, entry]), masks, boxes, notes)


def with_ids(image: Any, of: Any, category: Any = 3, of_category: Any = 3) -> OddFile:
    """A file with ids that are written in two ways."""
    data = coco_data([{**GOOD, "image_id": of, "category_id": of_category}])
    data["images"][0]["id"], data["categories"][0]["id"] = image, category
    return OddFile(data)


def bad(segmentation: Any, why: str, **more: Any) -> OddFile:
    """A file with a good annotation, and one that cannot be read."""
    return odd({"segmentation": segmentation, **more}, 1, 0, CANNOT + why)


def derived(note: str, **value: Any) -> OddFile:
    """A file with two masks, one of which has an odd value."""
    return odd({"segmentation": [SQUARE], **value}, 2, 0, note)


CANNOT = "annotations that cannot be read, left out: 1 (sub/a.jpg annotation 2: "
RINGS = "rings of fewer than three corners, left out: 1 (sub/a.jpg annotation 2)"
NO_MASK = "annotations without a mask and without a box, left out: 1 (sub/a.jpg annotation 2)"
NO_PIXEL = "annotations whose mask has no pixel in the image, left out: 1 (sub/a.jpg annotation 2)"
BOX = "annotations that are a box without a mask: 1 (sub/a.jpg annotation 2)"
STRAY = "annotations of images that are not listed, left out: 1 (annotation "
ODD_FILES = {
    "nothing odd": OddFile(coco_data([GOOD])),
    "no annotations": OddFile(coco_data([]), 0),
    "compressed": odd({"segmentation": dict(COMPRESSED)}, 2),
    "runs": odd({"segmentation": RUNS}, 2),
    "sizes as text": odd({"segmentation": {**RUNS, "size": ["30", "40"]}}, 2),
    "runs too short": bad({"size": [30, 40], "counts": [10, 5]}, "run lengths must add"),
    "runs below 0": bad({"size": [30, 40], "counts": [1300, -100]}, "run lengths must be"),
    "half a pixel": bad({"size": [30, 40], "counts": [600.5, 599.5]}, "run lengths must be"),
    "text too short": bad({"size": [30, 40], "counts": "51"}, "run lengths must"),
    "no text": bad({"size": [30, 40], "counts": ""}, "run lengths must add up"),
    "bytes as Python shows them": bad({"size": [30, 40], "counts": "b'51'"}, "compressed"),
    "no counts": bad({"size": [30, 40]}, "a mask must be an object with size and counts"),
    "another size": bad({"size": [40, 30], "counts": [1200]}, "a mask must be of the image"),
    "no mask at all": bad("text", "a mask must be an object"),
    "a number for a mask": bad(7, "a mask must be an object"),
    "not finite": bad([[NAN, 1, 2, 3, 4, 5]], "corners of a polygon must be finite"),
    "far away": bad([[0, 0, 2e8, 0, 2e8, 3e8]], "corners of a polygon must be finite"),
    "beyond the image": odd({"segmentation": [[-5.0, -5.0, 6000.0, -5.0, 60.0, 10.0]]}, 2),
    "an odd number": bad([[1, 2, 3, 4, 5, 6, 7]], "a polygon must have an x and a y"),
    "letters": bad([["a"] * 6], "a polygon must have an x and a y"),
    "a ring of null": bad([None], "a polygon must be a list"),
    "a line beside a ring": odd({"segmentation": [SQUARE, [1, 1, 2, 2]]}, 2, 0, RINGS),
    "an empty ring": odd({"segmentation": [SQUARE, []]}, 2, 0, RINGS),
    "nothing but a line": odd({"segmentation": [[1, 1, 2, 2]]}, 1, 0, RINGS, NO_MASK),
    "a line and a box": odd({"segmentation": [[1, 1, 2, 2]], "bbox": [1, 1, 5, 5]}, 1, 1, RINGS, BOX),
    "a flat list": odd({"segmentation": SQUARE}, 2, 0, "segmentations that are one flat list, read as one ring: 1"),
    "pairs": odd({"segmentation": [[[2, 3], [12, 3], [12, 9]]]}, 2),
    "null": odd({"segmentation": None}, 1, 0, NO_MASK),
    "empty": odd({"segmentation": [], "bbox": [1, 2, 3, 4]}, 1, 1, BOX),
    "missing": odd({"bbox": [1, 2, 3, 4]}, 1, 1, BOX),
    "no pixel": odd({"segmentation": {"size": [30, 40], "counts": [1200]}}, 1, 0, NO_PIXEL),
    "nothing in the image": odd({"segmentation": [[50, 3, 60, 3, 60, 9]]}, 1, 0, NO_PIXEL),
    "box null": derived("boxes that cannot be read, taken from the mask: 1", bbox=None),
    "box of three": derived("boxes that cannot be read, taken", bbox=[1, 2, 3]),
    "box without a side": odd({"bbox": [1, 2, 0, 4]}, 1, 0, NO_MASK),
    "box not finite": odd({"bbox": [NAN, 2, 3, 4]}, 1, 0, NO_MASK),
    "a side not finite": odd({"bbox": [1, NAN, 3, 4]}, 1, 0, NO_MASK),
    "a box far away": odd({"bbox": [1, 2, 3, 4e9]}, 1, 0, NO_MASK),
    "area null": derived("areas that cannot be read, taken from the mask", area=None),
    "area below 0": derived("areas that cannot be read, taken from the mask", area=-4),
    "score null": derived("scores that are no number, taken as unknown: 1", score=None),
    "score huge": derived("scores that are no number, taken as unknown", score=1e300),
    "iscrowd as text": odd({"segmentation": [SQUARE], "iscrowd": "0"}, 2),
    "no category": bad([SQUARE], "its category None is not listed", category_id=None),
    "another category": bad([SQUARE], "its category 5 is not listed", category_id=5),
    "a list for a category": bad([SQUARE], "its category [3] is not", category_id=[3]),
    "a stray": odd({"segmentation": [SQUARE], "image_id": 99}, 1, 0, STRAY + "2)"),
    "no image": odd({"segmentation": [SQUARE], "image_id": None}, 1, 0, STRAY + "2)"),
    "no object": odd("text", 1, 0, STRAY + "'text')"),
    "image ids as text": with_ids("000001", "000001"),
    "number and text": with_ids(1, "1"),
    "text and number": with_ids("1", 1),
    "text with zeros and number": with_ids("000001", 1),
    "number with a point": with_ids(1, 1.0),
    "category ids as text": with_ids(1, 1, "1", "1"),
    "category as text and as number": with_ids(1, 1, "1", 1),
    "category 0": with_ids(1, 1, 0, 0),
    "two ids that read alike": OddFile(
        coco_data(
            [{**GOOD, "image_id": "1"}, {**GOOD, "image_id": 1}, {**GOOD, "image_id": "01"}],
            images=[
                {"id": 1, "file_name": "sub/a.jpg", "height": 30, "width": 40},
                {"id": "1", "file_name": "b.jpg", "height": 30, "width": 40},
            ],
        ),
        2,
        0,
        (STRAY + "3)",),
    ),
    "a category without a name": OddFile(
        coco_data([GOOD], categories=[{"id": 3, "name": "a dog"}, {"id": 4}]), 1, 0, ("categories that cannot be read",)
    ),
    "a category twice": OddFile(
        coco_data([GOOD], categories=[{"id": 3, "name": "a dog"}, {"id": 3, "name": "a cat"}]),
        1,
        0,
        ("categories that cannot be read",),
    ),
    "an image that is none": OddFile(
        coco_data([GOOD], images=[*coco_data([])["images"], 5]), 1, 0, ("images that cannot be read, left out: 1 (5)",)
    ),
    "an image without a name": OddFile(
        coco_data([GOOD], images=[coco_data([])["images"][0], {"id": 4, "height": 3, "width": 4}]),
        1,
        0,
        ("images that cannot be read, left out: 1 (image 4: it has no file_name)",),
    ),
    "an image listed twice": OddFile(coco_data([GOOD], images=coco_data([])["images"] * 2)),
    "sizes of images as text": OddFile(
        coco_data([GOOD], images=[{"id": 7, "file_name": "sub/a.jpg", "height": "30", "width": 40.0}])
    ),
}
NO_FILES = {
    "a list": ([], "not a COCO annotation file: expected an object"),
    "a number": (5, "not a COCO annotation file: expected an object"),
    "empty": ({}, "must hold 'categories', got none"),
    "no annotations": ({"images": [], "categories": []}, "must hold 'annotations', got none"),
    "null": ({"images": None, "categories": [], "annotations": []}, "must hold 'images', a list, got None"),
    "nothing but strays": (coco_data([{**GOOD, "image_id": 99}]), "none of its 1 annotations is of an image"),
}

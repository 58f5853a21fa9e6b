import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from grounded.errors import ResultError
from grounded.evaluation.truth import read_truth, truth_from_coco
from segany.utils.rle import decode_rle
from tests.grounded.evaluation.made import block, coco, rle

MASK = block(2, 3, 4, 5)
UNCOMPRESSED = {"size": [10, 10], "counts": [23, 5, 5, 5, 5, 5, 5, 5, 42]}
POLYGON = [[2, 3, 6, 3, 6, 8, 2, 8]]


def with_entry(**changes: Any) -> dict[str, Any]:
    data = coco({"a.jpg": [("dog", MASK)]})
    data["annotations"][0] |= changes
    return data


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param(dict(rle(MASK)), id="run lengths"),
        pytest.param(UNCOMPRESSED, id="run lengths that are not compressed"),
        pytest.param(POLYGON, id="polygon"),
        pytest.param([*POLYGON, [1, 1, 2, 2]], id="a line besides"),
    ],
)
def test_segmentations_of_all_kinds(segmentation: Any):
    (thing,) = truth_from_coco(with_entry(segmentation=segmentation)).objects("a.jpg")
    assert thing.mask is not None
    np.testing.assert_array_equal(decode_rle([thing.mask])[0].numpy(), MASK)
    assert (thing.label, thing.box, thing.area, thing.is_crowd) == ("dog", (2, 3, 6, 8), 20, False)


def test_parts_of_a_polygon_are_one_mask():
    (thing,) = truth_from_coco(with_entry(segmentation=[[0, 0, 2, 0, 2, 2, 0, 2], POLYGON[0]])).objects("a.jpg")
    assert coco_mask.area(thing.mask) == 24


@pytest.mark.parametrize("segmentation", [None, []], ids=["null", "empty"])
def test_boxes_without_masks(segmentation: Any):
    data = with_entry(segmentation=segmentation)
    del data["annotations"][0]["area"]
    (thing,) = truth_from_coco(data).objects("a.jpg")
    assert thing.mask is None and thing.area == 20


def test_masks_without_boxes():
    data = with_entry(iscrowd=1)
    del data["annotations"][0]["area"], data["annotations"][0]["bbox"]
    (thing,) = truth_from_coco(data).objects("a.jpg")
    assert (thing.box, thing.area, thing.is_crowd) == ((2, 3, 6, 8), 20, True)


def test_a_picture_without_objects():
    truth = truth_from_coco(coco({"a.jpg": []}))
    assert truth.sizes == {"a.jpg": (10, 10)} and truth.objects("a.jpg") == ()


def test_categories_of_one_name_are_one_class():
    truth = truth_from_coco(coco({"a.jpg": [("dog", MASK), ("the Dog", MASK)]}, ("dog", "the Dog", "cat")))
    assert truth.classes == ("dog", "cat")
    assert [thing.label for thing in truth.objects("a.jpg")] == ["dog", "dog"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"segmentation": {"size": [9, 9], "counts": "51"}}, r"of the picture's size \[10, 10\]", id="size"
        ),
        pytest.param({"segmentation": {"size": [10, 10]}}, "annotation 0 .* 'counts'", id="no counts"),
        pytest.param({"bbox": [1, 2, 3]}, "annotation 0", id="box of three"),
        pytest.param({"category_id": 99}, "annotation 0 .* 99", id="unknown category"),
        pytest.param({"segmentation": [["a"] * 6]}, "annotation 0", id="polygon of letters"),
    ],
)
def test_damaged_annotations(changes: dict[str, Any], message: str):
    truth = truth_from_coco(with_entry(**changes))
    with pytest.raises(ResultError, match=message):
        truth.objects("a.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[]", "not a COCO annotation file", id="list"),
        pytest.param("{}", "must hold 'categories', got none", id="empty"),
        pytest.param("{", "is not JSON", id="no JSON"),
        pytest.param(json.dumps(with_entry(image_id=99)), "must hold 99", id="annotation of no picture"),
        pytest.param(
            json.dumps({**with_entry(), "images": with_entry()["images"] * 2}), "a.jpg twice", id="picture twice"
        ),
    ],
)
def test_files_that_are_no_truth(text: str, message: str, tmp_path: Path):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=message):
        read_truth(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ResultError, match="cannot read"):
        read_truth(tmp_path / "none.json")

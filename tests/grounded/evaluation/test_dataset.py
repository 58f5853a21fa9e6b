import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grounded.errors import ConfigError, ResultError
from grounded.evaluation.dataset import (
    ClassNames,
    GroundTruth,
    ground_truth_from_coco,
    match_records,
    normalise_name,
    read_ground_truth,
)
from grounded.labelling.formats.coco_file import coco_from_dict
from segany.utils.rle import decode_rle, rle_area
from tests.grounded.evaluation.made import block, coco, ground_truth, record, rle

MASK = block(1, 1, 3, 3)
GROUND_TRUTH = ground_truth({"a.jpg": [("dog", MASK), ("cat", MASK)], "b/c.jpg": [("dog", MASK)]})
NAMES = ClassNames(GROUND_TRUTH.classes)


def test_predictions_are_paired_with_ground_truth():
    (found,) = match_records(
        [record("a.jpg", ["a dog"], [("a dog", MASK, 0.5)])], GROUND_TRUTH, NAMES, count_missing=False
    ).pairs
    assert (found.file, found.record_file, found.image_size, found.phrase_classes) == (
        "a.jpg",
        "a.jpg",
        (10, 10),
        {"a dog": "dog"},
    )
    assert [one.label for one in found.ground_truth] == ["dog", "cat"]
    assert [one.label for one in found.targets] == ["dog"]  # no cat in the prompt
    (prediction,) = found.predictions
    assert (prediction.label, prediction.phrase, prediction.score, prediction.box) == (
        "dog",
        "a dog",
        0.5,
        (1, 1, 4, 4),
    )


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param("a.jpg", "a.jpg", id="equal"),
        pytest.param("train/a.jpg", "a.jpg", id="folder before the record"),
        pytest.param("c.jpg", "b/c.jpg", id="folder before the ground truth"),
        pytest.param("x/c.jpg", None, id="another folder"),
        pytest.param("ba.jpg", None, id="ends alike"),
        pytest.param("b\\c.jpg", "b/c.jpg", id="backslash"),
        pytest.param("https://example.com/b/c.jpg?w=3", "b/c.jpg", id="address"),
    ],
)
def test_names_with_folders(file: str, expected: str | None):
    dataset = match_records([record(file, ["dog"])], GROUND_TRUTH, NAMES, count_missing=False)
    assert [one.file for one in dataset.pairs] == ([expected] if expected else [])
    assert dataset.without_ground_truth == (() if expected else (file,))


def test_skipped_images_phrases_and_classes_are_listed():
    records = [
        record("a.jpg", ["dog", "unicorn"], [("unicorn", MASK, 0.9)]),
        record("b/c.jpg", ["dog"], size=(20, 10)),
        record("other.jpg", ["dog"]),
    ]
    dataset = match_records(records, GROUND_TRUTH, NAMES, phrases=("dog", "griffin"))
    assert dataset.phrase_classes == {"dog": "dog"}
    assert dataset.unknown_phrases == {"griffin": 0, "unicorn": 1}
    assert dataset.unprompted_classes == ("cat",)
    assert dataset.without_ground_truth == ("other.jpg",)
    assert dataset.size_mismatches == ("b/c.jpg",)
    assert [len(one.predictions) for one in dataset.pairs] == [0]
    assert dataset.missing == ()


@pytest.mark.parametrize(("count", "expected"), [(True, ["a.jpg", "b/c.jpg"]), (False, ["b/c.jpg"])])
def test_images_without_a_record(count: bool, expected: list[str]):
    dataset = match_records([record("b/c.jpg", ["dog"])], GROUND_TRUTH, NAMES, phrases=("a cat",), count_missing=count)
    assert [one.file for one in dataset.pairs] == expected
    assert dataset.missing == ("a.jpg",) and dataset.missing_counted is count
    if count:
        missing = dataset.pairs[0]
        assert (
            missing.record_file is None
            and missing.predictions == ()
            and missing.phrase_classes == {"a cat": "cat", "dog": "dog"}
        )


def test_no_records():
    dataset = match_records([], GROUND_TRUTH, NAMES, phrases=("dog",))
    assert len(dataset.pairs) == 2 and dataset.missing == ("a.jpg", "b/c.jpg")


def test_two_records_of_one_image_are_refused():
    with pytest.raises(ResultError, match=r"b/c.jpg and b\\c.jpg would both be measured against b/c.jpg"):
        match_records([record("b/c.jpg", ["dog"]), record("b\\c.jpg", ["dog"])], GROUND_TRUTH, NAMES)


@pytest.mark.parametrize(
    ("files", "measured"),
    [
        pytest.param(["x/a.jpg", "y/a.jpg"], ["b/c.jpg"], id="two that fit the same"),
        pytest.param(["x/a.jpg", "a.jpg"], ["a.jpg", "b/c.jpg"], id="one that fits, one that is called so"),
    ],
)
def test_names_that_do_not_tell_which_image_is_meant(files: list[str], measured: list[str]):
    dataset = match_records([record(file, ["dog"]) for file in files], GROUND_TRUTH, NAMES)
    assert [one.file for one in dataset.pairs] == measured  # b/c.jpg has no record, and counts as empty
    is_ambiguous = "a.jpg" not in measured
    assert dataset.ambiguous == (tuple(files) if is_ambiguous else ())
    assert dataset.without_ground_truth == (() if is_ambiguous else ("x/a.jpg",))


# Ground truth from COCO files

OBJECT = block(2, 3, 4, 5)
UNCOMPRESSED = {"size": [10, 10], "counts": [23, 5, 5, 5, 5, 5, 5, 5, 42]}
POLYGON = [[2, 3, 6, 3, 6, 8, 2, 8]]


def from_coco(data: dict[str, Any]) -> GroundTruth:
    return ground_truth_from_coco(coco_from_dict(data))


def with_entry(**changes: Any) -> dict[str, Any]:
    data = coco({"a.jpg": [("dog", OBJECT)]})
    data["annotations"][0] |= changes
    return data


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param(dict(rle(OBJECT)), id="run lengths"),
        pytest.param(UNCOMPRESSED, id="run lengths that are not compressed"),
        pytest.param(POLYGON, id="polygon"),
        pytest.param([*POLYGON, [1, 1, 2, 2]], id="a line besides"),
    ],
)
def test_segmentations_of_all_kinds(segmentation: Any):
    (found,) = from_coco(with_entry(segmentation=segmentation)).objects("a.jpg")
    assert found.mask is not None
    np.testing.assert_array_equal(decode_rle([found.mask])[0].numpy(), OBJECT)
    assert (found.label, found.box, found.area, found.is_crowd) == ("dog", (2, 3, 6, 8), 20, False)


def test_parts_of_a_polygon_are_one_mask():
    (found,) = from_coco(with_entry(segmentation=[[0, 0, 2, 0, 2, 2, 0, 2], POLYGON[0]])).objects("a.jpg")
    assert rle_area([found.mask]) == 24


@pytest.mark.parametrize("segmentation", [None, []], ids=["null", "empty"])
def test_boxes_without_masks(segmentation: Any):
    data = with_entry(segmentation=segmentation)
    del data["annotations"][0]["area"]
    (found,) = from_coco(data).objects("a.jpg")
    assert found.mask is None and found.area == 20


def test_masks_without_boxes():
    data = with_entry(iscrowd=1)
    del data["annotations"][0]["area"], data["annotations"][0]["bbox"]
    (found,) = from_coco(data).objects("a.jpg")
    assert (found.box, found.area, found.is_crowd) == ((2, 3, 6, 8), 20, True)


def test_an_image_without_objects():
    made = from_coco(coco({"a.jpg": []}))
    assert made.sizes == {"a.jpg": (10, 10)} and made.objects("a.jpg") == ()


def test_categories_of_one_name_are_one_class():
    made = from_coco(coco({"a.jpg": [("dog", OBJECT), ("the Dog", OBJECT)]}, ("dog", "the Dog", "cat")))
    assert made.classes == ("dog", "cat")
    assert [found.label for found in made.objects("a.jpg")] == ["dog", "dog"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        pytest.param({"segmentation": {"size": [9, 9], "counts": "51"}}, r"of the image's size \[10, 10\]", id="size"),
        pytest.param({"category_id": 99}, "its category 99 is not listed", id="unknown category"),
        pytest.param({"segmentation": [["a"] * 6]}, "for each corner, all of them numbers", id="polygon of letters"),
    ],
)
def test_damaged_annotations_are_left_out_and_named(changes: dict[str, Any], note: str):
    dataset = match_records([record("a.jpg", ["dog"])], from_coco(with_entry(**changes)), NAMES)
    assert dataset.pairs[0].ground_truth == ()
    (line,) = dataset.notes
    assert re.match(f"annotations that cannot be read, left out: 1 \\(a.jpg annotation 0: .*{note}", line)


def test_crowds_are_objects_on_demand():
    data = with_entry(iscrowd=1)
    assert from_coco(data).objects("a.jpg")[0].is_crowd
    assert not ground_truth_from_coco(coco_from_dict(data), count_crowds=True).objects("a.jpg")[0].is_crowd
    dataset = match_records([record("a.jpg", ["dog"])], from_coco(data), NAMES)
    assert dataset.notes == ("crowd regions, in which predictions are neither right nor wrong: 1 (a.jpg)",)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        pytest.param({"height": None}, "a.jpg: it has no width and height", id="no size"),
        pytest.param({"id": 8}, "a.jpg: it is annotated twice, and the first counts", id="annotated twice"),
    ],
)
def test_images_that_cannot_be_used(changes: dict[str, Any], note: str):
    data = with_entry()
    data["images"].append({**data["images"][0], **changes} if "id" in changes else {**data["images"].pop(), **changes})
    dataset = match_records([record("a.jpg", ["dog"])], from_coco(data), NAMES)
    assert dataset.notes == (f"images of the ground truth that cannot be used, left out: 1 ({note})",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[]", "not a COCO annotation file", id="list"),
        pytest.param("{}", "must hold 'categories', got none", id="empty"),
        pytest.param("{", "is not JSON", id="no JSON"),
        pytest.param(json.dumps(with_entry(image_id=99)), "none of its 1 annotations", id="annotation of no image"),
    ],
)
def test_files_that_are_no_ground_truth(text: str, message: str, tmp_path: Path):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=message):
        read_ground_truth(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ResultError, match="cannot read"):
        read_ground_truth(tmp_path / "none.json")


# Classes of phrases

CLASSES = ("dog", "Hot Dog", "fire_hydrant", "the end", "Äpfel")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("A Dog", "dog", id="article and case"),
        pytest.param("an  old\tdog", "old dog", id="white space"),
        pytest.param("the_dog", "dog", id="underscore"),
        pytest.param("ant", "ant", id="begins like an article"),
        pytest.param("a", "a", id="an article alone"),
        pytest.param("A\u0308pfel", "äpfel", id="composed"),
        pytest.param("", "", id="empty"),
    ],
)
def test_normalise_name(name: str, expected: str):
    assert normalise_name(name) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        pytest.param("a dog", "dog", id="article"),
        pytest.param("hot dog", "Hot Dog", id="case"),
        pytest.param("A fire hydrant", "fire_hydrant", id="underscore"),
        pytest.param("end", "the end", id="article in the class"),
        pytest.param("dogs", None, id="another word"),
        pytest.param("a puppy", "dog", id="mapped"),
        pytest.param("The Puppy", "dog", id="mapped in another spelling"),
        pytest.param("sausage", "Hot Dog", id="mapped to a class in another spelling"),
    ],
)
def test_the_class_of_a_phrase(phrase: str, expected: str | None):
    assert ClassNames(CLASSES, {"puppy": "dog", "a sausage": "a hot dog"}).find(phrase) == expected


def test_a_mapping_goes_before_a_name():
    assert ClassNames(CLASSES, {"a dog": "hot dog"}).find("dog") == "Hot Dog"


def test_a_mapping_to_no_class_is_refused():
    with pytest.raises(
        ConfigError, match="cannot map 'puppy' to 'dgo': the ground truth has no such class; there is 'dog'"
    ):
        ClassNames(CLASSES, {"puppy": "dgo"})

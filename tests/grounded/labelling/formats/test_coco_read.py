import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from grounded.errors import ResultError
from grounded.labelling import store
from grounded.labelling.formats import coco_read as coco
from grounded.labelling.formats.ground_truth import import_truths, run_of
from grounded.labelling.formats.importing import Annotated, Notes, open_annotations
from segany.utils.rle import RLE, decode_rle, encode_rle
from tests.data import disk

SQUARE = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]
MASK = disk(30, 40, 20, 15, 9)
(COMPRESSED,) = encode_rle(MASK[None])
RUNS = np.diff(np.flatnonzero(np.diff(MASK.T.ravel(), prepend=False)), prepend=0, append=MASK.size).tolist()
FULL = {"size": [30, 40], "counts": RUNS}
FORMS = {
    "one polygon": [SQUARE],
    "two polygons": [SQUARE, [20.5, 20.5, 30.2, 20.5, 25.1, 28.8]],
    "beyond the picture": [[-5.0, -5.0, 60.0, -5.0, 60.0, 10.0]],
    "compressed": dict(COMPRESSED),
    "runs": FULL,
    "nothing": {"size": [30, 40], "counts": [30 * 40]},
}


def file(folder: Path, segmentations: list, **extra: object) -> Path:
    data = {
        "images": [
            {"id": 7, "file_name": "sub/a.jpg", "height": 30, "width": 40},
            {"id": 8, "file_name": "b.jpg", "height": 30, "width": 40},
        ],
        "categories": [{"id": 3, "name": "a dog"}, {"id": 9, "name": "a cat"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": segmentation}
            for i, segmentation in enumerate(segmentations, start=1)
        ],
        **extra,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


def read(path: Path) -> tuple[list[Annotated], Notes]:
    notes = Notes()
    return list(coco.open_file(path).pictures(notes)), notes


@pytest.mark.parametrize("segmentation", FORMS.values(), ids=FORMS)
def test_masks_are_those_of_pycocotools(segmentation: object, tmp_path: Path):
    path = file(tmp_path, [segmentation])
    with contextlib.redirect_stdout(io.StringIO()):
        public = COCO(str(path))
    (picture, empty), notes = read(path)
    assert (picture.names, picture.image_size, picture.error) == (("sub/a.jpg", "a.jpg"), (30, 40), "")
    (annotation,) = picture.annotations
    assert annotation.label == "a dog" and np.isnan(annotation.score)
    assert annotation.is_rounded == isinstance(segmentation, list)
    np.testing.assert_array_equal(decode_rle([annotation.rle])[0].numpy(), public.annToMask(public.anns[1]) > 0)
    assert empty.annotations == ()
    assert not notes.lines()


def test_runs_are_what_they_say():
    np.testing.assert_array_equal(decode_rle([coco.to_rle(FULL, (30, 40))])[0].numpy(), MASK)


def test_crowds_scores_and_annotations_without_masks(tmp_path: Path):
    path = file(tmp_path, [FULL, [], FULL])
    data = json.loads(path.read_text())
    data["annotations"][0] |= {"iscrowd": 1, "score": 0.25}
    data["annotations"].append({"id": 9, "image_id": 1000, "category_id": 3, "segmentation": [SQUARE]})
    path.write_text(json.dumps(data))
    (picture, _), notes = read(path)
    assert picture.annotations[0].score == 0.25
    assert notes.lines() == [
        "annotations of pictures that are not listed, left out: 1",
        "crowd regions, each of them one instance: 1 (sub/a.jpg)",
        "annotations without a mask, left out: 1 (sub/a.jpg)",
    ]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        pytest.param([[1, 2, 3, 4]], "three corners or more, got 4 coordinates", id="two corners"),
        pytest.param([[1, 2, 3, 4, 5, 6, 7]], "three corners or more, got 7", id="odd"),
        pytest.param([["a"] * 6], "not a mask in COCO's forms", id="no numbers"),
        pytest.param(
            {"size": [40, 30], "counts": [1200]}, r"of the picture's size \[30, 40\], got \[40, 30\]", id="size"
        ),
        pytest.param({"size": [30, 40], "counts": [10, 5]}, "add up to 1200", id="too few"),
        pytest.param({"size": [30, 40], "counts": [1300, -100]}, "add up to 1200", id="negative"),
        pytest.param({"size": [30, 40], "counts": "abc"}, "not a mask in COCO's forms", id="damaged"),
        pytest.param({"size": [30, 40]}, "not a mask in COCO's forms: 'counts'", id="no counts"),
        pytest.param("text", "not a mask in COCO's forms", id="text"),
    ],
)
def test_a_damaged_mask_is_an_error_of_its_picture(segmentation: object, message: str, tmp_path: Path):
    with pytest.raises(ResultError, match=message):
        coco.to_rle(segmentation, (30, 40))
    (picture, other), _ = read(file(tmp_path, [FULL, segmentation]))
    assert picture.error.startswith("annotation 2: ") and not picture.annotations
    assert not other.error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"images": [{"id": 7, "file_name": "a.jpg"}]}, "must have a width and a height", id="no size"),
        pytest.param({"categories": []}, "must be of a category listed", id="no category"),
    ],
)
def test_what_a_picture_needs(changes: dict, message: str, tmp_path: Path):
    (picture, *_), _ = read(file(tmp_path, [FULL], **changes))
    assert message in picture.error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "is not JSON", id="no JSON"),
        pytest.param("[]", "not a COCO file of instances", id="a list"),
        pytest.param('{"images": []}', "there is no 'categories'", id="keys missing"),
        pytest.param('{"images": [1], "categories": [], "annotations": []}', "not a COCO file", id="no image"),
    ],
)
def test_what_is_no_coco_file(content: str, message: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=message):
        coco.open_file(path)


def test_photographs_have_the_masks_of_pycocotools(tmp_path: Path):
    root = os.environ.get("GROUNDED_TEST_DATA")
    path = Path(root or "none") / "coco-tiny" / "annotations" / "instances_val2017.json"
    if not path.is_file():
        pytest.skip(f"needs COCO annotations: GROUNDED_TEST_DATA is not set, or there is no {path}")
    reader, notes = open_annotations(path), Notes()
    result = import_truths(tmp_path / "run", reader, run_of(reader, path, "coco", str(path)), notes)
    with contextlib.redirect_stdout(io.StringIO()):
        public = COCO(str(path))
    assert (result.pictures, result.instances, result.refused) == (len(public.imgs), len(public.anns), {})
    ids = {image["file_name"]: image["id"] for image in public.imgs.values()}
    seen = 0
    for record in store.records(tmp_path / "run"):
        annotations = public.imgToAnns[ids.pop(record.image.file)]
        for rle, label, annotation in zip(record.instances.rles, record.instances.labels, annotations, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(rle), public.annToMask(annotation))
            assert label == public.cats[annotation["category_id"]]["name"]
            seen += 1
    assert not ids and seen == len(public.anns)
    assert sum("crowd" in line for line in notes.lines()) == any(a["iscrowd"] for a in public.anns.values())


def test_one_form_is_a_typed_dict():
    assert coco.to_rle(dict(COMPRESSED), (30, 40)) == RLE(size=[30, 40], counts=COMPRESSED["counts"])

import contextlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from grounded.errors import MaskError, ResultError
from grounded.evaluation.dataset import GroundTruth, ground_truth_from_coco, read_ground_truth
from grounded.labelling import store
from grounded.labelling.formats.annotations import AnnotatedImage, LeftOut, Notes, open_annotations
from grounded.labelling.formats.coco import CocoReader
from grounded.labelling.formats.coco_file import (
    CocoImage,
    IdTable,
    coco_from_dict,
    read_coco,
    read_coco_images,
    segmentation_to_rle,
)
from grounded.labelling.formats.ground_truth import import_ground_truth, run_of
from segany.utils.rle import RLE, decode_rle, rle_area
from tests.fuzzing import FUZZ_COUNTS, fuzz
from tests.grounded.labelling.formats.odd_coco import (
    COMPRESSED,
    GOOD,
    MASK,
    NO_FILES,
    ODD_FILES,
    RUNS,
    SQUARE,
    OddFile,
    coco_data,
)

FORMS = {
    "one polygon": [SQUARE],
    "two polygons": [SQUARE, [20.5, 20.5, 30.2, 20.5, 25.1, 28.8]],
    "beyond the image": [[-5.0, -5.0, 60.0, -5.0, 60.0, 10.0]],
    "far beyond the image": [[-500.0, -5.0, 6000.0, -5.0, 60.0, 1000.0]],
    "compressed": dict(COMPRESSED),
    "runs": RUNS,
}


@pytest.mark.parametrize("segmentation", FORMS.values(), ids=FORMS)
def test_masks_are_those_of_pycocotools(segmentation: Any, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(coco_data([{"segmentation": segmentation}])))
    with contextlib.redirect_stdout(io.StringIO()):
        public = COCO(str(path))
    coco = read_coco(path)
    left_out = LeftOut(Notes(), "a")
    (one,) = coco.objects(coco.images[0], (30, 40), left_out)
    assert (one.label, one.is_polygon) == ("a dog", isinstance(segmentation, list))
    np.testing.assert_array_equal(decode_rle([one.mask])[0].numpy(), public.annToMask(public.anns[1]) > 0)
    assert not left_out.notes.lines()


def test_runs_are_what_they_say():
    np.testing.assert_array_equal(decode_rle([segmentation_to_rle(RUNS, (30, 40))])[0].numpy(), MASK)


@pytest.mark.parametrize(
    "counts",
    [COMPRESSED["counts"], COMPRESSED["counts"].encode(), RUNS["counts"], [float(r) for r in RUNS["counts"]]],
    ids=["text", "bytes", "runs", "floats"],
)
def test_run_lengths_of_all_kinds_are_one_rle(counts: Any):
    expected = RLE(size=[30, 40], counts=COMPRESSED["counts"])
    assert segmentation_to_rle({"size": [30, 40], "counts": counts}, (30, 40)) == expected


@pytest.mark.parametrize("segmentation", [None, [], [[]], {}, [[1, 2, 3, 4], []]])
def test_no_segmentation(segmentation: Any):
    assert segmentation_to_rle(segmentation, (30, 40)) is None


def test_a_damaged_segmentation():
    with pytest.raises(MaskError, match="add up to height x width = 1200, got 15"):
        segmentation_to_rle({"size": [30, 40], "counts": [10, 5]}, (30, 40))


def found_by_import(images: list[AnnotatedImage]) -> Counter[Any]:
    """Image, label, mask and box of all annotations."""
    return Counter(
        (image.names[0], one.label, None if one.box else one.rle["counts"], one.box)
        for image in images
        for one in image.annotations
    )


def found_by_evaluation(truth: GroundTruth, notes: Notes) -> Counter[Any]:
    truth.note_left_out(notes)
    return Counter(
        (file, one.label, one.mask["counts"] if one.mask else None, None if one.mask else one.box)
        for file in truth.sizes
        for one in truth.objects(file, notes)
    )


@pytest.mark.parametrize("odd", ODD_FILES.values(), ids=ODD_FILES)
def test_imports_and_evaluation_find_the_same(odd: OddFile, tmp_path: Path):
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(odd.data))
    imported, measured = Notes(), Notes()
    images = list(CocoReader.open(path).images(imported))
    found = found_by_import(images)
    assert found == found_by_evaluation(read_ground_truth(path), measured)
    assert imported.lines() == measured.lines()
    assert not any(image.error for image in images)
    boxes = sum(count for (*_, box), count in found.items() if box)
    assert (found.total() - boxes, boxes) == (odd.masks, odd.boxes)
    assert len(imported.lines()) == len(odd.notes)
    for line, beginning in zip(imported.lines(), odd.notes, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize(("data", "message"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_coco_file(data: Any, message: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    for read in (CocoReader.open, read_ground_truth):
        with pytest.raises(ResultError, match=message):
            read(path)


def test_what_is_no_json(tmp_path: Path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ResultError, match="is not JSON"):
        read_coco(tmp_path / "a.json")


def test_boxes_and_areas_are_the_files_own_where_they_can_be():
    entries = [{**GOOD, "bbox": [1.5, 2.5, 3, 4], "area": 7}, {"segmentation": [SQUARE]}, {"bbox": [1, 2, 3, 4]}]
    coco = coco_from_dict(coco_data(entries))
    found = coco.objects(coco.images[0], (30, 40), LeftOut(Notes(), "a"))
    assert [(one.box, one.area) for one in found] == [
        ((1.5, 2.5, 4.5, 6.5), 7),
        ((2, 3, 12, 9), 60),
        ((1, 2, 4, 6), 12),
    ]


@pytest.mark.parametrize(
    ("ids", "id", "expected"),
    [
        pytest.param([1, 2], 1, 1, id="itself"),
        pytest.param([1, "1"], "1", "1", id="itself before the same text"),
        pytest.param([1, 2], " 2 ", 2, id="text"),
        pytest.param(["0007"], 7, "0007", id="number"),
        pytest.param(["07", "007"], 7, None, id="several"),
        pytest.param(["a"], "b", None, id="none"),
        pytest.param([1], True, None, id="bool"),
        pytest.param([1], None, None, id="null"),
        pytest.param([1], [1], None, id="list"),
        pytest.param([1], float("nan"), None, id="nan"),
        pytest.param([0], 0.0, 0, id="zero"),
        pytest.param([""], "", None, id="no text"),
    ],
)
def test_ids(ids: list[Any], id: Any, expected: Any):
    found = IdTable(ids).find(id)
    assert found == expected and type(found) is type(expected)


def test_the_list_of_images_alone(tmp_path: Path):
    path = tmp_path / "images.json"
    path.write_text('{"images": [{"file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg", "height": 3, "width": 4}]}')
    assert read_coco_images(path) == ((CocoImage(None, "a.jpg", None), CocoImage(1, "b.jpg", (3, 4))), {})
    path.write_text(json.dumps(coco_data([])))
    assert read_coco_images(path)[1] == {"a dog": 3, "a cat": 9}
    path.write_text("[]")
    with pytest.raises(ResultError, match=r"images\.json is not a COCO file: expected .*, got \[\]"):
        read_coco_images(path)
    with pytest.raises(ResultError, match="cannot read"):
        read_coco_images(tmp_path / "none.json")


def test_photographs_have_the_masks_of_pycocotools(tmp_path: Path):
    root = os.environ.get("GROUNDED_TEST_DATA")
    path = Path(root or "none") / "coco-tiny" / "annotations" / "instances_val2017.json"
    if not path.is_file():
        pytest.skip(f"needs COCO annotations: GROUNDED_TEST_DATA is not set, or there is no {path}")
    reader, notes = open_annotations(path), Notes()
    result = import_ground_truth(tmp_path / "run", reader, run_of(reader, path, "coco", str(path)), notes)
    with contextlib.redirect_stdout(io.StringIO()):
        public = COCO(str(path))
    assert (result.images, result.instances, result.refused) == (len(public.imgs), len(public.anns), {})
    ids = {image["file_name"]: image["id"] for image in public.imgs.values()}
    seen = 0
    for record in store.read_records(tmp_path / "run"):
        annotations = public.imgToAnns[ids.pop(record.image.file)]
        for rle, label, annotation in zip(record.instances.rles, record.instances.labels, annotations, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(rle), public.annToMask(annotation))
            assert label == public.cats[annotation["category_id"]]["name"]
            seen += 1
    assert not ids and seen == len(public.anns)
    assert sum("crowd" in line for line in notes.lines()) == any(a["iscrowd"] for a in public.anns.values())


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(count: int, tmp_path: Path):
    path = tmp_path / "a.json"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        coco = read_coco(path)
        imported, measured = Notes(), Notes()
        images = list(CocoReader(coco).images(imported))
        found = found_by_evaluation(ground_truth_from_coco(coco), measured)
        if not any(image.error for image in images) and len({image.names for image in images}) == len(images):
            assert found_by_import(images) == found
        for image in images:
            assert all(rle_area([one.rle])[0] > 0 or one.box for one in image.annotations)
            decode_rle([one.rle for one in image.annotations][:1] or [RLE(size=[1, 1], counts="1")])

    entries = [{**GOOD, "segmentation": form, "score": 0.5} for form in FORMS.values()]
    fuzz(
        [json.dumps(coco_data(entries)).encode(), json.dumps(coco_data([{"bbox": [1, 2, 3, 4]}])).encode()], read, count
    )

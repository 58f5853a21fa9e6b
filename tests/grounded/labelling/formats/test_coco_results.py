import json
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.formats.annotations import Notes, guess_format, open_annotations
from grounded.labelling.formats.coco_results import CocoResultsReader
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.fuzzing import FUZZ_COUNTS
from tests.grounded.labelling.formats.reading import fuzz_file, masks, read

MASK = disk(30, 40, 20, 15, 9)
COCO = {
    "images": [
        {"id": 3, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 4, "file_name": "b.jpg", "width": 40, "height": 30},
    ],
    "categories": [{"id": 7, "name": "a dog"}],  # as files of test images have it, without annotations
}
RESULTS = [
    {"image_id": 3, "category_id": 7, "segmentation": encode_rle(MASK[None])[0], "score": 0.75},
    {"image_id": "3", "category_id": 7, "bbox": [1, 2, 10, 20], "score": 0.5},
]


def save(folder: Path, results: object, name: str = "instances.json") -> Path:
    (folder / name).write_text(json.dumps(COCO))
    path = folder / "results.json"
    path.write_text(json.dumps(results))
    return path


def test_masks_and_boxes(tmp_path: Path):
    path = save(tmp_path, RESULTS)
    assert guess_format(path) == "coco-results"
    (first, second), notes = read(path)
    assert first.names == ("a.jpg",) and second.annotations == ()
    mask, box = first.annotations
    np.testing.assert_array_equal(masks(first)[0], MASK)
    assert (mask.label, mask.score, mask.box) == ("a dog", 0.75, None)
    assert (box.score, box.box) == (0.5, (1, 2, 11, 22))
    assert len(notes) == 1  # the box without a mask


def test_ids_of_a_file_elsewhere(tmp_path: Path):
    path = save(tmp_path, RESULTS, "elsewhere.json")
    with pytest.raises(ResultError, match="name the annotation file that its ids are of, with --coco"):
        CocoResultsReader.open(path)
    reader = open_annotations(path, "coco-results", coco=tmp_path / "elsewhere.json")
    assert reader.labels() == ("a dog",)
    assert len(list(reader.images(Notes()))) == 2


def test_odd_results_are_left_out_alone(tmp_path: Path):
    odd = [5, {"image_id": 99, "category_id": 7}, {"image_id": 3, "category_id": 99, "bbox": [1, 2, 3, 4]}]
    (image, _), notes = read(save(tmp_path, RESULTS + odd))
    assert len(image.annotations) == 2 and image.left_out == 3
    assert any("of result 4" in note for note in notes) and any("of result 5" in note for note in notes)


@pytest.mark.parametrize("results", [{}, None, [{"image_id": 99, "category_id": 7}]], ids=["dict", "null", "strays"])
def test_what_is_refused(results: object, tmp_path: Path):
    with pytest.raises(ResultError, match=r"results\.json"):
        CocoResultsReader.open(save(tmp_path, results))


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(count: int, tmp_path: Path):
    path = save(tmp_path, RESULTS)
    fuzz_file(path, "coco-results", [path.read_bytes()], count)

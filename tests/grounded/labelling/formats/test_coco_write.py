import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from grounded.errors import ResultError
from grounded.labelling.formats import coco_write as coco
from tests.grounded.labelling.formats import made


def read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_pycocotools_reads_the_same_masks(tmp_path: Path):
    lost = coco.write(made.ALL, made.CLASSES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["instances.json"]
    data = read(tmp_path / "instances.json")
    assert data.loadCats(data.getCatIds()) == [{"id": i + 1, "name": label} for i, label in enumerate(made.CLASSES)]
    assert sorted(data.imgs) == list(range(1, len(made.ALL) + 1))
    assert sorted(data.anns) == list(range(1, len(data.anns) + 1))
    for image_id, record in enumerate(made.ALL, start=1):
        image, expected = data.imgs[image_id], made.shown(record)
        assert image["file_name"] == record.image.file
        assert (image["width"], image["height"]) == (record.image.width, record.image.height)
        annotations = data.loadAnns(data.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(expected)
        for annotation, one in zip(annotations, expected, strict=True):
            mask = data.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, one.masks[0])
            assert data.cats[annotation["category_id"]]["name"] == one.labels[0]
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation.get("score", made.NAN) == pytest.approx(one.scores[0], nan_ok=True)
    assert +lost == {"instances left out, as their masks are empty": 1}


def test_no_records(tmp_path: Path):
    assert not +coco.write([], made.CLASSES, tmp_path)
    data = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    assert (data["images"], data["annotations"], len(data["categories"])) == ([], [], 3)


def test_orientation_is_stated_unless_pictures_are_copied(tmp_path: Path):
    turned = made.RECORDS["turned"]
    coco.write([turned], made.CLASSES, tmp_path / "a")
    coco.write([turned], made.CLASSES, tmp_path / "b", made.images)
    first, second = (json.loads((tmp_path / name / "instances.json").read_text())["images"][0] for name in "ab")
    assert (first["exif_orientation"], "exif_orientation" in second) == (6, False)
    assert (first["width"], first["height"]) == (second["width"], second["height"]) == (30, 40)


def test_copies_are_where_the_file_says(tmp_path: Path):
    coco.write(made.ALL, made.CLASSES, tmp_path, made.images)
    names = [image["file_name"] for image in read(tmp_path / "instances.json").imgs.values()]
    assert {"one.jpg", "one.png", "sub/sub/whole.jpg", "_/up/x.y.jpg"} < set(names)
    files = {str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").rglob("*.*")}
    assert files == set(names) and len(names) == len(made.ALL)


def test_a_label_that_is_no_class(tmp_path: Path):
    with pytest.raises(ResultError, match=r"parts\.jpg: 'ein Stück Käse 猫' is not among the 1 classes"):
        coco.write(made.ALL, ["a dog"], tmp_path)

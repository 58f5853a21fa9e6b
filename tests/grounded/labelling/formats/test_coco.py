import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from grounded.errors import ResultError
from grounded.labelling.formats.annotations import AnnotatedImage, Notes
from grounded.labelling.formats.coco import CocoExporter, CocoReader, CocoResultsExporter
from grounded.labelling.store.source_ids import SourceIds
from tests.grounded.labelling.formats import made
from tests.grounded.labelling.formats.odd_coco import RUNS, SQUARE, coco_data


def read(data: dict, tmp_path: Path) -> tuple[list[AnnotatedImage], Notes]:
    path, notes = tmp_path / "instances.json", Notes()
    path.write_text(json.dumps(data))
    return list(CocoReader.open(path).images(notes)), notes


def test_crowds_scores_and_boxes(tmp_path: Path):
    entries = [
        {"segmentation": RUNS, "iscrowd": 1, "score": 0.25},
        {"segmentation": [SQUARE]},
        {"bbox": [1, 2, 3, 4]},
    ]
    (image, _), notes = read(coco_data(entries), tmp_path)
    assert image.names == ("sub/a.jpg", "a.jpg")
    assert [one.score for one in image.annotations] == pytest.approx([0.25, np.nan, np.nan], nan_ok=True)
    assert [one.is_rounded for one in image.annotations] == [False, True, False]
    assert [one.box for one in image.annotations] == [None, None, (1.0, 2.0, 4.0, 6.0)]
    assert image.left_out == 0
    assert notes.lines() == [
        "annotations that are a box without a mask: 1 (sub/a.jpg annotation 3)",
        "crowd regions, each of them one instance: 1 (sub/a.jpg)",
    ]


def test_what_belongs_to_no_image_was_deleted_from_none(tmp_path: Path):
    images, _ = read(coco_data([{"segmentation": RUNS}, {"segmentation": RUNS, "image_id": 99}]), tmp_path)
    assert [image.left_out for image in images] == [1, 1]


def test_an_image_without_a_size(tmp_path: Path):
    data = coco_data([{"segmentation": [SQUARE]}])
    data["images"][0]["height"] = None
    (image, _), _ = read(data, tmp_path)
    assert image.error == "the image must have a width and a height"
    reader = CocoReader.open(tmp_path / "instances.json")
    image, _ = reader.images(Notes(), lambda names: (30, 40) if "a.jpg" in names else None)
    assert image.image_size == (30, 40) and len(image.annotations) == 1


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_pycocotools_reads_the_same_masks(tmp_path: Path):
    lost = made.write(CocoExporter, made.ALL, made.CLASSES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["instances.json"]
    data = load(tmp_path / "instances.json")
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
    assert not +made.write(CocoExporter, [], made.CLASSES, tmp_path)
    data = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    assert (data["images"], data["annotations"], len(data["categories"])) == ([], [], 3)


def test_orientation_is_stated_unless_images_are_copied(tmp_path: Path):
    turned = made.RECORDS["turned"]
    made.write(CocoExporter, [turned], made.CLASSES, tmp_path / "a")
    made.write(CocoExporter, [turned], made.CLASSES, tmp_path / "b", made.images)
    first, second = (json.loads((tmp_path / name / "instances.json").read_text())["images"][0] for name in "ab")
    assert (first["exif_orientation"], "exif_orientation" in second) == (6, False)
    assert (first["width"], first["height"]) == (second["width"], second["height"]) == (30, 40)


def test_copies_are_where_the_file_says(tmp_path: Path):
    made.write(CocoExporter, made.ALL, made.CLASSES, tmp_path, made.images)
    names = [image["file_name"] for image in load(tmp_path / "instances.json").imgs.values()]
    assert {"one.jpg", "one.png", "sub/sub/whole.jpg", "_/up/x.y.jpg"} < set(names)
    files = {str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").rglob("*.*")}
    assert files == set(names) and len(names) == len(made.ALL)


def test_a_label_that_is_no_class(tmp_path: Path):
    with pytest.raises(ResultError, match=r"parts\.jpg: 'ein Stück Käse 猫' is not among the 1 classes"):
        made.write(CocoExporter, made.ALL, ["a dog"], tmp_path)


IDS = SourceIds({"one.jpg": 397133, "holes.jpg": "b7"}, {"dog": 18, "a cat": 59})


def test_ids_of_the_source_stay(tmp_path: Path):
    made.write(CocoExporter, made.ALL, made.CLASSES, tmp_path, source_ids=IDS)
    data = json.loads((tmp_path / "instances.json").read_text())
    assert data["categories"] == [
        {"id": 18, "name": "a dog"},
        {"id": 60, "name": "ein Stück Käse 猫"},
        {"id": 61, "name": "never seen"},
    ]
    ids = {image["file_name"]: image["id"] for image in data["images"]}
    assert (ids["one.jpg"], ids["holes.jpg"]) == (397133, "b7")
    assert len(set(ids.values())) == len(made.ALL)
    others = set(ids.values()) - {397133, "b7"}
    assert others == set(range(397134, 397134 + len(others)))
    assert {entry["image_id"] for entry in data["annotations"]} <= set(ids.values())


def test_results_are_taken_by_pycocotools(tmp_path: Path):
    records = [made.RECORDS["one"], made.RECORDS["whole image"]]
    truth = {
        "images": [{"id": id, "file_name": "a.jpg", "height": 30, "width": 40} for id in (7, 9)],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    ids = SourceIds({"one.jpg": 7, "sub/sub/whole.jpg": 9}, {"dog": 18})
    lost = made.write(CocoResultsExporter, records, ["a dog"], tmp_path, source_ids=ids)
    assert +lost == {"scores that are unknown, written as 0": 1}
    with contextlib.redirect_stdout(io.StringIO()):
        results = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "results.json"))
    assert [(one["image_id"], one["category_id"]) for one in results.anns.values()] == [(7, 18), (9, 18)]
    np.testing.assert_array_equal(results.annToMask(results.anns[1]) > 0, records[0].instances.masks[0])


def test_results_of_nothing(tmp_path: Path):
    made.write(CocoResultsExporter, [made.RECORDS["nothing found"]], ["a dog"], tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == []

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.labelling.formats import label_studio, label_studio_rle
from grounded.labelling.formats.label_studio import LabelStudioExporter, LabelStudioPolygonExporter
from grounded.labelling.formats.outlines import HOLES
from grounded.labelling.records import Record
from grounded.output.polygons import Polygon, polygons_to_mask
from tests.grounded.labelling.formats import made, public_readers
from tests.grounded.labelling.formats.test_labelme import PLAIN

written = pytest.mark.parametrize("name", made.RECORDS)


def tasks(records: list[Record], folder: Path, polygons: bool = False, images: bool = False) -> list[dict]:
    exporter = LabelStudioPolygonExporter if polygons else LabelStudioExporter
    made.write(exporter, records, made.CLASSES, folder, made.images if images else None)
    return json.loads((folder / "tasks.json").read_text(encoding="utf-8"))


@written
def test_brushed_masks_are_the_masks(name: str, tmp_path: Path):
    record = made.RECORDS[name]
    (task,) = tasks([record], tmp_path)
    (prediction,) = task["predictions"]
    shown = made.shown(record)
    assert len(prediction["result"]) == len(shown)
    for result, mask, label in zip(prediction["result"], shown.masks, shown.labels, strict=True):
        assert (result["original_height"], result["original_width"]) == shown.image_size
        assert result["type"] == "brushlabels" and result["value"]["brushlabels"] == [label]
        np.testing.assert_array_equal(label_studio_rle.decode(result["value"]["rle"], shown.image_size), mask)


@written
def test_polygons_are_the_masks(name: str, tmp_path: Path):
    record = made.RECORDS[name]
    (task,) = tasks([record], tmp_path, polygons=True)
    shown = made.shown(record)
    size = np.array(shown.image_size[::-1])
    parts: dict[str, list[Polygon]] = {identity: [] for identity in task["data"]["exported"]}
    for result in task["predictions"][0]["result"]:
        points = np.array(result["value"]["points"])
        assert ((points >= 0) & (points <= 100)).all()
        parts[result["id"].partition(".")[0]].append(Polygon(points * size / 100))
    for polygons, mask in zip(parts.values(), shown.masks, strict=True):
        np.testing.assert_array_equal(polygons_to_mask(polygons, shown.image_size), mask)


def test_a_task(tmp_path: Path):
    found = {task["data"]["image_name"]: task for task in tasks(made.ALL, tmp_path)}
    assert list(found) == [record.image.file for record in made.ALL]
    task = found["overlapping.jpg"]
    assert task["data"]["image"] == "/data/local-files/?d=overlapping.jpg"
    assert task["predictions"][0]["score"] == pytest.approx(0.8)
    results = task["predictions"][0]["result"]
    assert [result.get("score") for result in results] == [0.8, 0.9, 0.7, None]
    assert [result["id"] for result in results] == task["data"]["exported"]
    assert {(result["from_name"], result["to_name"]) for result in results} == {("label", "image")}
    assert "score" not in found["sub/nothing.png"]["predictions"][0]


def test_no_images(tmp_path: Path):
    assert tasks([], tmp_path) == []


def test_copies_are_upright_and_where_the_address_says(tmp_path: Path):
    for task in tasks(made.ALL, tmp_path, images=True):
        address = urlsplit(task["data"]["image"])
        opened = Image.open(tmp_path / parse_qs(address.query)["d"][0])
        for result in task["predictions"][0]["result"]:
            assert opened.size == (result["original_width"], result["original_height"])


def test_an_address_is_quoted(tmp_path: Path):
    record = made.record("a b/c&d=50%#猫.jpg", [])
    (task,) = tasks([record], tmp_path)
    assert parse_qs(urlsplit(task["data"]["image"]).query) == {"d": [record.image.file]}


@pytest.mark.parametrize("classes", [(), ("a dog", '<"猫" & \x07>')], ids=["none", "awkward"])
@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_the_labelling_interface(classes: tuple[str, ...], tag: str):
    root = ElementTree.fromstring(label_studio.label_config(classes, tag))
    (control,) = root.iter(tag)
    assert (control.get("name"), control.get("toName")) == ("label", "image")
    assert [label.get("value") for label in control] == [label.replace("\x07", "\ufffd") for label in classes]


@pytest.mark.parametrize(
    ("name", "polygons", "expected"),
    [
        pytest.param("holes", False, {}, id="brushed holes"),
        pytest.param("several parts", False, {}, id="brushed parts"),
        pytest.param("holes", True, {HOLES: 2}, id="holes"),
        pytest.param("several parts", True, {label_studio.SPLIT: 3}, id="parts"),
        pytest.param(
            "an empty mask among others", False, {"instances left out, as their masks are empty": 1}, id="empty"
        ),
    ],
)
def test_what_is_lost(name: str, polygons: bool, expected: dict, tmp_path: Path):
    exporter = LabelStudioPolygonExporter if polygons else LabelStudioExporter
    assert +made.write(exporter, [made.RECORDS[name]], made.CLASSES, tmp_path) == expected


def test_label_studio_decodes_brushed_masks_to_the_bit(tmp_path: Path):
    tasks(made.ALL, tmp_path / "out")
    found = public_readers.read("brush", tmp_path / "out")
    for record in made.ALL:
        shown = made.shown(record)
        assert [label for label, _ in found.get(record.image.file, [])] == shown.labels.tolist()
        for (_, mask), truth in zip(found.get(record.image.file, []), shown.masks, strict=True):
            np.testing.assert_array_equal(mask, truth)


def test_label_studio_converts_polygons(tmp_path: Path):
    records = [made.record(f"{name}.jpg", [mask]) for name, mask in PLAIN.items()]
    records.append(made.record("parts.jpg", [made.parts()]))
    tasks(records, tmp_path / "out", polygons=True)
    found = public_readers.read("polygons", tmp_path / "out")
    assert len(found.pop("parts.jpg")) == 3
    for record in records[:-1]:
        ((label, mask),) = found[record.image.file]
        (truth,) = record.instances.rles
        (encoded,) = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))]
        assert label == "a dog"
        assert coco_mask.iou([encoded], [truth], [0])[0, 0] >= 0.98

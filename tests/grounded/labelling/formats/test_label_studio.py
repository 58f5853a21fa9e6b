import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.errors import ResultError
from grounded.labelling.formats import label_studio, label_studio_rle
from grounded.labelling.formats.annotations import AnnotatedImage, Notes
from grounded.labelling.formats.label_studio import LabelStudioExporter, LabelStudioPolygonExporter, LabelStudioReader
from grounded.labelling.formats.outlines import HOLES
from grounded.labelling.records import Record
from grounded.output.polygons import Polygon, polygons_to_mask
from segany.utils.rle import decode_rle
from tests.data import disk
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
    found = {task["data"]["picture"]: task for task in tasks(made.ALL, tmp_path)}
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


MASK = disk(30, 40, 20, 15, 9)
SQUARE = {"points": [[10, 10], [50, 10], [50, 50], [10, 50]], "polygonlabels": ["a dog"]}
BRUSH = {"format": "rle", "rle": label_studio_rle.encode(MASK), "brushlabels": ["a cat"]}
MARK = "0123456789ab"


def region(value: dict, identity: str = "x", **more: object) -> dict:
    kind = next((key for key in value if key.endswith("labels")), "brush")
    size = {"original_width": 40, "original_height": 30, "image_rotation": 0}
    return {"id": identity, "type": kind, "from_name": "label", "to_name": "image", "value": value, **size, **more}


def task(regions: list | None, image: str = "/data/local-files/?d=a.jpg", **data: object) -> dict:
    annotations = [] if regions is None else [{"id": 1, "result": regions, "was_cancelled": False}]
    return {"id": 5, "data": {"image": image, **data}, "annotations": annotations, "predictions": []}


def read(folder: Path, tasks: list) -> tuple[list[AnnotatedImage], list[str]]:
    path, notes = folder / "export.json", Notes()
    path.write_text(json.dumps(tasks))
    return list(LabelStudioReader.open(path).images(notes)), notes.lines()


def masks(image: AnnotatedImage) -> list[np.ndarray]:
    assert not image.error
    return [decode_rle([annotation.rle])[0].numpy() for annotation in image.annotations]


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((30, 40), bool)
    mask[top:bottom, left:right] = True
    return mask


ELLIPSE = {"x": 51.25, "y": 51.6667, "radiusX": 22.5, "radiusY": 30, "rotation": 90, "ellipselabels": ["a"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(BRUSH, MASK, id="brush"),
        pytest.param(SQUARE, box(3, 15, 4, 20), id="polygon"),
        pytest.param(
            {"x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": ["a"]},
            box(3, 15, 4, 20),
            id="rectangle",
        ),
        pytest.param(
            {"x": 50, "y": 10, "width": 40, "height": 20, "rotation": 90, "rectanglelabels": ["a"]},
            box(3, 19, 14, 20),
            id="turned rectangle",
        ),
        pytest.param(ELLIPSE, MASK, id="turned circle"),
    ],
)
def test_areas(value: dict, expected: np.ndarray, tmp_path: Path):
    (image,), notes = read(tmp_path, [task([region(value)])])
    (mask,) = masks(image)
    assert (mask & expected).sum() / (mask | expected).sum() > (0.98 if value is ELLIPSE else 0.999)
    assert image.image_size == (30, 40) and notes == []


def test_polygons_that_the_export_made_of_one_instance_are_one_again(tmp_path: Path):
    other = {**SQUARE, "points": [[60, 60], [80, 60], [80, 80]]}
    regions = [region(SQUARE, f"{MARK}.0"), region(other, f"{MARK}.1"), region(SQUARE, "drawn"), region(BRUSH, MARK)]
    (image,), _ = read(tmp_path, [task(regions, exported=[MARK])])
    assert [annotation.mark for annotation in image.annotations] == [MARK, None, MARK]
    assert [annotation.label for annotation in image.annotations] == ["a dog", "a dog", "a cat"]
    together, alone, _ = masks(image)
    assert alone.sum() < together.sum()
    assert image.exported == {MARK}
    relabelled = [region(SQUARE, f"{MARK}.0"), region({**other, "polygonlabels": ["a cat"]}, f"{MARK}.1")]
    (image,), _ = read(tmp_path, [task(relabelled)])
    assert [annotation.label for annotation in image.annotations] == ["a dog", "a cat"]


def test_a_label_in_a_result_of_its_own(tmp_path: Path):
    value = {key: BRUSH[key] for key in ("format", "rle")}
    (image,), _ = read(tmp_path, [task([region(value), region({**value, "labels": ["a dog"]})])])
    assert [annotation.label for annotation in image.annotations] == ["a dog"]


@pytest.mark.parametrize(
    ("image", "more", "names"),
    [
        pytest.param("/data/local-files/?d=a/b%20c.jpg", {}, ("a/b c.jpg", "b c.jpg"), id="local files"),
        pytest.param("/data/upload/3/0a1b2c3d-b.jpg", {}, ("data/upload/3/0a1b2c3d-b.jpg", "b.jpg"), id="uploaded"),
        pytest.param("s3://bucket/a/b.jpg", {}, ("a/b.jpg", "b.jpg"), id="a bucket"),
        pytest.param("https://host/a/b.jpg?key=1", {}, ("a/b.jpg", "b.jpg"), id="a server"),
        pytest.param(
            "/data/local-files/?d=images/b.png", {"picture": "b.tiff"}, ("b.tiff", "images/b.png", "b.png"), id="ours"
        ),
    ],
)
def test_names_of_images(image: str, more: dict, names: tuple, tmp_path: Path):
    (image,), _ = read(tmp_path, [task([], image, **more)])
    assert image.names == names
    assert image.annotations == () and image.image_size is None and not image.error


def test_the_latest_annotation_counts(tmp_path: Path):
    annotated = task([region(SQUARE)])
    annotated["annotations"] = [
        {"result": [region(BRUSH)], "updated_at": "2024-05-02T00:00:00.1Z"},
        {"result": [region(SQUARE)], "updated_at": "2024-05-01T00:00:00.1Z"},
        {"result": [], "updated_at": "2024-05-03T00:00:00.1Z", "was_cancelled": True},
    ]
    skipped = task(None)
    skipped["predictions"] = [{"result": [region(SQUARE)]}]
    (image,), notes = read(tmp_path, [annotated, skipped])
    assert [annotation.label for annotation in image.annotations] == ["a cat"]
    assert notes == [f"{label_studio.SEVERAL}: 1 (a.jpg)", f"{label_studio.NOT_ANNOTATED}: 1 (a.jpg)"]
    assert LabelStudioReader.open(tmp_path / "export.json").labels() == ("a cat",)


def test_what_is_left_out(tmp_path: Path):
    regions = [
        region({"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["a"]}, "point"),
        region({"choices": ["good"]}, "choice"),
        region({**SQUARE, "points": [[200, 200], [210, 200], [200, 210]]}, "outside"),
        region({**SQUARE, "polygonlabels": ["a dog", "a cat"]}, "both"),
        {"from_id": "both", "to_id": "outside", "type": "relation"},
    ]
    (image,), notes = read(tmp_path, [task(regions)])
    assert [annotation.label for annotation in image.annotations] == ["a dog"]
    assert notes == [
        f"{label_studio.NO_AREA}: 2 (a.jpg)",
        f"{label_studio.MORE_LABELS}: 1 (a.jpg)",
        f"{label_studio.NO_PIXEL}: 1 (a.jpg)",
    ]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        pytest.param(
            [region({**BRUSH, "rle": BRUSH["rle"][:-9]})], "region x cannot be read: .* cut off", id="cut off"
        ),
        pytest.param(
            [region({**BRUSH, "rle": label_studio_rle.encode(MASK[1:])})], "must have 4800 values", id="another size"
        ),
        pytest.param([region(BRUSH), region(SQUARE, "y", original_width=41)], "of one size", id="two sizes"),
        pytest.param([region(SQUARE, original_width=None)], "must have an original_width", id="no size"),
        pytest.param([region(SQUARE, image_rotation=90)], "must be upright, it was turned by 90", id="turned"),
        pytest.param([region({"points": SQUARE["points"]})], "must have a label", id="no label"),
        pytest.param([region({**SQUARE, "points": [[1, 2]]})], "three corners", id="one corner"),
    ],
)
def test_a_damaged_region_is_an_error_of_its_image(regions: list, message: str, tmp_path: Path):
    (damaged, whole), _ = read(tmp_path, [task([region(SQUARE, "fine"), *regions]), task([region(SQUARE)])])
    assert not damaged.annotations
    with pytest.raises(ResultError, match=message):
        raise ResultError(damaged.error)
    assert len(masks(whole)) == 1


@pytest.mark.parametrize("content", ["[1]", '[{"image": "a.jpg"}]', '"text"'])
def test_what_is_no_export(content: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match="not a JSON export of Label Studio"):
        LabelStudioReader.open(path)

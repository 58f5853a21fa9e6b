import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats import label_studio_reader, label_studio_rle
from grounded.labelling.formats.annotations import AnnotatedImage, FindSize, Notes
from grounded.labelling.formats.label_studio_reader import LabelStudioReader
from grounded.utils.files import image_bytes
from segany.utils.rle import decode_rle
from tests.data import disk
from tests.fuzzing import FUZZ_COUNTS, fuzz

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


def read(folder: Path, tasks: list, find_size: FindSize | None = None) -> tuple[list[AnnotatedImage], list[str]]:
    path, notes = folder / "export.json", Notes()
    path.write_text(json.dumps(tasks))
    return list(LabelStudioReader.open(path).images(notes, find_size)), notes.lines()


def bitmask(mask: np.ndarray) -> dict:
    """Black pixels on a transparent background, which is how Label Studio describes them."""
    png = image_bytes(Image.fromarray(mask.astype(np.uint8)[..., None] * np.array([0, 0, 0, 255], np.uint8)))
    data = base64.b64encode(png).decode()
    return {"format": "bitmask", "imageDataURL": f"data:image/png;base64,{data}", "bitmasklabels": ["a"]}


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
        pytest.param(bitmask(MASK), MASK, id="bitmask"),
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
            "/data/local-files/?d=images/b.png",
            {"image_name": "b.tiff"},
            ("b.tiff", "images/b.png", "b.png"),
            id="ours",
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
    assert notes == [f"{label_studio_reader.SEVERAL}: 1 (a.jpg)", f"{label_studio_reader.NOT_ANNOTATED}: 1 (a.jpg)"]
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
        f"{label_studio_reader.NO_AREA}: 2 (a.jpg region point, a.jpg region choice)",
        f"{label_studio_reader.MORE_LABELS}: 1 (a.jpg)",
        f"{label_studio_reader.NO_PIXEL}: 1 (a.jpg region outside)",
    ]


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        pytest.param(region({**BRUSH, "rle": BRUSH["rle"][:-9]}), "a brushed mask is cut off", id="cut off"),
        pytest.param(
            region({**BRUSH, "rle": label_studio_rle.encode(MASK[1:])}), "must have 4800 values", id="another size"
        ),
        pytest.param(region({**BRUSH, "rle": "text"}), "must be a list of bytes", id="no bytes"),
        pytest.param(region(SQUARE, original_width=41), "of an image of 41 x 30 pixels", id="two sizes"),
        pytest.param(region(SQUARE, image_rotation=90), "must be upright, it was turned by 90", id="turned"),
        pytest.param(region({"points": SQUARE["points"]}), "it has no label", id="no label"),
        pytest.param(region({**SQUARE, "polygonlabels": [None]}), "it has no label", id="null"),
        pytest.param(region({**SQUARE, "polygonlabels": ["..."]}), "a label must be a phrase", id="no phrase"),
        pytest.param(region({**SQUARE, "points": [[1, 2], [3, 4]]}), "three corners", id="two corners"),
        pytest.param(region({**SQUARE, "points": [[math.nan, 2], [3, 4], [5, 6]]}), "must be finite", id="nan"),
        pytest.param(region({**SQUARE, "points": [[10**9, 2], [3, 4], [5, 6]]}), "must be finite", id="far away"),
        pytest.param(region({**SQUARE, "points": {}}), "must be of finite numbers", id="no points"),
        pytest.param(region({**ELLIPSE, "radiusX": 1e300}), "must be finite", id="a huge ellipse"),
        pytest.param(region({**ELLIPSE, "y": None}), "must be of finite numbers", id="half an ellipse"),
        pytest.param(region(bitmask(MASK[1:])), "must be of 40 x 30 pixels, got 40 x 29", id="bitmask of another size"),
        pytest.param(region({**bitmask(MASK), "imageDataURL": "http://x"}), "PNG file in base64", id="no bitmask"),
        pytest.param(
            region({**bitmask(MASK), "imageDataURL": bitmask(MASK)["imageDataURL"][:-99]}), "cannot be read", id="cut"
        ),
        pytest.param(
            region({"vertices": [{"x": 1, "y": 2}] * 3, "closed": True, "vectorlabels": ["a"]}), "$", id="vector"
        ),
    ],
)
def test_an_odd_region_is_left_out_alone(odd: dict, message: str, tmp_path: Path):
    (image, whole), notes = read(
        tmp_path, [task([region(SQUARE, "fine"), region(SQUARE, "too"), {**odd, "id": "x"}]), task([region(SQUARE)])]
    )
    assert len(masks(image)) == 2 and image.left_out == 1
    (note,) = notes
    assert re.search(rf"left out: 1 \(a.jpg region x(: .*)?{message}", note.removesuffix(")")), note
    assert len(masks(whole)) == 1 and whole.left_out == 0


def test_no_size_is_an_error_unless_the_image_is_known(tmp_path: Path):
    tasks = [task([region(SQUARE, original_width=None)]), task([])]
    (image, empty), _ = read(tmp_path, tasks)
    assert "must have an original_width" in image.error
    assert empty.image_size is None and not empty.error
    (image, empty), _ = read(tmp_path, tasks, lambda names: (30, 40) if "a.jpg" in names else None)
    assert image.image_size == empty.image_size == (30, 40)
    np.testing.assert_array_equal(masks(image)[0], box(3, 15, 4, 20))


@pytest.mark.parametrize(
    ("data", "places", "expected"),
    [
        pytest.param(
            {"image": "/x/a.jpg", "image2": "/x/b.jpg"},
            [{"to_name": "image"}, {"to_name": "image2"}, {"to_name": "image2"}],
            {"x/a.jpg": 1, "x/b.jpg": 2},
            id="by name",
        ),
        pytest.param(
            {"pages": ["a.jpg", "b.jpg", "c.jpg"]},
            [{"to_name": "img", "item_index": 2}, {"to_name": "img", "item_index": 0}, {"to_name": "img"}],
            {"a.jpg": 2, "b.jpg": 0, "c.jpg": 1},
            id="by number",
        ),
        pytest.param({"photo": "a.jpg", "text": "b"}, [{"to_name": "img"}] * 2, {"a.jpg": 2}, id="another name"),
        pytest.param("https://host/a.jpg", [{"to_name": "img"}], {"a.jpg": 1}, id="plain text"),
        pytest.param('{"image": "/x/a.jpg"}', [{}], {"x/a.jpg": 1}, id="JSON in text"),
        pytest.param(
            {"left": "a.jpg", "right": "b.jpg"},
            [{"to_name": "img"}, {"to_name": "left"}],
            {"a.jpg": 1, "b.jpg": 0},
            id="unclear",
        ),
    ],
)
def test_the_images_of_a_task(data: dict | str, places: list[dict], expected: dict, tmp_path: Path):
    regions = [region(SQUARE, str(number), **place) for number, place in enumerate(places)]
    images, notes = read(tmp_path, [{**task(regions), "data": data}])
    assert {image.names[0]: len(image.annotations) for image in images} == expected
    lost = len(places) - sum(expected.values())
    assert [image.left_out for image in images] == [lost] * len(images)
    assert len(notes) == (lost > 0)


@pytest.mark.parametrize("content", ["[1]", "1", '[{"image": "a.jpg"}]', '"text"'])
def test_what_is_no_export(content: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match="not a JSON export of Label Studio"):
        LabelStudioReader.open(path)


def test_other_exports_of_label_studio(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"image": "/x/a.jpg", "id": 1, "label": [], "annotator": 1, "annotation_id": 2}]))
    with pytest.raises(ResultError, match=r"is Label Studio's JSON-MIN export, .*: export as JSON instead"):
        LabelStudioReader.open(path)


def test_entries_that_are_no_tasks(tmp_path: Path):
    images, notes = read(tmp_path, [1, {"data": None}, task([region(SQUARE)])])
    assert len(images) == 1
    assert notes == [f"{label_studio_reader.NO_TASK}: 2 (entry 1, entry 2)"]


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(count: int, tmp_path: Path):
    values = (BRUSH, bitmask(MASK), SQUARE, ELLIPSE, {"x": 10, "y": 10, "width": 40, "height": 40, "rotation": 5})
    tasks = [
        task([region(value, str(i)) for i, value in enumerate(values)]),
        {**task([region(SQUARE)]), "data": "a.jpg"},
    ]
    path = tmp_path / "a.json"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        reader = LabelStudioReader.open(path)
        images = list(reader.images(Notes(), lambda names: (30, 40)))
        assert {one.label for image in images for one in image.annotations} <= set(reader.labels())

    fuzz([json.dumps(tasks).encode()], read, count)

import json
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.formats import label_studio_read as label_studio
from grounded.labelling.formats import label_studio_rle
from grounded.labelling.formats.importing import Annotated, Notes
from segany.utils.rle import decode_rle
from tests.data import disk

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


def read(folder: Path, tasks: list) -> tuple[list[Annotated], list[str]]:
    path, notes = folder / "export.json", Notes()
    path.write_text(json.dumps(tasks))
    return list(label_studio.open_file(path).pictures(notes)), notes.lines()


def masks(picture: Annotated) -> list[np.ndarray]:
    assert not picture.error
    return [decode_rle([annotation.rle])[0].numpy() for annotation in picture.annotations]


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
    (picture,), notes = read(tmp_path, [task([region(value)])])
    (mask,) = masks(picture)
    assert (mask & expected).sum() / (mask | expected).sum() > (0.98 if value is ELLIPSE else 0.999)
    assert picture.image_size == (30, 40) and notes == []


def test_polygons_that_the_export_made_of_one_instance_are_one_again(tmp_path: Path):
    other = {**SQUARE, "points": [[60, 60], [80, 60], [80, 80]]}
    regions = [region(SQUARE, f"{MARK}.0"), region(other, f"{MARK}.1"), region(SQUARE, "drawn"), region(BRUSH, MARK)]
    (picture,), _ = read(tmp_path, [task(regions, exported=[MARK])])
    assert [annotation.mark for annotation in picture.annotations] == [MARK, None, MARK]
    assert [annotation.label for annotation in picture.annotations] == ["a dog", "a dog", "a cat"]
    together, alone, _ = masks(picture)
    assert alone.sum() < together.sum()
    assert picture.exported == {MARK}
    relabelled = [region(SQUARE, f"{MARK}.0"), region({**other, "polygonlabels": ["a cat"]}, f"{MARK}.1")]
    (picture,), _ = read(tmp_path, [task(relabelled)])
    assert [annotation.label for annotation in picture.annotations] == ["a dog", "a cat"]


def test_a_label_in_a_result_of_its_own(tmp_path: Path):
    value = {key: BRUSH[key] for key in ("format", "rle")}
    (picture,), _ = read(tmp_path, [task([region(value), region({**value, "labels": ["a dog"]})])])
    assert [annotation.label for annotation in picture.annotations] == ["a dog"]


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
def test_names_of_pictures(image: str, more: dict, names: tuple, tmp_path: Path):
    (picture,), _ = read(tmp_path, [task([], image, **more)])
    assert picture.names == names
    assert picture.annotations == () and picture.image_size is None and not picture.error


def test_the_latest_annotation_counts(tmp_path: Path):
    annotated = task([region(SQUARE)])
    annotated["annotations"] = [
        {"result": [region(BRUSH)], "updated_at": "2024-05-02T00:00:00.1Z"},
        {"result": [region(SQUARE)], "updated_at": "2024-05-01T00:00:00.1Z"},
        {"result": [], "updated_at": "2024-05-03T00:00:00.1Z", "was_cancelled": True},
    ]
    skipped = task(None)
    skipped["predictions"] = [{"result": [region(SQUARE)]}]
    (picture,), notes = read(tmp_path, [annotated, skipped])
    assert [annotation.label for annotation in picture.annotations] == ["a cat"]
    assert notes == [f"{label_studio.SEVERAL}: 1 (a.jpg)", f"{label_studio.NOT_ANNOTATED}: 1 (a.jpg)"]
    assert label_studio.open_file(tmp_path / "export.json").labels() == ("a cat",)


def test_what_is_left_out(tmp_path: Path):
    regions = [
        region({"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["a"]}, "point"),
        region({"choices": ["good"]}, "choice"),
        region({**SQUARE, "points": [[200, 200], [210, 200], [200, 210]]}, "outside"),
        region({**SQUARE, "polygonlabels": ["a dog", "a cat"]}, "both"),
        {"from_id": "both", "to_id": "outside", "type": "relation"},
    ]
    (picture,), notes = read(tmp_path, [task(regions)])
    assert [annotation.label for annotation in picture.annotations] == ["a dog"]
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
def test_a_damaged_region_is_an_error_of_its_picture(regions: list, message: str, tmp_path: Path):
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
        label_studio.open_file(path)

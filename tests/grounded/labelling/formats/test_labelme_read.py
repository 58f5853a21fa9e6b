import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats import labelme_read as labelme
from grounded.labelling.formats.importing import Annotated, Notes
from segany.utils.rle import decode_rle
from tests.data import disk

TRIANGLE = [[2.0, 2.0], [12.0, 2.0], [2.0, 12.0]]


def shape(label: str, points: list, kind: str = "polygon", group: int | None = None, **more: object) -> dict:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, **more}


def save(path: Path, shapes: list, **more: object) -> Path:
    data = {"version": "5.5.0", "shapes": shapes, "imagePath": "a.jpg", "imageHeight": 30, "imageWidth": 40}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**data, **more}))
    return path


def read(path: Path) -> tuple[list[Annotated], list[str]]:
    notes = Notes()
    return list(labelme.open_file(path).pictures(notes)), notes.lines()


def masks(picture: Annotated) -> list[np.ndarray]:
    assert not picture.error
    return [decode_rle([annotation.rle])[0].numpy() for annotation in picture.annotations]


def png(mask: np.ndarray, mode: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_shapes_of_a_label_and_a_group_are_one_instance(tmp_path: Path):
    far = [[x + 20, y] for x, y in TRIANGLE]
    shapes = [
        shape("a", TRIANGLE, group=0),
        shape("a", far, group=0),
        shape("b", TRIANGLE, group=0),
        shape("a", TRIANGLE),
        shape("a", far),
    ]
    (picture,), _ = read(save(tmp_path / "a.json", shapes))
    assert [annotation.label for annotation in picture.annotations] == ["a", "b", "a", "a"]
    together, alone, first, second = masks(picture)
    np.testing.assert_array_equal(together, first | second)
    np.testing.assert_array_equal(alone, first)
    assert 40 < first.sum() < 60


def test_rectangles_circles_and_masks(tmp_path: Path):
    disk_mask = disk(30, 40, 20, 15, 9)
    part = disk_mask[7:24, 12:29]
    shapes = [
        shape("a", [[12, 20], [2, 10]], "rectangle"),
        shape("a", [[20.5, 15.5], [29.5, 15.5]], "circle"),
        shape("a", [[12, 7], [28, 23]], "mask", mask=png(part, "L")),
        shape("a", [[12, 7], [28, 23]], "mask", mask=png(part, "1")),
        shape("a", [[5, 2], [9, 6], [5, 10], [1, 6]], "oriented_rectangle"),
    ]
    (picture,), notes = read(save(tmp_path / "a.json", shapes))
    box, circle, *pasted, diamond = masks(picture)
    rows, columns = np.nonzero(box)
    assert (rows.min(), rows.max(), columns.min(), columns.max(), box.sum()) == (10, 19, 2, 11, 100)
    assert (circle & disk_mask).sum() / (circle | disk_mask).sum() > 0.98
    for mask in pasted:
        np.testing.assert_array_equal(mask, disk_mask)
    assert abs(diamond.sum() - 32) <= 8
    assert notes == []


def test_what_is_left_out(tmp_path: Path):
    shapes = [
        shape("a", [[1, 1]], "point"),
        shape("a", [[1, 1], [2, 2]], "line"),
        shape("a", [[100, 100], [120, 100], [120, 120]]),
    ]
    (picture,), notes = read(save(tmp_path / "a.json", shapes))
    assert picture.annotations == ()
    assert notes == [f"{labelme.NO_AREA}: 2 (a.jpg)", f"{labelme.NO_PIXEL}: 1 (a.jpg)"]


def test_a_folder_and_the_names_of_its_pictures(tmp_path: Path):
    save(tmp_path / "sub" / "a.json", [], imagePath="..\\pictures\\a.jpg")
    save(tmp_path / "b.json", [shape("x", TRIANGLE)], imagePath="b.png", picture="from/b.tiff", exported=["0123"])
    (tmp_path / "classes.json").write_text("[]")
    (tmp_path / "cut-off.json").write_text("{")
    pictures, notes = read(tmp_path)
    (damaged,) = [picture for picture in pictures if picture.error]
    assert damaged.names == ("cut-off.json",) and "is not JSON" in damaged.error
    pictures.remove(damaged)
    assert [picture.names for picture in pictures] == [
        ("from/b.tiff", "b.png"),
        ("pictures/a.jpg", "../pictures/a.jpg"),
    ]
    assert [picture.exported for picture in pictures] == [{"0123"}, None]
    assert notes == ["JSON files that are not LabelMe's, passed over: 1 (classes.json)"]
    assert labelme.open_file(tmp_path).labels() == ("x",)


@pytest.mark.parametrize(
    ("shapes", "more", "message"),
    [
        pytest.param([shape("a", [[1, 2], [3, 4]])], {}, "at least three corners", id="two corners"),
        pytest.param([shape("a", [[1, 2, 3]])], {}, "cannot be read", id="three coordinates"),
        pytest.param([shape("a", [["x", "y"]] * 3)], {}, "cannot be read", id="no numbers"),
        pytest.param([shape("a", TRIANGLE, "spline")], {}, "unknown kind 'spline'", id="unknown kind"),
        pytest.param([shape("a", [[0, 0], [9, 9]], "mask", mask="???")], {}, "cannot be read", id="no PNG"),
        pytest.param(
            [shape("a", [[35, 0], [44, 9]], "mask", mask=png(np.ones((10, 10)), "L"))], {}, "does not fit", id="outside"
        ),
        pytest.param([{"points": TRIANGLE}], {}, "must have a label", id="no label"),
        pytest.param([shape("a", TRIANGLE)], {"imageHeight": None}, "must have a width and a height", id="no size"),
    ],
)
def test_a_damaged_shape_is_an_error_of_its_picture(shapes: list, more: dict, message: str, tmp_path: Path):
    save(tmp_path / "a.json", [shape("a", TRIANGLE), *shapes], **more)
    save(tmp_path / "b.json", [shape("a", TRIANGLE)])
    (damaged, whole), _ = read(tmp_path)
    assert message in damaged.error and not damaged.annotations
    assert len(masks(whole)) == 1


def test_what_is_no_labelme_file(tmp_path: Path):
    with pytest.raises(ResultError, match=r"holds no LabelMe file: there is no \*\.json"):
        labelme.open_file(tmp_path)
    (tmp_path / "a.json").write_text('{"shapes": []}')
    with pytest.raises(ResultError, match="is not a LabelMe file"):
        labelme.open_file(tmp_path / "a.json")

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from grounded.errors import ResultError
from grounded.labelling.formats import labelme_write as labelme
from grounded.labelling.formats.outlines import HOLES, outlines
from grounded.labelling.records import Record
from grounded.output.polygons import Polygon, polygons_to_mask
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.grounded.labelling.formats import made, public_readers
from tests.grounded.output.test_polygons import MASKS, blob

# Connected, without holes and larger than 32 x 32 pixels. Bars and pixels are what drawing outlines enlarges most.
PLAIN = {
    "square": np.pad(np.ones((33, 33), bool), 7),
    "disk": disk(80, 90, 40.3, 41.7, 19),
    "ellipse": np.hypot(*((np.mgrid[:80, :90] - 40) / np.array([31, 11.3])[:, None, None])) < 1,
    "bar": np.pad(np.ones((4, 300), bool), 2),
    "triangle": np.tri(60, 70, -3, dtype=bool),
    "large disk": disk(300, 400, 170.3, 140.8, 99.6),
}
written = pytest.mark.parametrize("name", made.RECORDS)


def write(records: list[Record], folder: Path, images: bool = False) -> dict[str, dict]:
    labelme.write(records, made.CLASSES, folder, made.images if images else None)
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]
    return {data["picture"]: data for data in files}


def drawn(data: dict, row: int) -> np.ndarray:
    shapes = [shape for shape in data["shapes"] if shape["group_id"] == row]
    polygons = [Polygon(np.array(shape["points"])) for shape in shapes]
    return polygons_to_mask(polygons, (data["imageHeight"], data["imageWidth"]))


@written
def test_polygons_give_back_the_masks_to_the_bit(name: str, tmp_path: Path):
    record = made.RECORDS[name]
    data = write([record], tmp_path)[record.image.file]
    shown = made.shown(record)
    assert {shape["group_id"] for shape in data["shapes"]} == set(range(len(shown)))
    for row, (mask, label) in enumerate(zip(shown.masks, shown.labels, strict=True)):
        np.testing.assert_array_equal(drawn(data, row), mask)
        assert {shape["label"] for shape in data["shapes"] if shape["group_id"] == row} == {label}


def test_files_lie_as_the_pictures_do(tmp_path: Path):
    write(made.ALL, tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")}
    assert files == {
        "one.json",
        "one-2.json",
        "sub/nothing.json",
        "sub/parts.json",
        "holes.json",
        "pixel.json",
        "sub/sub/whole.json",
        "overlapping.json",
        "empty.json",
        "turned.json",
        "_/up/x.y.json",
    }
    assert json.loads((tmp_path / "one-2.json").read_text())["imagePath"] == "one.png"
    assert json.loads((tmp_path / "sub" / "parts.json").read_text())["imagePath"] == "parts.jpg"


def test_copies_are_upright_and_beside_their_annotations(tmp_path: Path):
    write(made.ALL, tmp_path, images=True)
    for path in tmp_path.rglob("*.json"):
        data = json.loads(path.read_text())
        picture = Image.open(path.parent / data["imagePath"])
        assert (picture.height, picture.width) == (data["imageHeight"], data["imageWidth"])
        assert picture.size == ImageOps.exif_transpose(picture).size
        red, _, blue = picture.convert("RGB").getpixel((2, 2))
        assert red > 200 > 60 > blue


def test_a_shape_as_labelme_knows_it(tmp_path: Path):
    data = write([made.RECORDS["overlapping"]], tmp_path)["overlapping.jpg"]
    assert (data["version"], data["flags"], data["imageData"]) == ("5.5.0", {}, None)
    assert [shape["description"] for shape in data["shapes"]] == ["score 0.800", "score 0.900", "score 0.700", ""]
    for shape in data["shapes"]:
        assert (shape["shape_type"], shape["flags"], shape["mask"]) == ("polygon", {}, None)
    assert [shape["instance"] for shape in data["shapes"]] == data["exported"]
    assert len(set(data["exported"])) == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("one", {}, id="nothing"),
        pytest.param("several parts", {}, id="parts share a group"),
        pytest.param("holes", {HOLES: 2}, id="holes"),
        pytest.param("an empty mask among others", {"instances left out, as their masks are empty": 1}, id="empty"),
    ],
)
def test_what_is_lost(name: str, expected: dict, tmp_path: Path):
    assert +labelme.write([made.RECORDS[name]], made.CLASSES, tmp_path) == expected


def test_a_label_that_is_no_class(tmp_path: Path):
    with pytest.raises(ResultError, match="'a dog' is not among"):
        labelme.write([made.RECORDS["one"]], ("a cat",), tmp_path)


@pytest.mark.parametrize("mask", [*MASKS.values(), blob(2, 128)], ids=[*MASKS, "blob"])
def test_outlines_by_pixel_centres_and_by_whole_pixels(mask: np.ndarray):
    (rle,) = encode_rle(mask[None])
    rings = outlines(rle)
    np.testing.assert_array_equal(polygons_to_mask([Polygon(ring) for ring in rings], mask.shape), mask)
    for ring in rings:
        column, row = np.floor(ring).astype(int).T
        assert mask[row, column].all()


def test_masks_are_pictures_of_what_lies_in_their_boxes(tmp_path: Path):
    records = [made.RECORDS[name] for name in ("holes", "several parts", "an empty mask among others")]
    assert not +labelme.write_masks(records[:2], made.CLASSES, tmp_path / "two")
    labelme.write_masks(records, made.CLASSES, tmp_path / "all")
    for record in records:
        shown = made.shown(record)
        path = (tmp_path / "all" / record.image.file).with_suffix(".json")
        data = json.loads(path.read_text())
        assert len(data["shapes"]) == len(shown)
        for shape, mask in zip(data["shapes"], shown.masks, strict=True):
            (left, top), (right, bottom) = np.array(shape["points"]).astype(int)
            part = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            pasted = np.zeros_like(mask)
            pasted[top : bottom + 1, left : right + 1] = part > 0
            np.testing.assert_array_equal(pasted, mask)


def test_labelme_reads_polygons(tmp_path: Path):
    records = [made.record(f"{name}.jpg", [mask]) for name, mask in PLAIN.items()]
    records += [made.record("holed.jpg", [made.holed()]), made.record("parts.jpg", [made.parts()])]
    copies = {record.image.file: _plain_picture(record) for record in records}
    labelme.write(records, made.CLASSES, tmp_path / "out", copies.__getitem__)
    found = public_readers.read("labelme", tmp_path / "out")
    for record in records:
        ((label, mask),) = found[record.image.file]
        (truth,) = record.instances.masks
        assert label == "a dog"
        assert (mask & truth).sum() / (mask | truth).sum() >= (0.98 if truth.sum() > 32 * 32 else 0.9)


def test_labelme_reads_masks_to_the_bit(tmp_path: Path):
    labelme.write_masks(made.ALL, made.CLASSES, tmp_path / "out", made.images)
    found = public_readers.read("labelme", tmp_path / "out")
    for record in made.ALL:
        shown = made.shown(record)
        assert [label for label, _ in found.get(record.image.file, [])] == shown.labels.tolist()
        for (_, mask), truth in zip(found.get(record.image.file, []), shown.masks, strict=True):
            np.testing.assert_array_equal(mask, truth)


def _plain_picture(record: Record) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (record.image.width, record.image.height)).save(buffer, format="JPEG")
    return buffer.getvalue()

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from grounded.errors import ResultError
from grounded.labelling.formats import labelme
from grounded.labelling.formats.annotations import DAMAGED, AnnotatedImage, Notes, guess_format
from grounded.labelling.formats.labelme import LabelMeExporter, LabelMeMaskExporter, LabelMeReader
from grounded.labelling.formats.outlines import HOLES, outlines
from grounded.labelling.records import Record
from grounded.output.polygons import Polygon, polygons_to_mask
from grounded.utils.files import image_bytes
from segany.utils.rle import decode_rle, encode_rle
from tests.data import disk
from tests.fuzzing import FUZZ_COUNTS, fuzz
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
    made.write(LabelMeExporter, records, made.CLASSES, folder, made.images if images else None)
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]
    return {data["image_name"]: data for data in files}


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


def test_files_lie_as_the_images_do(tmp_path: Path):
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
        opened = Image.open(path.parent / data["imagePath"])
        assert (opened.height, opened.width) == (data["imageHeight"], data["imageWidth"])
        assert opened.size == ImageOps.exif_transpose(opened).size
        red, _, blue = opened.convert("RGB").getpixel((2, 2))
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
    assert +made.write(LabelMeExporter, [made.RECORDS[name]], made.CLASSES, tmp_path) == expected


def test_a_label_that_is_no_class(tmp_path: Path):
    with pytest.raises(ResultError, match="'a dog' is not among"):
        made.write(LabelMeExporter, [made.RECORDS["one"]], ("a cat",), tmp_path)


@pytest.mark.parametrize("mask", [*MASKS.values(), blob(2, 128)], ids=[*MASKS, "blob"])
def test_outlines_by_pixel_centres_and_by_whole_pixels(mask: np.ndarray):
    (rle,) = encode_rle(mask[None])
    rings = outlines(rle)
    np.testing.assert_array_equal(polygons_to_mask([Polygon(ring) for ring in rings], mask.shape), mask)
    for ring in rings:
        column, row = np.floor(ring).astype(int).T
        assert mask[row, column].all()


def test_masks_are_cut_out_by_their_boxes(tmp_path: Path):
    records = [made.RECORDS[name] for name in ("holes", "several parts", "an empty mask among others")]
    assert not +made.write(LabelMeMaskExporter, records[:2], made.CLASSES, tmp_path / "two")
    made.write(LabelMeMaskExporter, records, made.CLASSES, tmp_path / "all")
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
    copies = {record.image.file: _plain_image(record) for record in records}
    made.write(LabelMeExporter, records, made.CLASSES, tmp_path / "out", copies.__getitem__)
    found = public_readers.read("labelme", tmp_path / "out")
    for record in records:
        ((label, mask),) = found[record.image.file]
        (truth,) = record.instances.masks
        assert label == "a dog"
        assert (mask & truth).sum() / (mask | truth).sum() >= (0.98 if truth.sum() > 32 * 32 else 0.9)


def test_labelme_reads_masks_to_the_bit(tmp_path: Path):
    made.write(LabelMeMaskExporter, made.ALL, made.CLASSES, tmp_path / "out", made.images)
    found = public_readers.read("labelme", tmp_path / "out")
    for record in made.ALL:
        shown = made.shown(record)
        assert [label for label, _ in found.get(record.image.file, [])] == shown.labels.tolist()
        for (_, mask), truth in zip(found.get(record.image.file, []), shown.masks, strict=True):
            np.testing.assert_array_equal(mask, truth)


def _plain_image(record: Record) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (record.image.width, record.image.height)).save(buffer, format="JPEG")
    return buffer.getvalue()


TRIANGLE = [[2.0, 2.0], [12.0, 2.0], [2.0, 12.0]]


def shape(label: str, points: list, kind: str = "polygon", group: int | None = None, **more: object) -> dict:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, **more}


def save(path: Path, shapes: list, **more: object) -> Path:
    data = {"version": "5.5.0", "shapes": shapes, "imagePath": "a.jpg", "imageHeight": 30, "imageWidth": 40}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**data, **more}))
    return path


def read(path: Path) -> tuple[list[AnnotatedImage], list[str]]:
    notes = Notes()
    return list(LabelMeReader.open(path).images(notes)), notes.lines()


def masks(image: AnnotatedImage) -> list[np.ndarray]:
    assert not image.error
    return [decode_rle([annotation.rle])[0].numpy() for annotation in image.annotations]


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
    (image,), _ = read(save(tmp_path / "a.json", shapes))
    assert [annotation.label for annotation in image.annotations] == ["a", "b", "a", "a"]
    together, alone, first, second = masks(image)
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
    (image,), notes = read(save(tmp_path / "a.json", shapes))
    box, circle, *pasted, diamond = masks(image)
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
    (image,), notes = read(save(tmp_path / "a.json", shapes))
    assert image.annotations == ()
    assert notes == [
        f"{labelme.NO_AREA}: 2 (a.jpg shape 1 'a', a.jpg shape 2 'a')",
        f"{labelme.NO_PIXEL}: 1 (a.jpg 'a')",
    ]
    assert image.left_out == 3


def test_a_folder_and_the_names_of_its_images(tmp_path: Path):
    save(tmp_path / "sub" / "a.json", [], imagePath="..\\images\\a.jpg")
    save(tmp_path / "b.json", [shape("x", TRIANGLE)], imagePath="b.png", image_name="from/b.tiff", exported=["0123"])
    (tmp_path / "classes.json").write_text("[]")
    (tmp_path / "cut-off.json").write_text("{")
    images, notes = read(tmp_path)
    (damaged,) = [image for image in images if image.error]
    assert damaged.names == ("cut-off.json",) and "is not JSON" in damaged.error
    images.remove(damaged)
    assert [image.names for image in images] == [
        ("from/b.tiff", "b.png"),
        ("images/a.jpg", "../images/a.jpg"),
    ]
    assert [image.exported for image in images] == [{"0123"}, None]
    assert notes == ["JSON files that are not LabelMe's, passed over: 1 (classes.json)"]
    assert LabelMeReader.open(tmp_path).labels() == ("x",)


RING = [[5, 5], [15, 7], [13, 17], [3, 15]]


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        pytest.param("polygon", RING, id="polygon"),
        pytest.param("rectangle", RING, id="four corners of a rectangle"),
        pytest.param("rotation", RING, id="rotation"),
        pytest.param("quadrilateral", RING, id="quadrilateral"),
        pytest.param("oriented_rectangle", RING, id="oriented rectangle"),
        pytest.param(None, RING, id="no kind"),
    ],
)
def test_rings_of_four_corners(kind: str | None, points: list, tmp_path: Path):
    (image,), notes = read(save(tmp_path / "a.json", [shape("a", points, kind, direction=0.2)]))
    np.testing.assert_array_equal(masks(image)[0], polygons_to_mask([Polygon(np.array(points, float))], (30, 40)))
    assert notes == [] and image.left_out == 0


def test_a_mask_is_cut_at_the_border(tmp_path: Path):
    part = np.ones((10, 10), bool)
    corners = ([[35, 24], [44, 33]], [[-4, -6], [5, 3]], [[50, 50], [59, 59]], [[-20, 3], [-11, 12]])
    shapes = [shape("a", points, "mask", mask=png(part, "L")) for points in corners]
    (image,), notes = read(save(tmp_path / "a.json", shapes))
    lower, upper = masks(image)
    assert lower[24:, 35:].all() and lower.sum() == 6 * 5
    assert upper[:4, :6].all() and upper.sum() == 4 * 6
    assert notes == [f"{labelme.NO_PIXEL}: 2 (a.jpg 'a')"]


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        pytest.param(shape("a", [[1, 2], [3, 4]]), "three corners", id="two corners"),
        pytest.param(shape("a", [[1, 2, 3]]), "an x and a y", id="three coordinates"),
        pytest.param(shape("a", [["x", "y"]] * 3), "all of them numbers", id="no numbers"),
        pytest.param(shape("a", [[math.nan, 1], [5, 5], [9, 1]]), "must be finite", id="nan"),
        pytest.param(shape("a", [[1e9, 1], [5, 5], [9, 1]]), "must be finite", id="far away"),
        pytest.param(shape("a", [[10**30, 1], [5, 5], [9, 1]]), "all of them numbers", id="farther away"),
        pytest.param(shape("a", None), "must be a list", id="no points"),
        pytest.param(shape("a", [[1, 2]], "rectangle"), "must have two points, got 1", id="one corner"),
        pytest.param(shape("a", [[1, 2], [1e8, 3]], "circle"), "must be finite", id="a huge circle"),
        pytest.param(shape("a", [[1, 2], [math.inf, 3]], "circle"), "pairs of finite numbers", id="an endless circle"),
        pytest.param(shape("a", TRIANGLE, "spline"), "unknown kind 'spline'", id="unknown kind"),
        pytest.param(shape("a", TRIANGLE, ["polygon"]), "unknown kind", id="kind of another type"),
        pytest.param(shape("a", [[0, 0], [9, 9]], "mask", mask="???"), "its mask cannot be read", id="no PNG"),
        pytest.param(shape("a", [[0, 0], [9, 9]], "mask", mask=None), "PNG file in base64", id="no mask"),
        pytest.param(
            shape("a", [[0, 0], [8, 9]], "mask", mask=png(np.ones((10, 10)), "L")), "does not fit", id="another size"
        ),
        pytest.param({"points": TRIANGLE}, "it has no label", id="no label"),
        pytest.param(shape(None, TRIANGLE), "it has no label", id="label null"),
        pytest.param(shape("  ", TRIANGLE), "it has no label", id="blank label"),
        pytest.param(7, "it has no label", id="no shape"),
    ],
)
def test_an_odd_shape_is_left_out_alone(odd: dict, message: str, tmp_path: Path):
    save(tmp_path / "a.json", [shape("a", TRIANGLE), odd, shape("a", TRIANGLE, group=1)])
    (image,), (note,) = read(tmp_path)
    assert len(masks(image)) == 2 and image.left_out == 1
    assert note.startswith(f"{DAMAGED}: 1 (a.jpg shape 2") and message in note


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(encoding: str, tmp_path: Path):
    path = save(tmp_path / "a.json", [shape("ein Stück Käse 猫", TRIANGLE)])
    path.write_bytes(path.read_text().encode().decode("unicode-escape").encode(encoding))
    (image,), _ = read(path)
    assert [annotation.label for annotation in image.annotations] == ["ein Stück Käse 猫"]
    assert guess_format(path) == "labelme"


def image_file(width: int, height: int, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image_bytes(Image.new("RGB", (width, height)), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("stated", "beside", "embedded", "known", "expected"),
    [
        pytest.param((30, 40), (3, 4), (3, 4), (3, 4), (30, 40), id="stated"),
        pytest.param(("30", 40.0), None, None, None, (30, 40), id="stated as text and as a float"),
        pytest.param((None, None), (3, 4), (3, 4), (30, 40), (30, 40), id="known"),
        pytest.param((None, 40), None, (30, 40), None, (30, 40), id="embedded"),
        pytest.param((0, 40), (30, 40), None, None, (30, 40), id="beside"),
        pytest.param(("x", -1), None, None, None, None, id="nowhere"),
        pytest.param((10**6, 10**6), (30, 40), None, None, None, id="beyond any image"),
    ],
)
def test_where_the_size_comes_from(stated, beside, embedded, known, expected, tmp_path: Path):
    more = {"imageHeight": stated[0], "imageWidth": stated[1]}
    if embedded:
        more["imageData"] = base64.b64encode(image_file(*embedded[::-1])).decode()
    if beside:  # as stored, and to be turned
        (tmp_path / "a.jpg").write_bytes(image_file(*beside, orientation=6))
    path = save(tmp_path / "a.json", [shape("a", TRIANGLE)], imagePath="..\\x\\a.jpg", **more)
    (image,) = LabelMeReader.open(path).images(Notes(), lambda names: known if "../x/a.jpg" in names else None)
    if expected:
        assert image.image_size == expected and len(masks(image)) == 1
    else:
        assert "must have" in image.error


def test_a_label_that_no_file_can_hold(tmp_path: Path):
    path = save(tmp_path / "a.json", [shape("a \ud800", TRIANGLE), shape("😀 dog", TRIANGLE)])
    (image,), _ = read(path)
    assert [annotation.label for annotation in image.annotations] == ["a ?", "😀 dog"]


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(count: int, tmp_path: Path):
    mask = shape("b", [[12, 7], [28, 23]], "mask", mask=png(disk(30, 40, 20, 15, 9)[7:24, 12:29], "L"))
    shapes = [
        shape("a", TRIANGLE, group=0, instance="0123"),
        shape("a", [[20.5, 15.5], [29.5, 15.5]], "circle", group=0),
        shape("a", [[12, 20], [2, 10]], "rectangle"),
        shape("a", RING, "rectangle"),
        mask,
    ]
    path = tmp_path / "a.json"
    embedded = base64.b64encode(image_file(40, 30)).decode()
    files = [save(path, shapes, **more).read_bytes() for more in ({}, {"imageHeight": None, "imageData": embedded})]

    def read(content: bytes) -> None:
        path.write_bytes(content)
        reader = LabelMeReader.open(path)
        images = list(reader.images(Notes()))
        assert {one.label for image in images for one in image.annotations} <= set(reader.labels())

    fuzz(files, read, count)


def test_what_is_no_labelme_file(tmp_path: Path):
    with pytest.raises(ResultError, match=r"holds no LabelMe file: there is no \*\.json"):
        LabelMeReader.open(tmp_path)
    (tmp_path / "a.json").write_text('{"shapes": []}')
    with pytest.raises(ResultError, match="is not a LabelMe file"):
        LabelMeReader.open(tmp_path / "a.json")

import csv
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats.annotations import DAMAGED
from grounded.labelling.formats.png import PngExporter, PngReader, decode_mask, decode_png, encode_png, encode_values
from grounded.utils.files import image_bytes
from segany.utils.rle import decode_rle
from tests.fuzzing import FUZZ_COUNTS
from tests.grounded.labelling.formats import made
from tests.grounded.labelling.formats.reading import fuzz_file, masks, read


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def values(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened).astype(int)


def test_masks_come_back_to_the_bit(tmp_path: Path):
    lost = made.write(PngExporter, made.ALL, made.CLASSES, tmp_path)
    found = rows(tmp_path / "instances.csv")
    for record in made.ALL:
        own = [row for row in found if row["image_name"] == record.image.file]
        expected = made.shown(record)
        assert [row["class"] for row in own] == expected.labels.tolist()
        for row, one in zip(own, expected, strict=True):
            np.testing.assert_array_equal(values(tmp_path / row["mask"]), one.masks[0] * 255)
            assert float(row["score"] or "nan") == pytest.approx(one.scores[0], nan_ok=True)
            assert made.CLASSES[int(row["value"]) - 1] == row["class"]
    assert set(lost) - {name for name, count in lost.items() if not count} == {
        "instances left out, as their masks are empty",
        "images renamed, as another one's name differs by the extension alone",
    }


def test_class_images(tmp_path: Path):
    made.write(PngExporter, made.ALL, made.CLASSES, tmp_path)
    files = {str(path.relative_to(tmp_path / "class")) for path in (tmp_path / "class").rglob("*.png")}
    assert len(files) == len(made.ALL) and {"one-2.png", "sub/nothing.png", "_/up/x.y.png"} < files
    record = made.RECORDS["overlapping"]
    expected = np.zeros(record.instances.image_size, int)
    for mask, label in zip(made.visible(record.instances), record.instances.labels, strict=True):
        expected[mask] = made.CLASSES.index(label) + 1
    np.testing.assert_array_equal(values(tmp_path / "class" / "overlapping.png"), expected)
    assert not values(tmp_path / "class" / "sub" / "nothing.png").any()
    assert [row["class"] for row in rows(tmp_path / "classes.csv")] == list(made.CLASSES)


@pytest.mark.parametrize(("count", "mode"), [(255, "L"), (256, "I;16")])
def test_many_classes_take_sixteen_bits(tmp_path: Path, count: int, mode: str):
    made.write(PngExporter, [made.RECORDS["one"]], [*map(str, range(count - 1)), "a dog"], tmp_path)
    with Image.open(tmp_path / "class" / "one.png") as opened:
        assert opened.mode == mode
    expected = made.RECORDS["one"].instances.masks[0] * count
    np.testing.assert_array_equal(values(tmp_path / "class" / "one.png"), expected)


def test_copies(tmp_path: Path):
    made.write(PngExporter, made.ALL, made.CLASSES, tmp_path, made.images)
    assert all((tmp_path / row["image_name"]).is_file() for row in rows(tmp_path / "instances.csv"))
    assert (tmp_path / "images" / "sub" / "nothing.png").is_file()


def test_no_records(tmp_path: Path):
    assert not +made.write(PngExporter, [], [], tmp_path)
    assert rows(tmp_path / "instances.csv") == rows(tmp_path / "classes.csv") == []


MASK = made.holed()


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.fromarray(MASK), id="bits"),
        pytest.param(Image.fromarray(MASK.astype(np.uint8)), id="grey"),
        pytest.param(Image.fromarray(MASK.astype(np.uint16) * 300), id="16 bits"),
        pytest.param(Image.fromarray(MASK.astype(np.uint8)[..., None] * np.array([0, 0, 255], np.uint8)), id="colour"),
        pytest.param(
            Image.fromarray(MASK.astype(np.uint8)[..., None] * np.array([0, 0, 0, 255], np.uint8)), id="black"
        ),
        pytest.param(
            Image.fromarray(np.dstack([MASK * np.uint8(255)] * 3 + [np.full_like(MASK, 255, np.uint8)])), id="opaque"
        ),
    ],
)
def test_decode_mask(image: Image.Image):
    np.testing.assert_array_equal(decode_mask(image_bytes(image)), MASK)


def huge_png() -> bytes:
    """A file that says it is of 30,000 x 30,000 pixels."""
    data = bytearray(encode_png(MASK.astype(np.uint8)))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "data", [b"", b"text", encode_png(MASK.astype(np.uint8))[:40], huge_png()], ids=["empty", "text", "cut off", "huge"]
)
def test_what_is_no_png(data: bytes):
    with pytest.raises(ResultError):
        decode_png(data)


def test_encode_values():
    values = np.zeros((30, 40), np.int64)
    values[2:5, 3:9], values[10, 11], values[5:7, 3] = 70_000, 3, 70_000
    found = encode_values(values)
    assert set(found) == {3, 70_000}
    for value, rle in found.items():
        np.testing.assert_array_equal(decode_rle([rle])[0].numpy(), values == value)
    assert encode_values(np.zeros((3, 4), np.uint8)) == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param("one.jpg,mask/none/000.png,1,a dog,0.5", "is no PNG file|cannot be read", id="no file"),
        pytest.param("one.jpg,../mask/one/000.png,1,a dog,0.5", "must be a PNG file below mask/", id="elsewhere"),
        pytest.param("one.jpg,mask/one/000.png,1,,0.5", "it has no label", id="no label"),
        pytest.param("one.jpg,mask/one/000.png", "it has no label", id="cut off"),
    ],
)
def test_an_odd_row_is_left_out_alone(row: str, message: str, tmp_path: Path):
    made.write(PngExporter, [made.RECORDS["one"]], made.CLASSES, tmp_path)
    path = tmp_path / "instances.csv"
    path.write_text(f"{path.read_text()}{row}\n")
    (image,), (note,) = read(tmp_path)
    assert len(masks(image)) == 1 and image.left_out == 1
    assert note.startswith(f"{DAMAGED}: 1 (one.jpg mask ") and re.search(message, note)


def test_what_is_refused(tmp_path: Path):
    with pytest.raises(ResultError, match="cannot read"):
        PngReader.open(tmp_path)
    (tmp_path / "instances.csv").write_text("a,b\n")
    with pytest.raises(ResultError, match="must have the columns image_name, mask, class, got none called image_name"):
        PngReader.open(tmp_path)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.parametrize(
    "damaged",
    ["instances.csv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mask/one/000.png", "classes.csv"))],
)
def test_damaged_files(damaged: str, count: int, tmp_path: Path):
    made.write(PngExporter, [made.RECORDS["one"], made.RECORDS["nothing found"]], made.CLASSES, tmp_path)
    path = tmp_path / damaged
    fuzz_file(path, "png", [path.read_bytes()], count, opened=tmp_path)

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.formats import table
from grounded.labelling.formats.annotations import DAMAGED
from grounded.labelling.formats.exporter import exporter_class
from grounded.labelling.formats.table import TableReader
from segany.utils.rle import RLE, decode_rle
from tests.fuzzing import FUZZ_COUNTS
from tests.grounded.labelling.formats import made
from tests.grounded.labelling.formats.reading import fuzz_file, masks, read

FORMATS = ["csv", "parquet"]


def write(kind: str, *arguments: Any) -> Any:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    return made.write(exporter_class(kind), *arguments)


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows as Python has them; of CSV all values are text, and "" is none."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
    return importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()


def number(value: Any) -> float:
    return made.NAN if value is None else float(value)


@pytest.mark.parametrize("kind", FORMATS)
def test_all_comes_back(tmp_path: Path, kind: str):
    assert not +write(kind, made.ALL, made.CLASSES, tmp_path)
    found = rows(tmp_path / f"instances.{kind}")
    assert len(found) == sum(len(record.instances) for record in made.ALL)
    assert tuple(found[0]) == tuple(table.INSTANCES)
    for record in made.ALL:
        own = [row for row in found if row["file"] == record.image.file]
        for index, (row, one) in enumerate(zip(own, record.instances, strict=True)):
            assert (int(row["instance"]), row["class"], row["source"]) == (index, one.labels[0], "detector")
            assert made.CLASSES[int(row["class_id"])] == row["class"]
            rle = RLE(size=[int(row["height"]), int(row["width"])], counts=row["rle_counts"])
            np.testing.assert_array_equal(decode_rle([rle])[0].numpy(), one.masks[0])
            assert int(row["area"]) == one.masks.sum()
            for name in table.SCORES:
                expected = getattr(one, "predicted_iou" if name == "predicted_iou" else f"{name}s")[0]
                np.testing.assert_array_equal(np.float32(number(row[name])), expected)
            box = [float(row[f"box_{side}"]) for side in ("left", "top", "right", "bottom")]
            np.testing.assert_array_equal(box, one.boxes[0])


@pytest.mark.parametrize("kind", FORMATS)
def test_every_image_has_a_row(tmp_path: Path, kind: str):
    write(kind, made.ALL, made.CLASSES, tmp_path)
    found = {row["file"]: row for row in rows(tmp_path / f"images.{kind}")}
    assert list(found) == [record.image.file for record in made.ALL]
    assert int(found["sub/nothing.png"]["instances"]) == 0
    turned = found["turned.jpg"]
    assert [int(turned[key]) for key in ("width", "height", "orientation")] == [30, 40, 6]
    assert (turned["notes"], turned["sha256"]) == ("a note", None)
    (pixel,) = (row for row in rows(tmp_path / f"instances.{kind}") if row["file"] == "pixel.webp")
    assert [float(pixel[f"mask_{side}"]) for side in ("left", "top", "right", "bottom")] == [11, 7, 12, 8]


@pytest.mark.parametrize("kind", FORMATS)
def test_no_records_and_copies(tmp_path: Path, kind: str):
    write(kind, [], made.CLASSES, tmp_path / "none")
    assert rows(tmp_path / "none" / f"instances.{kind}") == rows(tmp_path / "none" / f"images.{kind}") == []
    write(kind, made.ALL, made.CLASSES, tmp_path / "all", made.images)
    for row in rows(tmp_path / "all" / f"images.{kind}"):
        assert (tmp_path / "all" / "images" / row["file"]).is_file()
        assert int(row["orientation"]) == 1


def test_parquet_in_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 4)
    write("parquet", made.ALL, made.CLASSES, tmp_path)
    file = importlib.import_module("pyarrow.parquet").ParquetFile(tmp_path / "instances.parquet")
    assert file.num_row_groups == 4 and file.metadata.num_rows == 14


def test_parquet_without_pyarrow(tmp_path: Path):
    if importlib.util.find_spec("pyarrow") is not None:
        pytest.skip("needs an environment without the package pyarrow")
    with pytest.raises(ImportError, match=r"pip install 'grounded-segany\[parquet\]'"):
        made.write(table.ParquetExporter, [], made.CLASSES, tmp_path)


def test_an_instance_without_pixels_is_a_box(tmp_path: Path):
    write("csv", [made.RECORDS["an empty mask among others"]], made.CLASSES, tmp_path)
    (image,), notes = read(tmp_path)
    assert [annotation.box for annotation in image.annotations] == [(0, 1, 2, 3), None]
    assert [mask.sum() for mask in masks(image)] == [0, 1] and notes == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        pytest.param("rle_counts", "", "run lengths must add up to", id="no mask"),
        pytest.param("rle_counts", "1", "run lengths must add up to", id="short"),
        pytest.param("rle_counts", "~é", "compressed run lengths", id="no run lengths"),
        pytest.param("width", "41", "must be of the image's size", id="another size"),
        pytest.param("height", "x", "a size must be two whole numbers", id="no size"),
        pytest.param("class", " ", "it has no label", id="no label"),
    ],
)
def test_an_odd_row_is_left_out_alone(column: str, value: str, message: str, tmp_path: Path):
    write("csv", [made.RECORDS["overlapping"]], made.CLASSES, tmp_path)
    path = tmp_path / "instances.csv"
    with path.open(encoding="utf-8", newline="") as file:
        head, first, *others = csv.reader(file)
    first[head.index(column)] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, first, *others])
    (image,), (note,) = read(tmp_path)
    assert len(masks(image)) == 3 and image.left_out == 1
    assert note.startswith(f"{DAMAGED}: 1 (overlapping.jpg row 1: ") and message in note


def test_long_run_lengths_come_back(tmp_path: Path):
    noise = np.random.default_rng(0).random((700, 700)) < 0.5
    write("csv", [made.record("noise.png", [noise])], made.CLASSES, tmp_path)
    assert max(map(len, (tmp_path / "instances.csv").read_text().split(","))) > 131_072  # the limit of the module csv
    (image,), notes = read(tmp_path)
    np.testing.assert_array_equal(masks(image)[0], noise)
    assert notes == []


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_refused(kind: str, tmp_path: Path):
    path = tmp_path / f"instances.{kind}"
    with pytest.raises(ResultError, match="cannot read"):
        TableReader.open(path)
    path.write_bytes(b"PAR1\xff\xff")
    with pytest.raises(ResultError, match="is not Parquet" if kind == "parquet" else "is not CSV"):
        TableReader.open(path)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(kind: str, count: int, tmp_path: Path):
    write(kind, [made.RECORDS["overlapping"], made.RECORDS["nothing found"]], made.CLASSES, tmp_path)
    path = tmp_path / f"instances.{kind}"
    fuzz_file(path, kind, [path.read_bytes()], count, opened=tmp_path)

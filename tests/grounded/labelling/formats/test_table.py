import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grounded.labelling.formats import table
from grounded.labelling.formats.exporter import exporter_class
from segany.utils.rle import RLE, decode_rle
from tests.grounded.labelling.formats import made

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

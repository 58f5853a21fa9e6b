import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.labelling.formats.png import PngExporter
from tests.grounded.labelling.formats import made


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
        own = [row for row in found if row["picture"] == record.image.file]
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
    assert all((tmp_path / row["picture"]).is_file() for row in rows(tmp_path / "instances.csv"))
    assert (tmp_path / "images" / "sub" / "nothing.png").is_file()


def test_no_records(tmp_path: Path):
    assert not +made.write(PngExporter, [], [], tmp_path)
    assert rows(tmp_path / "instances.csv") == rows(tmp_path / "classes.csv") == []

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from grounded.labelling.formats.cvat import CvatExporter
from grounded.labelling.records import Record
from tests.grounded.labelling.formats import made, public_readers


def write(records: list[Record], folder: Path, images: bool = False) -> ElementTree.Element:
    made.write(CvatExporter, records, made.CLASSES, folder, made.images if images else None)
    return ElementTree.parse(folder / "annotations.xml").getroot()


def decoded(mask: ElementTree.Element, size: tuple[int, int]) -> np.ndarray:
    left, top, width, height = (int(mask.get(key, "")) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in mask.get("rle", "").split(", ")]
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    found = np.zeros(size, bool)
    found[top : top + height, left : left + width] = part
    return found


@pytest.mark.parametrize("name", made.RECORDS)
def test_masks_to_the_bit(name: str, tmp_path: Path):
    record = made.RECORDS[name]
    (image,) = write([record], tmp_path).iter("image")
    shown = made.shown(record)
    assert (image.get("name"), int(image.get("height")), int(image.get("width"))) == (
        record.image.file,
        *shown.image_size,
    )
    for mask, truth, label in zip(image, shown.masks, shown.labels, strict=True):
        assert (mask.tag, mask.get("label"), mask.get("source"), mask.get("occluded")) == ("mask", label, "auto", "0")
        np.testing.assert_array_equal(decoded(mask, shown.image_size), truth)


def test_the_whole_file(tmp_path: Path):
    root = write(made.ALL, tmp_path)
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/size") == str(len(made.ALL))
    assert [label.findtext("name") for label in root.iter("label")] == list(made.CLASSES)
    assert [int(image.get("id")) for image in root.iter("image")] == list(range(len(made.ALL)))
    labels = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert [label["name"] for label in labels] == list(made.CLASSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.xml", "labels.json"]


def test_no_images(tmp_path: Path):
    assert list(write([], tmp_path).iter("image")) == []


def test_the_best_score_lies_on_top(tmp_path: Path):
    root = write([made.RECORDS["overlapping"]], tmp_path)
    assert [int(mask.get("z_order")) for mask in root.iter("mask")] == [2, 3, 1, 0]


def test_awkward_labels_and_names(tmp_path: Path):
    label, file = '<"猫" & \x07>', 'a&b/"c".jpg'
    made.write(CvatExporter, [made.record(file, [made.pixel()], [label])], (label,), tmp_path)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    expected = label.replace("\x07", "\ufffd")
    assert root.findtext("meta/task/labels/label/name") == expected
    assert [mask.get("label") for mask in root.iter("mask")] == [expected]
    assert [image.get("name") for image in root.iter("image")] == [file]


def test_copies_are_upright(tmp_path: Path):
    for image in write(made.ALL, tmp_path, images=True).iter("image"):
        opened = Image.open(tmp_path / "images" / image.get("name"))
        assert opened.size == (int(image.get("width")), int(image.get("height")))


def test_what_is_lost(tmp_path: Path):
    lost = made.write(CvatExporter, [made.RECORDS["an empty mask among others"]], made.CLASSES, tmp_path)
    assert +lost == {
        "instances left out, as their masks are empty": 1,
        "scores, for which there is no place": 1,
    }


def test_cvat_decodes_masks_to_the_bit(tmp_path: Path):
    write(made.ALL, tmp_path / "out")
    found = public_readers.read("cvat", tmp_path / "out")
    for record in made.ALL:
        shown = made.shown(record)
        for (label, mask), truth, expected in zip(
            found.get(record.image.file, []), shown.masks, shown.labels, strict=True
        ):
            assert label == expected
            np.testing.assert_array_equal(mask, truth)

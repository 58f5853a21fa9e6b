from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ConfigError
from grounded.labelling.formats.voc import VocExporter
from tests.grounded.labelling.formats import made


def stems(folder: Path) -> list[str]:
    return (folder / "ImageSets" / "Segmentation" / "all.txt").read_text(encoding="utf-8").splitlines()


def values(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        assert opened.mode == "P"
        return np.asarray(opened).astype(int)


def test_masks_come_back_to_the_bit(tmp_path: Path):
    made.write(VocExporter, made.ALL, made.CLASSES, tmp_path)
    assert len(stems(tmp_path)) == len(made.ALL)
    for stem, record in zip(stems(tmp_path), made.ALL, strict=True):
        expected = made.shown(record)
        objects = values(tmp_path / "SegmentationObject" / f"{stem}.png")
        classes = values(tmp_path / "SegmentationClass" / f"{stem}.png")
        assert objects.shape == classes.shape == expected.image_size
        for number, (mask, label) in enumerate(zip(made.visible(expected), expected.labels, strict=True), start=1):
            np.testing.assert_array_equal(objects == number, mask)
            assert set(classes[mask]) <= {made.CLASSES.index(label) + 1}
        assert objects.max(initial=0) <= len(expected)
        np.testing.assert_array_equal(classes > 0, objects > 0)


def test_annotations(tmp_path: Path):
    made.write(VocExporter, made.ALL, made.CLASSES, tmp_path)
    for stem, record in zip(stems(tmp_path), made.ALL, strict=True):
        root, expected = ET.parse(tmp_path / "Annotations" / f"{stem}.xml").getroot(), made.shown(record)
        size = {item.tag: int(item.text) for item in root.find("size")}
        assert size == {"width": record.image.width, "height": record.image.height, "depth": 3}
        items = root.findall("object")
        assert [item.findtext("name") for item in items] == expected.labels.tolist()
        for item, mask, score in zip(items, expected.masks, expected.scores, strict=True):
            box = {side.tag: int(side.text) for side in item.find("bndbox")}
            rows, columns = np.nonzero(mask)
            assert (box["xmin"], box["ymin"]) == (columns.min() + 1, rows.min() + 1)  # VOC counts from 1
            assert (box["xmax"], box["ymax"]) == (columns.max() + 1, rows.max() + 1)
            assert float(item.findtext("score", "nan")) == pytest.approx(score, nan_ok=True)


def test_losses(tmp_path: Path):
    assert +made.write(VocExporter, made.ALL, made.CLASSES, tmp_path) == {
        "instances left out, as their masks are empty": 1,
        "instances partly under better ones": 1,
        "instances wholly under better ones": 1,
        "images renamed, as another one's name differs by the extension alone": 1,
    }


def test_copies_and_the_names_that_point_to_them(tmp_path: Path):
    made.write(VocExporter, made.ALL, made.CLASSES, tmp_path, made.images)
    for stem in stems(tmp_path):
        name = ET.parse(tmp_path / "Annotations" / f"{stem}.xml").findtext("filename")
        with Image.open(tmp_path / "JPEGImages" / name) as opened:
            assert opened.size == Image.open(tmp_path / "SegmentationClass" / f"{stem}.png").size
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(made.CLASSES)


def test_the_palette_is_that_of_voc(tmp_path: Path):
    made.write(VocExporter, [made.RECORDS["one"]], made.CLASSES, tmp_path)
    palette = np.array(Image.open(tmp_path / "SegmentationClass" / "one.png").getpalette()).reshape(-1, 3)
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {value: tuple(palette[value].tolist()) for value in published} == published


@pytest.mark.parametrize("count", [254, 255])
def test_how_many_classes_there_may_be(tmp_path: Path, count: int):
    classes = [*(f"class {i}" for i in range(count - 1)), "a dog"]
    if count > 254:
        with pytest.raises(ConfigError, match="voc holds at most 254 classes, got 255"):
            made.write(VocExporter, [made.RECORDS["one"]], classes, tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        made.write(VocExporter, [made.RECORDS["one"]], classes, tmp_path)
        assert values(tmp_path / "SegmentationClass" / "one.png").max() == 254


def test_more_objects_than_a_byte_holds(tmp_path: Path):
    masks = np.zeros((300, 20, 20), bool)
    masks[np.arange(300), np.arange(300) // 20, np.arange(300) % 20] = True
    lost = made.write(
        VocExporter, [made.record("many.jpg", masks, scores=np.linspace(1, 0.1, 300).tolist())], ["a dog"], tmp_path
    )
    assert +lost == {"instances beyond the 254 of an image in SegmentationObject": 46}
    objects = values(tmp_path / "SegmentationObject" / "many.png")
    assert sorted(set(objects.ravel())) == list(range(255))
    assert (values(tmp_path / "SegmentationClass" / "many.png") == 1).sum() == 300
    assert len(ET.parse(tmp_path / "Annotations" / "many.xml").findall("object")) == 300


def test_names_that_xml_cannot_say(tmp_path: Path):
    made.write(VocExporter, [made.record("a\x01<&>\\xff.jpg", [made.pixel()])], ["a dog"], tmp_path)
    (path,) = (tmp_path / "Annotations").iterdir()
    assert ET.parse(path).findtext("filename") == "a\ufffd<&>\\xff.jpg"


def test_no_records(tmp_path: Path):
    assert not +made.write(VocExporter, [], made.CLASSES, tmp_path)
    assert stems(tmp_path) == []

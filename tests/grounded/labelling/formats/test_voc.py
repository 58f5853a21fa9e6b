import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats import voc
from grounded.labelling.formats.annotations import DAMAGED
from grounded.labelling.formats.png import encode_png
from grounded.labelling.formats.voc import VocExporter, VocReader
from tests.fuzzing import FUZZ_COUNTS
from tests.grounded.labelling.formats import made
from tests.grounded.labelling.formats.reading import box, fuzz_file, masks, read


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


def thing(name: str, *sides: object, more: str = "") -> str:
    named = zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=False)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in named)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox>{more}</object>"


DOG, CAT = thing("a dog", 5, 4, 20, 15), thing("cat", 11, 11, 31, 30, more="<score>0.5</score>")
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def save(folder: Path, objects: str, size: str = SIZE, values: np.ndarray | None = None) -> Path:
    """Annotations of one image, and a map of the objects."""
    path = folder / "Annotations" / "sub" / "a.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><folder>x</folder><filename>a.jpg</filename>{size}{objects}</annotation>")
    if values is not None:
        png = folder / "SegmentationObject" / "sub" / "a.png"
        png.parent.mkdir(parents=True, exist_ok=True)
        png.write_bytes(encode_png(values.astype(np.uint8), list(range(256)) * 3))
    return folder


def test_boxes_without_masks(tmp_path: Path):
    (image,), notes = read(save(tmp_path, DOG + CAT))
    assert (image.names, image.image_size, notes) == (("a.jpg", "sub/a.jpg"), (30, 40), [])
    dog, cat = image.annotations
    assert (dog.label, dog.box, cat.label, cat.box) == ("a dog", (4, 3, 20, 15), "cat", (10, 10, 31, 30))
    assert np.isnan(dog.score) and cat.score == 0.5
    assert not any(mask.any() for mask in masks(image))


@pytest.mark.parametrize(
    ("numbers", "left_out"),
    [
        pytest.param((1, 2, 255), [], id="by number"),
        pytest.param((2, 1, 255), [], id="in another order"),
        pytest.param((7, 9, 255), [], id="by their boxes"),
        pytest.param((1, 2, 3), [f"{voc.NO_OBJECT}: 1 (sub/a.jpg value 3)"], id="one without an object"),
    ],
)
def test_masks(numbers: tuple[int, int, int], left_out: list[str], tmp_path: Path):
    dog, cat, void = box(3, 15, 4, 20) & ~box(10, 30, 10, 31), box(10, 30, 10, 31), box(0, 30, 36, 40)
    values = sum(mask * number for mask, number in zip((dog, cat, void), numbers, strict=True))
    (tmp_path / "JPEGImages" / "sub").mkdir(parents=True)
    (tmp_path / "JPEGImages" / "sub" / "a.jpg").write_bytes(b"")
    (image,), notes = read(save(tmp_path, DOG + CAT, values=values))
    assert [annotation.label for annotation in image.annotations] == ["a dog", "cat"]
    for mask, expected in zip(masks(image), (dog, cat), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert all(annotation.is_visible_part and annotation.box is None for annotation in image.annotations)
    assert image.names[0] == "JPEGImages/sub/a.jpg"
    assert [line.replace("JPEGImages/", "") for line in notes] == left_out


def test_polygons_of_other_programs(tmp_path: Path):
    corners = "<x1>4</x1><y1>3</y1><x2>20</x2><y2>3</y2><x3>4</x3><y3>15</y3>"
    (image,), _ = read(save(tmp_path, thing("a dog", 5, 4, 20, 15, more=f"<polygon>{corners}</polygon>")))
    (mask,) = masks(image)
    assert 80 < mask.sum() < 110 and image.annotations[0].box is None


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        pytest.param(thing("cat", 5, 4, 5, "x"), "must have an area within the image", id="no number"),
        pytest.param(thing("cat", 50, 4, 60, 9), "must have an area within the image", id="outside"),
        pytest.param(thing("cat", "nan", 4, 60, 9), "must have an area within the image", id="nan"),
        pytest.param("<object><name>cat</name></object>", "must have an area within the image", id="no box"),
        pytest.param(thing("", 5, 4, 20, 15), "it has no label", id="no label"),
        pytest.param(thing("cat", 5, 4, 9, 9, more="<polygon><x1>1</x1></polygon>"), "three corners", id="polygon"),
    ],
)
def test_an_odd_object_is_left_out_alone(odd: str, message: str, tmp_path: Path):
    (image,), (note,) = read(save(tmp_path, DOG + odd))
    assert len(image.annotations) == 1 and image.left_out == 1
    assert note.startswith(f"{DAMAGED}: 1 (a.jpg object 2: ") and message in note


@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>", "<size><width>x</width></size>"]
)
def test_where_the_size_comes_from(size: str, tmp_path: Path):
    (image,), _ = read(save(tmp_path, DOG, size))
    assert "must have a width and a height" in image.error
    (image,), _ = read(tmp_path, find_size=lambda names: (30, 40) if "sub/a.jpg" in names else None)
    assert image.image_size == (30, 40)
    Image.new("RGB", (40, 30)).save(tmp_path / "Annotations" / "sub" / "a.jpg")
    (image,), _ = read(tmp_path)
    assert image.image_size == (30, 40) and image.names[0] == "Annotations/sub/a.jpg"


def test_a_name_that_no_file_can_have(tmp_path: Path):
    save(tmp_path, DOG)
    path = tmp_path / "Annotations" / "sub" / "a.xml"
    path.write_text(re.sub("<filename>.*</filename>", f"<filename>{'x' * 300}.jpg</filename>", path.read_text()))
    (image,), _ = read(tmp_path)
    assert image.error == "" and image.names[0] == f"{'x' * 300}.jpg"


def test_what_is_refused(tmp_path: Path):
    with pytest.raises(ResultError, match="holds no VOC file"):
        VocReader.open(tmp_path)
    (image,), _ = read(save(tmp_path, DOG, values=np.zeros((30, 41))))
    assert "must be of (40, 30) indices, got (41, 30)" in image.error
    path = tmp_path / "Annotations" / "sub" / "a.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>')
    (image,), _ = read(tmp_path)
    assert "a document type" in image.error
    path.write_text("<annotations/>")
    with pytest.raises(ResultError, match="expected <annotation>, got <annotations>"):
        VocReader.open(path)


@pytest.mark.parametrize(
    "damaged", ["Annotations/sub/a.xml", pytest.param("SegmentationObject/sub/a.png", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(damaged: str, count: int, tmp_path: Path):
    path = save(tmp_path, DOG + CAT, values=box(3, 15, 4, 20) + 2 * box(20, 30, 10, 31)) / damaged
    fuzz_file(path, "voc", [path.read_bytes()], count, opened=tmp_path)

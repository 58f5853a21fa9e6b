import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats import cvat
from grounded.labelling.formats.annotations import DAMAGED
from grounded.labelling.formats.cvat import CvatExporter, CvatReader
from grounded.labelling.records import Record
from tests.data import disk
from tests.fuzzing import FUZZ_COUNTS
from tests.grounded.labelling.formats import made, public_readers
from tests.grounded.labelling.formats.reading import box, fuzz_file, masks, read


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


SQUARE = '<polygon label="a dog" points="4,3;20,3;20,15;4,15" z_order="0"/>'
MASK = '<mask label="cat" rle="1, 2, 1, 4" left="3" top="2" width="4" height="2" source="manual"/>'


def save(folder: Path, shapes: str, image: str = 'id="0" name="a\\b.jpg" width="40" height="30"') -> Path:
    labels = "<meta><job><labels><label><name>never drawn</name></label></labels></job></meta>"
    path = folder / "annotations.xml"
    path.write_text(f"<annotations><version>1.1</version>{labels}<image {image}>{shapes}</image></annotations>")
    return path


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        pytest.param(SQUARE, box(3, 15, 4, 20), id="polygon"),
        pytest.param('<box label="a dog" xtl="4" ytl="3.2" xbr="20" ybr="15"/>', box(3, 15, 4, 20), id="box"),
        pytest.param(
            '<box label="a dog" xtl="6" ytl="1" xbr="18" ybr="17" rotation="90"/>', box(3, 15, 4, 20), id="turned box"
        ),
        pytest.param(
            '<box label="a dog" xtl="-9" ytl="20" xbr="5" ybr="99" occluded="0"/>', box(20, 30, 0, 5), id="across"
        ),
        pytest.param(
            '<ellipse label="a dog" cx="20.5" cy="15.5" rx="9" ry="9" rotation="30"/>',
            disk(30, 40, 20, 15, 9),
            id="circle",
        ),
        pytest.param(MASK, box(2, 3, 4, 6) | box(3, 4, 3, 7), id="mask"),
        pytest.param(
            MASK.replace('left="3"', 'left="-1"').replace('top="2"', 'top="29"'), box(29, 30, 0, 2), id="mask across"
        ),
    ],
)
def test_areas(shape: str, expected: np.ndarray, tmp_path: Path):
    (image,), notes = read(save(tmp_path, shape))
    (mask,) = masks(image)
    assert (mask & expected).sum() / (mask | expected).sum() > (0.98 if "ellipse" in shape else 0.999)
    assert (image.names, image.image_size, image.left_out, notes) == (("a/b.jpg",), (30, 40), 0, [])
    assert "never drawn" in CvatReader.open(tmp_path / "annotations.xml").labels()


def test_groups(tmp_path: Path):
    other = SQUARE.replace("4,3", "5,16").replace("<polygon", '<polygon group_id="7"')
    shapes = [SQUARE.replace("/>", ' group_id="7"/>'), other, MASK.replace("/>", ' group_id="7"/>'), SQUARE]
    (image,), _ = read(save(tmp_path, "".join(shapes)))
    assert [annotation.label for annotation in image.annotations] == ["a dog", "cat", "a dog"]
    together, _, alone = masks(image)
    assert (alone < together).any() and (alone <= together).all()


@pytest.mark.parametrize(
    ("odd", "kind", "message"),
    [
        pytest.param('<polyline label="a" points="1,2;3,4"/>', cvat.NO_AREA, "shape 2 'a'", id="line"),
        pytest.param('<points label="a" points="1,2"/>', cvat.NO_AREA, "shape 2 'a'", id="points"),
        pytest.param('<tag label="a"/>', cvat.NO_AREA, "", id="tag"),
        pytest.param(
            '<skeleton label="a"><points label="b" points="1,2"/></skeleton>', cvat.NO_AREA, "", id="skeleton"
        ),
        pytest.param(
            SQUARE.replace("4,3", "400,300").replace("20,", "401,").replace("4,15", "402,9"),
            cvat.NO_PIXEL,
            "",
            id="outside",
        ),
        pytest.param(SQUARE.replace("4,3", "nan,3"), DAMAGED, "numbers must be finite", id="nan"),
        pytest.param(SQUARE.replace("4,3", "1e9,3"), DAMAGED, "must be finite", id="far away"),
        pytest.param(SQUARE.replace("4,3;20,3", ""), DAMAGED, "expected numbers", id="no number"),
        pytest.param(SQUARE.replace("4,3;20,3;", ""), DAMAGED, "three corners", id="two corners"),
        pytest.param(SQUARE.replace("a dog", " "), DAMAGED, "it has no label", id="no label"),
        pytest.param(MASK.replace("1, 2", "2, 2"), DAMAGED, "must add up to width x height = 8, got 9", id="runs"),
        pytest.param(MASK.replace("1, 2", "-1, 4"), DAMAGED, "must add up to", id="negative runs"),
        pytest.param(MASK.replace("1, 2", "0.5, 2.5"), DAMAGED, "must add up to", id="parts of pixels"),
        pytest.param(MASK.replace('"4"', '"400000"'), DAMAGED, "must add up to", id="another width"),
        pytest.param(MASK.replace('"4"', '"99999999999"'), DAMAGED, "cannot be", id="no width"),
        pytest.param('<cube label="a"/>', DAMAGED, "unknown kind 'cube'", id="unknown"),
    ],
)
def test_an_odd_shape_is_left_out_alone(odd: str, kind: str, message: str, tmp_path: Path):
    (image,), (note,) = read(save(tmp_path, SQUARE + odd + MASK))
    assert len(masks(image)) == 2 and image.left_out == 1
    assert note.startswith(f"{kind}: 1 (a/b.jpg ") and message in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("<annotations><track/></annotations>", "is of a video: export it as 'CVAT for images", id="video"),
        pytest.param("<annotation/>", "expected <annotations>, got <annotation>", id="VOC"),
        pytest.param("<annotations>", "is not XML: no element found", id="cut off"),
        pytest.param("", "is not XML", id="empty"),
        pytest.param("<annotations>" + "<a>" * 100, "more than 50 elements in one another", id="deep"),
        pytest.param(
            '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>',
            "a document type .* is not taken",
            id="entities",
        ),
        pytest.param(
            '<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotations/>',
            "a document type .* is not taken",
            id="another file",
        ),
        pytest.param('<?xml version="1.0" encoding="nonsense"?><annotations/>', "encoding", id="encoding"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(ResultError, match=message):
        read(path, "cvat")


def test_no_size(tmp_path: Path):
    path = save(tmp_path, SQUARE, 'name="a.jpg"')
    (image,), _ = read(path)
    assert "must have a width and a height" in image.error
    (image,), _ = read(path, find_size=lambda names: (30, 40))
    assert len(masks(image)) == 1
    (image,), _ = read(save(tmp_path, SQUARE, 'name="a.jpg" width="99999999" height="99999999"'))
    assert "must have up to 200 megapixels" in image.error


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_files(count: int, tmp_path: Path):
    ellipse = '<ellipse label="a" cx="20.5" cy="15.5" rx="9" ry="9" rotation="3"/>'
    turned = '<box label="a" xtl="6" ytl="1" xbr="18" ybr="17" rotation="90"/>'
    path = save(tmp_path, SQUARE + MASK + ellipse + turned)
    fuzz_file(path, "cvat", [path.read_bytes()], count)

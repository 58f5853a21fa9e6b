from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats import yolo
from grounded.labelling.formats.annotations import DAMAGED
from grounded.labelling.formats.yolo import (
    YoloBoxExporter,
    YoloReader,
    YoloSegmentExporter,
    draw_segment,
    mask_to_ring,
)
from grounded.labelling.records import Record
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.fuzzing import FUZZ_COUNTS
from tests.grounded.labelling.formats import made
from tests.grounded.labelling.formats.reading import box, fuzz_file, masks, read
from tests.grounded.output.test_polygons import MASKS, blob

SEVERAL = ("several parts", "diagonal touch", "nested", "chessboard")
WHOLE = {name: mask for name, mask in MASKS.items() if mask.any() and not name.startswith(("noise", "blob", *SEVERAL))}
WHOLE |= {"large disk": disk(300, 400, 170.3, 140.8, 99.6), "square": np.pad(np.ones((33, 33), bool), 7)}
WHOLE |= {"holed": made.holed(), "dense": MASKS["noise 0.9"]}
IN_PARTS = {"parts": made.parts(), "blobs": blob(1, 256), "several parts": MASKS["several parts"]}


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def drawn(numbers: list[str], size: tuple[int, int], cut_off: bool) -> np.ndarray:
    """A segment as OpenCV draws it, by readers that cut off the digits after the point, or round."""
    cv2 = pytest.importorskip("cv2")
    points = np.array(numbers, np.float32).reshape(-1, 2) * np.array(size[::-1], np.float32)
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [(points if cut_off else np.round(points)).astype(np.int32)], 1)
    return canvas.astype(bool)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("cut_off", [True, False], ids=["cut off", "rounded"])
@pytest.mark.parametrize("mask", WHOLE.values(), ids=WHOLE)
def test_masks_of_one_part_come_back_to_the_bit(tmp_path: Path, mask: np.ndarray, cut_off: bool):
    made.write(YoloSegmentExporter, [made.record("a.jpg", [mask])], made.CLASSES, tmp_path)
    ((number, *coordinates),) = lines(tmp_path / "labels" / "a.txt")
    assert number == "0"
    assert all(0 <= float(coordinate) <= 1 for coordinate in coordinates)
    np.testing.assert_array_equal(drawn(coordinates, mask.shape, cut_off), mask)


@pytest.mark.parametrize("mask", IN_PARTS.values(), ids=IN_PARTS)
def test_parts_are_one_line_with_bridges(tmp_path: Path, mask: np.ndarray):
    lost = made.write(YoloSegmentExporter, [made.record("a.jpg", [mask])], made.CLASSES, tmp_path)
    ((_, *coordinates),) = lines(tmp_path / "labels" / "a.txt")
    result = drawn(coordinates, mask.shape, cut_off=True)
    assert (mask <= result).all()  # bridges are all that is added
    count = lost["parts joined to one another by bridges of no width"]
    assert count >= 1 and (result & ~mask).sum() <= count * max(mask.shape)


def test_no_part_is_lost_by_either_fill():
    mask, lost = made.parts() & ~made.pixel(), Counter()
    ring = mask_to_ring(encode_rle(mask[None])[0], lost)
    assert lost == {
        "parts joined to one another by bridges of no width": 2,
        "holes joined to the outline by bridges of no width": 1,
    }
    x, y = ring.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2  # bridges, to and fro, add nothing
    assert 0.75 * mask.sum() < area <= mask.sum()


def test_layout_and_losses(tmp_path: Path):
    lost = made.write(YoloSegmentExporter, made.ALL, made.CLASSES, tmp_path, made.images)
    data = yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(made.CLASSES))
    assert (tmp_path / data["train"]).is_dir() and (tmp_path / data["val"]).is_dir()
    labels = {path.relative_to(tmp_path / "labels").with_suffix("") for path in (tmp_path / "labels").rglob("*.txt")}
    copies = {path.relative_to(tmp_path / "images").with_suffix("") for path in (tmp_path / "images").rglob("*.*")}
    assert labels == copies and len(labels) == len(made.ALL)
    assert lines(tmp_path / "labels" / "sub" / "nothing.txt") == []
    assert [line[0] for line in lines(tmp_path / "labels" / "overlapping.txt")] == ["0", "1", "0", "0"]
    assert (tmp_path / "images" / "one-2.png").is_file() and (tmp_path / "labels" / "one-2.txt").is_file()
    assert +lost == {
        "holes joined to the outline by bridges of no width": 2,
        "instances left out, as their masks are empty": 1,
        "parts joined to one another by bridges of no width": 2,
        "images renamed, as another one's name differs by the extension alone": 1,
        "scores": 11,
    }


def test_boxes(tmp_path: Path):
    lost = made.write(YoloBoxExporter, made.ALL, made.CLASSES, tmp_path)
    assert lines(tmp_path / "labels" / "sub" / "sub" / "whole.txt") == [
        ["0", *"0.500000 0.500000 1.000000 1.000000".split()]
    ]
    assert lines(tmp_path / "labels" / "sub" / "nothing.txt") == []
    ((_, *pixel),) = lines(tmp_path / "labels" / "pixel.txt")
    np.testing.assert_allclose(np.array(pixel, float) * [40, 30, 40, 30], [11.5, 7.5, 1, 1], atol=1e-4)
    assert lost["masks, of which the boxes are kept"] == sum(len(made.shown(record)) for record in made.ALL)


def test_no_records(tmp_path: Path):
    assert not +made.write(YoloSegmentExporter, [], [], tmp_path)
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == {}


def flat_records() -> list[Record]:
    """Supervision does not look into folders; and every image has 100 x 130 pixels."""
    masks = {
        "disk": disk(100, 130, 60, 50, 30),
        "cut": disk(100, 130, 0, 0, 60),
        "square": np.pad(np.ones((34, 34), bool), ((20, 46), (30, 66))),
        "whole": np.ones((100, 130), bool),
        "thin": np.pad(np.ones((2, 120), bool), ((50, 48), (5, 5))),
        **{f"blob{seed}": largest(blob(seed, 130)[:100]) for seed in range(6)},
    }
    return [made.record(f"{name}.png", [mask], ["ein Stück Käse 猫"]) for name, mask in masks.items()]


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest part, its holes filled."""
    from scipy import ndimage

    regions, _ = ndimage.label(mask)
    return ndimage.binary_fill_holes(regions == np.bincount(regions[mask]).argmax())


@pytest.mark.parametrize("kind", ["segments", "boxes"])
def test_supervision_reads_them(tmp_path: Path, kind: str):
    supervision = pytest.importorskip("supervision")

    records = [*flat_records(), made.record("none.png", [], size=(100, 130))]
    made.write(YoloSegmentExporter if kind == "segments" else YoloBoxExporter, records, made.CLASSES, tmp_path)
    (tmp_path / "images").mkdir()
    for record in records:
        Image.new("RGB", (130, 100)).save(tmp_path / "images" / record.image.file)
    data = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml"), force_masks=kind == "segments"
    )
    assert data.classes == list(made.CLASSES)
    detections = {Path(path).name: found for path, _, found in data}
    assert len(detections.pop("none.png")) == 0
    assert len(detections) == len(records) - 1
    for record in records[:-1]:
        found, (mask,) = detections[record.image.file], record.instances.masks
        assert found.class_id.tolist() == [1]
        if kind == "segments":
            assert iou(found.mask[0], mask) >= (0.98 if mask.sum() > 32**2 else 0.9)
        else:
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(found.xyxy[0], box, atol=1e-3)


@pytest.mark.parametrize("mask", [*WHOLE.values(), *IN_PARTS.values()], ids=[*WHOLE, *IN_PARTS])
def test_segments_are_read_to_the_bit(mask: np.ndarray, tmp_path: Path):
    made.write(YoloSegmentExporter, [made.record("a.jpg", [mask])], made.CLASSES, tmp_path)
    (image,), _ = read(tmp_path, find_size=lambda names: mask.shape)
    np.testing.assert_array_equal(masks(image)[0], mask)


@pytest.mark.parametrize("mask", WHOLE.values(), ids=WHOLE)
def test_segments_are_drawn_as_opencv_does(mask: np.ndarray):
    cv2 = pytest.importorskip("cv2")
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    canvas = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(canvas, contours[:1], 1)
    ring = contours[0].reshape(-1, 2).astype(np.float64)
    if len(ring) >= 3:
        np.testing.assert_array_equal(draw_segment(ring, mask.shape), canvas.astype(bool))


def test_a_line_that_leads_nowhere_is_drawn_and_a_bridge_is_not():
    square, far = [(2, 2), (6, 2), (6, 6), (2, 6)], [(20, 2), (24, 2), (24, 6), (20, 6), (20, 2)]
    spike = draw_segment(np.array([*square[:2], (12, 2), *square[1:]], float), (30, 40))
    np.testing.assert_array_equal(spike, box(2, 7, 2, 7) | box(2, 3, 2, 13))
    joined = draw_segment(np.array([*square[:2], *far, *square[1:]], float), (30, 40))
    np.testing.assert_array_equal(joined, box(2, 7, 2, 7) | box(2, 7, 20, 25))


NAN = float("nan")
SQUARE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"  # columns 4 to 20 and rows 3 to 15 of 40 x 30 pixels, with their rim


def save(folder: Path, text: str, names: str = "names: [a dog, no]", **layout: str) -> Path:
    """One image of 40 x 30 pixels and its labels."""
    labels, images = (folder / layout.get(name, f"{name}/train") for name in ("labels", "images"))
    for place in (labels, images):
        place.mkdir(parents=True, exist_ok=True)
    (folder / layout.get("classes", "data.yaml")).write_text(names)
    (labels / "a.txt").write_text(text)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.new("RGB", (30, 40)).save(images / "a.jpg", exif=exif)
    return folder


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        pytest.param("names: [a dog, no]", {}, id="list"),
        pytest.param("names: {0: a dog, 1: no}\npath: /elsewhere\nnc: 2\ntrain: ../train/images", {}, id="mapping"),
        pytest.param("\ufeffnames:\n- a dog\n- no\n", {"classes": "dataset.yml"}, id="another name"),
        pytest.param("a dog\nno\n", {"classes": "classes.txt"}, id="lines"),
        pytest.param("names: [a dog, no]", {"labels": "train/labels", "images": "train/images"}, id="split first"),
        pytest.param("a dog\nno\n", {"labels": ".", "images": ".", "classes": "obj.names"}, id="beside one another"),
    ],
)
def test_layouts(names: str, layout: dict, tmp_path: Path):
    (image,), notes = read(save(tmp_path, f"{SQUARE}\n\n{SQUARE.replace('0 ', '1 ', 1)}\n", names, **layout), "yolo")
    assert (image.image_size, notes) == ((30, 40), [])  # upright
    assert "a.jpg" in image.names[-1] and (tmp_path / image.names[0]).is_file()
    assert [annotation.label for annotation in image.annotations] == ["a dog", "no"]
    np.testing.assert_array_equal(masks(image)[0], box(3, 16, 4, 21))


@pytest.mark.parametrize(
    ("line", "expected", "score"),
    [
        pytest.param("1 0.5 0.5 0.25 0.5", (15, 7.5, 25, 22.5), NAN, id="box"),
        pytest.param("1 0.5 0.5 0.25 0.5 0.75", (15, 7.5, 25, 22.5), 0.75, id="predicted box"),
        pytest.param("1.0 0.0 0.0 0.5 0.5", (0, 0, 10, 7.5), NAN, id="box across"),
        pytest.param(f"{SQUARE} 0.75", None, 0.75, id="predicted segment"),
        pytest.param("0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5", None, NAN, id="turned box"),
    ],
)
def test_lines(line: str, expected: tuple | None, score: float, tmp_path: Path):
    (image,), notes = read(save(tmp_path, line))
    (annotation,) = image.annotations
    assert annotation.box == expected and masks(image)[0].any() == (expected is None)
    np.testing.assert_equal(annotation.score, score)
    assert notes == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("0 0.1 0.1", "expected a class and a box or a segment, got 3 numbers", id="too few"),
        pytest.param("0 0.1 x 0.1 0.1", "expected numbers", id="no number"),
        pytest.param("0 nan 0.1 0.1 0.1", "must be finite", id="nan"),
        pytest.param("7 0.1 0.1 0.1 0.1", "it has no label", id="unknown class"),
        pytest.param("0.5 0.1 0.1 0.1 0.1", "it has no label", id="half a class"),
        pytest.param("0 100 100 20 20", "must be shares of the image, from 0 to 1, got 100", id="pixels"),
        pytest.param("0 0.1 0.1 0 0.1", "must have an area within the image", id="empty box"),
        pytest.param("0 0.1 0.1 0.2 0.2 0.3 0.3", None, id="a line is as wide as a pixel"),
    ],
)
def test_an_odd_line_is_left_out_alone(line: str, message: str | None, tmp_path: Path):
    (image,), notes = read(save(tmp_path, f"{SQUARE}\n{line}\n"))
    if message is None:
        assert len(image.annotations) == 2 and not notes
        return
    assert len(image.annotations) == 1 and image.left_out == 1
    assert notes[0].startswith(f"{DAMAGED}: 1 (images/train/a.jpg line 2: ") and message in notes[0]


def test_keypoints_and_images_without_labels(tmp_path: Path):
    save(tmp_path, "0 0.5 0.5 0.25 0.5 0.1 0.1 2", "names: [a]\nkpt_shape: [1, 3]")
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"")
    (image,), notes = read(tmp_path)
    assert image.annotations[0].box == (15, 7.5, 25, 22.5)
    assert notes == [f"{yolo.KEYPOINTS}: 1 (images/train/a.jpg)", f"{yolo.UNLABELLED}: 1 (b.jpg)"]


def test_labels_without_an_image(tmp_path: Path):
    save(tmp_path, SQUARE)
    (tmp_path / "images" / "train" / "a.jpg").unlink()
    (image,), _ = read(tmp_path)
    assert image.names == ("train/a",) and "the size of the image is not known" in image.error
    (image,), _ = read(tmp_path / "data.yaml", find_size=lambda names: (30, 40))
    assert len(masks(image)) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param("nc: 1", "does not tell the classes", id="no names"),
        pytest.param("names: 3", "must have the names of the classes", id="a number"),
        pytest.param("names: [", "does not tell the classes", id="not YAML"),
    ],
)
def test_what_is_refused(names: str, message: str, tmp_path: Path):
    with pytest.raises(ResultError, match=message):
        YoloReader.open(save(tmp_path, SQUARE, names))
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    (tmp_path / "data.yaml").write_text("names: [a]")
    with pytest.raises(ResultError, match="holds no labels"):
        YoloReader.open(tmp_path)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.parametrize("damaged", ["labels/train/a.txt", pytest.param("data.yaml", marks=pytest.mark.slow)])
def test_damaged_files(damaged: str, count: int, tmp_path: Path):
    save(tmp_path, f"{SQUARE}\n1 0.5 0.5 0.25 0.5\n{SQUARE} 0.75\n")
    path = tmp_path / damaged
    fuzz_file(path, "yolo", [path.read_bytes()], count, opened=tmp_path)

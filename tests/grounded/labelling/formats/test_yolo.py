from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from grounded.labelling.formats.yolo import YoloBoxExporter, YoloSegmentExporter, mask_to_ring
from grounded.labelling.records import Record
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.grounded.labelling.formats import made
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
    from PIL import Image

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

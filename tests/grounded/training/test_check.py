"""Bad training data is named before the first step: what is left out with a count, and what stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import ConfigError, GroundedError, ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store import Run, open_run
from grounded.training import check
from grounded.training.data import TrainingData, describe, hold_out
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.grounded.training.drawn import SIZE, SQUARE, draw, write

Change = Callable[[dict[str, Any], Path], object]


def read(folder: Path, change: Change | None = None, needed: check.Needed = "mask", **options: Any):
    """The data of a drawn folder after a change, and the lines of its notes."""
    coco = draw(folder)
    if change is not None:
        change(coco, folder)
    notes = Notes()
    return check.read_training_data(write(folder, coco), notes, needed=needed, **options), notes.lines()


def first(coco: dict[str, Any], **values: Any) -> None:
    coco["annotations"][0].update(values)


def no_mask(coco: dict[str, Any], index: int = 0) -> None:
    del coco["annotations"][index]["segmentation"]


def everywhere(coco: dict[str, Any], **values: Any) -> None:
    for entry in coco["annotations"]:
        entry.update(values)


EMPTY = {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}
LEFT_OUT: dict[str, tuple[Change, str, int]] = {  # what is done, what is said, objects that are left of 5
    "missing image": (lambda c, f: (f / "1.png").unlink(), "images that are missing, left out: 1 (1.png)", 3),
    "damaged image": (
        lambda c, f: (f / "1.png").write_bytes((f / "1.png").read_bytes()[:200]),
        "images that cannot be read, left out: 1 (1.png",
        3,
    ),
    "not an image": (lambda c, f: (f / "1.png").write_text("<html>"), "images that cannot be read, left out: 1", 3),
    "other size": (
        lambda c, f: Image.new("RGB", (64, 80)).save(f / "1.png"),
        "images of another size than their annotations state, left out: 1 (1.png: 64 x 80 instead of 80 x 64)",
        3,
    ),
    "twice": (
        lambda c, f: c["images"].append({**c["images"][0], "id": 99}),
        "images that are annotated twice, of which the first counts: 1 (1.png)",
        5,
    ),
    "crowd": (lambda c, f: first(c, iscrowd=1), "crowd regions, left out: 1 (1.png disk", 4),
    "empty mask": (lambda c, f: first(c, segmentation=EMPTY), "annotations whose mask has no pixel", 4),
    "no mask and no box": (
        lambda c, f: first(c, segmentation=[], bbox=[]),
        "annotations without a mask and without a box, left out: 1",
        4,
    ),
    "box alone": (lambda c, f: no_mask(c), "objects that are a box without a mask, left out: 1 (1.png disk", 4),
    "box outside": (
        lambda c, f: first(c, bbox=[500, 500, 10, 10]),
        "annotations whose box lies outside the image, left out: 1 (1.png disk at 500, 500, 510, 510)",
        4,
    ),
    "box reaches out": (
        lambda c, f: first(c, bbox=[40, 20, 100, 20]),
        "boxes that reach beyond the image, cut at its edge: 1",
        5,
    ),
    "unknown category": (lambda c, f: first(c, category_id=77), "its category 77 is not listed", 4),
    "unknown image": (lambda c, f: first(c, image_id=77), "annotations of images that are not listed, left out: 1", 4),
    "name of a category empty": (
        lambda c, f: c["categories"][1].update(name=" "),
        "categories that cannot be read, left out with their annotations: 1",
        3,
    ),
    "an image without objects": (
        lambda c, f: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 2]),
        "images without an object of these classes: 1 (2.png)",
        4,
    ),
    "one class": (
        lambda c, f: c.update(annotations=[a for a in c["annotations"] if a["category_id"] != SQUARE]),
        "one class only, so that nothing teaches to tell it from others: 1 (disk)",
        3,
    ),
}


@pytest.mark.parametrize(("change", "line", "left"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_left_out_is_named(tmp_path: Path, change: Change, line: str, left: int) -> None:
    data, lines = read(tmp_path, change)
    assert any(line in own for own in lines), lines
    assert data.objects == left


STOPS: dict[str, tuple[Change, str]] = {
    "no images": (lambda c, f: c.update(images=[], annotations=[]), "lists no image"),
    "no annotations": (lambda c, f: c.update(annotations=[]), "has no object to learn from"),
    "all images missing": (
        lambda c, f: [path.unlink() for path in f.glob("*.png")],
        "has no image that can be read; images that are missing, left out: 3",
    ),
    "all ids wrong": (lambda c, f: everywhere(c, image_id=77), "none of its 5 annotations is of an image"),
    "all categories wrong": (lambda c, f: everywhere(c, category_id=77), "has no object to learn from; annotations"),
    "no categories": (lambda c, f: c.update(categories=[]), "has no class with a name"),
    "all names empty": (
        lambda c, f: [entry.update(name="") for entry in c["categories"]],
        "has no class with a name; categories that cannot be read",
    ),
    "boxes alone": (
        lambda c, f: [no_mask(c, i) for i in range(5)],
        "has no object to learn from; annotations that are a box without a mask: 5",
    ),
    "not COCO": (lambda c, f: c.clear(), "must hold 'categories'"),
}


@pytest.mark.parametrize(("change", "message"), STOPS.values(), ids=STOPS)
def test_what_leaves_nothing_stops(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(ResultError) as error:
        read(tmp_path, change)
    assert message in str(error.value)


def test_clean_data_has_no_notes(tmp_path: Path) -> None:
    data, lines = read(tmp_path)
    assert lines == []
    assert describe(data) == "3 images, 5 objects, 2 classes (disk 3, square 2)"


def test_boxes_are_enough_for_a_detector(tmp_path: Path) -> None:
    data, _ = read(tmp_path, lambda c, f: no_mask(c), needed="box")
    assert data.objects == 5


def test_chosen_classes(tmp_path: Path) -> None:
    data, _ = read(tmp_path, classes=["A Square"])
    assert data.classes == ("square",) and data.objects == 2 and len(data.images) == 3
    with pytest.raises(ConfigError, match="no class 'squar'; there is 'square'"):
        read(tmp_path, classes=["squar"])
    with pytest.raises(ConfigError, match="no such folder of images"):
        read(tmp_path, images=str(tmp_path / "nowhere"))


def test_data_to_measure_takes_the_learned_classes(tmp_path: Path) -> None:
    data, _ = read(tmp_path, measured=("A Disk", "star"))
    assert data.classes == ("A Disk",) and data.objects == 3
    with pytest.raises(ResultError, match="has no object to learn from"):
        read(tmp_path, measured=("star",))


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = tmp_path / "checked.json"
    before, _ = read(tmp_path / "data", checked=checked)
    decoded = []
    original = check.decode_image
    monkeypatch.setattr(check, "decode_image", lambda data, file: decoded.append(file) or original(data, file))
    notes = Notes()
    source = tmp_path / "data" / "instances.json"
    Image.new("RGB", SIZE[::-1], "red").save(tmp_path / "data" / "2.png")  # changed meanwhile
    after = check.read_training_data(source, notes, needed="mask", checked=checked)
    assert decoded == ["2.png"]
    assert [image.size for image in after.images] == [image.size for image in before.images]
    assert after.fingerprint != before.fingerprint
    checked.write_text("damaged")
    assert check.read_training_data(source, notes, needed="mask", checked=checked).fingerprint == after.fingerprint


def test_a_run_is_training_data(tmp_path: Path) -> None:
    coco = draw(tmp_path / "images", 2)
    run = Run(source=str(tmp_path / "images"), phrases=("a disk",))
    (rle,) = encode_rle(disk(*SIZE, 51, 36, 16)[None])
    scores = np.ones(1, np.float32)
    instances = Instances.from_masks(("a disk",), SIZE, [rle], np.zeros(1, np.int64), scores, "detector")
    with open_run(tmp_path / "run", run) as writer:
        for entry in coco["images"]:
            info = ImageInfo(file=entry["file_name"], width=SIZE[1], height=SIZE[0])
            writer.append(Record(image=info, instances=instances))
    data = check.read_training_data(tmp_path / "run", Notes(), needed="mask")
    assert [one.label for image in data.images for one in image.objects] == ["a disk"] * 2
    assert data.images[0].open().size == SIZE[::-1]
    with pytest.raises(ResultError, match="has no image that a person has confirmed"):
        check.read_training_data(tmp_path / "run", Notes(), needed="mask", accepted_only=True)
    with pytest.raises(GroundedError, match=r"folder without run\.json"):
        check.read_training_data(tmp_path / "images", Notes(), needed="mask")


def test_holding_out(tmp_path: Path) -> None:
    data, _ = read(tmp_path)
    learned, held = hold_out(data, 0.1)
    assert len(held.images) == 1 and len(learned.images) == 2
    turned = TrainingData(data.images[::-1], data.classes)
    assert hold_out(turned, 0.1)[1].images == held.images
    assert len(hold_out(data, 0.9)[0].images) == 1
    with pytest.raises(ResultError, match="there must be two with objects, got 1"):
        hold_out(TrainingData(data.images[:1], data.classes), 0.1)

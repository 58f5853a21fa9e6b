import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.labelling.formats import corrections, label_studio_rle
from grounded.labelling.formats.annotations import AnnotatedImage, Annotation
from grounded.labelling.formats.coco_file import segmentation_to_rle
from grounded.labelling.formats.outlines import outlines
from grounded.labelling.review import log
from grounded.labelling.review.log import Review
from segany.utils.rle import encode_rle
from tests.data import disk
from tests.grounded.labelling.formats import made, runs
from tests.grounded.output.test_polygons import MASKS


def annotated(path: Path) -> None:
    """Do what a person does who looks at the predictions of all tasks and submits them."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = [{**prediction, "was_cancelled": False} for prediction in task.pop("predictions")]
    path.write_text(json.dumps(tasks))


def as_coco(folder: Path) -> tuple[Path, str]:
    return runs.exported(folder, "coco") / "instances.json", "coco"


def as_labelme(folder: Path, name: str = "labelme") -> tuple[Path, str]:
    return runs.exported(folder, name), "labelme"


def as_label_studio(folder: Path, name: str = "label-studio") -> tuple[Path, str]:
    path = runs.exported(folder, name) / "tasks.json"
    annotated(path)
    return path, "label-studio"


FORMATS: dict[str, Callable[[Path], tuple[Path, str]]] = {
    "coco": as_coco,
    "labelme": as_labelme,
    "labelme-mask": lambda folder: as_labelme(folder, "labelme-mask"),
    "label-studio": as_label_studio,
    "label-studio-polygon": lambda folder: as_label_studio(folder, "label-studio-polygon"),
}
each = pytest.mark.parametrize("export", FORMATS.values(), ids=FORMATS)


@each
def test_what_nobody_changed_is_accepted_once(export: Callable, tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, name = export(folder)
    before = runs.before(folder)
    result, notes = runs.taken_back(path, folder, name)
    with_pixels = sum(len(made.shown(record)) for record in made.ALL)
    assert (result.images, result.refused) == (len(made.ALL), {})
    assert result.actions == {"accept": with_pixels}
    assert notes.lines() == []
    after = runs.corrected(folder)
    for file, pairs in before.items():
        runs.assert_equal(after[file], pairs)
    again, _ = runs.taken_back(path, folder, name)
    assert (again.images, again.actions) == (len(made.ALL), {})


def change(data: dict, other: np.ndarray) -> None:
    """Of four shapes relabel the first, redraw the second, remove the third, and add one."""
    first, second, third, _ = data["shapes"]
    first["label"] = "a red dog"
    second["points"] = [[20, 20], [30, 20], [30, 28], [20, 28]]
    data["shapes"].remove(third)
    data["shapes"].append({"label": "a dog", "points": [[1, 1], [4, 1], [4, 4], [1, 4]], "shape_type": "polygon"})


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((30, 40), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_changes_in_labelme(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    out, name = as_labelme(folder)
    path = out / "overlapping.json"
    data = json.loads(path.read_text())
    change(data, box(1, 4, 1, 4))
    path.write_text(json.dumps(data))
    before = runs.before(folder)["overlapping.jpg"]
    expected = [
        ("a red dog", before[0][1]),
        (before[1][0], box(20, 28, 20, 30)),
        before[3],
        ("a dog", box(1, 4, 1, 4)),
    ]
    result, notes = runs.taken_back(path, folder, name)
    # The relabelled one was looked at as well: its mask came back as it was.
    assert result.actions == {"accept": 2, "relabel": 1, "redraw": 1, "reject": 1, "add": 1}
    assert notes.lines() == [
        f"{corrections.NEW_LABELS}: 1 (a red dog)",
        f"{corrections.MISSING}: {len(made.ALL) - 1}",
    ]
    runs.assert_equal(runs.corrected(folder)["overlapping.jpg"], expected)
    again, _ = runs.taken_back(path, folder, name)
    assert again.actions == {}
    runs.assert_equal(runs.corrected(folder)["overlapping.jpg"], expected)
    # What is exported after that and comes back once more has nothing new either, though rows have moved.
    result, _ = runs.taken_back(as_labelme(folder)[0] / "overlapping.json", folder, name)
    assert result.actions == {}


def test_changes_in_label_studio(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, name = as_label_studio(folder)
    tasks = json.loads(path.read_text())
    (task,) = [task for task in tasks if task["data"]["image_name"] == "overlapping.jpg"]
    first, second, third, _ = task["annotations"][0]["result"]
    first["value"]["brushlabels"] = ["ein Stück Käse 猫"]
    second["value"]["rle"] = label_studio_rle.encode(box(20, 28, 20, 30))
    task["annotations"][0]["result"].remove(third)
    path.write_text(json.dumps([task]))
    before = runs.before(folder)["overlapping.jpg"]
    result, _ = runs.taken_back(path, folder, name)
    assert result.actions == {"accept": 2, "relabel": 1, "redraw": 1, "reject": 1}
    expected = [("ein Stück Käse 猫", before[0][1]), (before[1][0], box(20, 28, 20, 30)), before[3]]
    runs.assert_equal(runs.corrected(folder)["overlapping.jpg"], expected)


def test_changes_in_coco_are_told_by_overlap(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, name = as_coco(folder)
    data = json.loads(path.read_text())
    (image,) = [image["id"] for image in data["images"] if image["file_name"] == "overlapping.jpg"]
    first, second, third, _ = [entry for entry in data["annotations"] if entry["image_id"] == image]
    first["category_id"] = 2
    grown = disk(30, 40, 12, 15, 6)
    second["segmentation"] = encode_rle(grown[None])[0]
    data["annotations"].remove(third)
    path.write_text(json.dumps(data))
    before = runs.before(folder)["overlapping.jpg"]
    runs.taken_back(path, folder, name)
    expected = [("ein Stück Käse 猫", before[0][1]), (before[1][0], grown), before[3]]
    runs.assert_equal(runs.corrected(folder)["overlapping.jpg"], expected)


def test_what_was_not_exported_is_not_rejected(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    result, _ = runs.taken_back(runs.exported(folder, "labelme", at_most=1), folder)
    assert set(result.actions) == {"accept"}
    path, name = as_coco(folder)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "annotations": []}))
    result, _ = runs.taken_back(path, folder, name, keep_missing=True)
    assert result.actions == {}
    result, _ = runs.taken_back(path, folder, name)
    assert result.actions == {"reject": sum(len(made.shown(record)) for record in made.ALL)}


def changed_coco(folder: Path, change: Callable[[list[dict]], object]) -> Path:
    """Export a run of one image, with these changes of its annotations."""
    path, _ = as_coco(folder)
    data = json.loads(path.read_text())
    change(data["annotations"])
    path.write_text(json.dumps(data))
    return path


def to_box(entry: dict, **changes: object) -> None:
    del entry["segmentation"]
    entry.update(changes)


@pytest.mark.parametrize(
    ("change", "actions", "note"),
    [
        pytest.param(lambda found: found[0]["segmentation"].update(counts="51"), 3, None, id="mask"),
        pytest.param(lambda found: found[0].update(category_id=99), 3, None, id="category"),
        pytest.param(lambda found: found[0].update(image_id=99), 3, None, id="stray"),
        pytest.param(lambda found: (found.pop(), to_box(found[0])), 2, None, id="a box, and one removed"),
        pytest.param(lambda found: [to_box(one) for one in found], 0, None, id="boxes"),
        pytest.param(
            lambda found: to_box(found[0], bbox=[36, 26, 2, 2]), 3, corrections.UNMATCHED_BOXES, id="a box elsewhere"
        ),
        pytest.param(lambda found: to_box(found[0], bbox=None), 3, None, id="neither mask nor box"),
    ],
)
def test_what_cannot_be_read_was_not_deleted(change: Callable, actions: int, note: str | None, tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["overlapping"]])
    result, notes = runs.taken_back(changed_coco(folder, change), folder, "coco")
    assert result.actions == ({"accept": actions} if actions else {})
    assert f"{corrections.INCOMPLETE}: 1 (overlapping.jpg)" in notes.lines()
    assert note is None or f"{note}: 1 (overlapping.jpg)" in notes.lines()
    assert len(runs.corrected(folder)["overlapping.jpg"]) == 4


def test_a_box_relabels_the_instance_that_it_overlaps(tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["overlapping"]])
    path = changed_coco(folder, lambda found: to_box(found[0], category_id=2))
    result, _ = runs.taken_back(path, folder, "coco")
    assert result.actions == {"accept": 3, "relabel": 1}
    assert runs.corrected(folder)["overlapping.jpg"][0][0] == "ein Stück Käse 猫"
    again, _ = runs.taken_back(path, folder, "coco")
    assert again.actions == {}


@pytest.mark.parametrize(("image_id", "of"), [("7", 7), (7, "7"), ("007", 7)])
def test_ids_of_two_kinds(image_id: object, of: object, tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["overlapping"]])
    path, _ = as_coco(folder)
    data = json.loads(path.read_text())
    data["images"][0]["id"] = image_id
    for entry in data["annotations"]:
        entry["image_id"] = of
    path.write_text(json.dumps(data))
    result, _ = runs.taken_back(path, folder, "coco")
    assert result.actions == {"accept": 4}


def test_damaged_records_of_the_run_are_named(tmp_path: Path):
    folder = runs.write(tmp_path / "run", [made.RECORDS["one"], made.RECORDS["holes"]])
    path, _ = as_coco(folder)
    (shard,) = (folder / "records").glob("*.jsonl")
    _, second = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"{}\n" + second.replace(b'"counts":"', b'"counts":"1'))
    result, notes = runs.taken_back(path, folder, "coco")
    assert "the mask of instance 0 cannot be used" in result.refused["holes.jpg"]
    assert any(line.startswith(corrections.DAMAGED_RUN) for line in notes.lines())


def test_an_instance_that_was_rejected_meanwhile_is_back(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, name = as_labelme(folder)
    log.append_reviews(folder, Review(file="one.jpg", action="reject", instance=0))
    log.append_reviews(
        folder, Review(file="holes.jpg", action="redraw", instance=0, mask=encode_rle(box(1, 9, 1, 9)[None])[0])
    )
    result, _ = runs.taken_back(path, folder, name)
    assert result.actions["accept"] == sum(len(made.shown(record)) for record in made.ALL) - 1
    assert (result.actions["redraw"], result.actions["reject"], result.actions["add"]) == (1, 0, 0)
    after = runs.corrected(folder)
    runs.assert_equal(after["one.jpg"], runs.before(folder)["one.jpg"])
    runs.assert_equal(after["holes.jpg"], runs.before(folder)["holes.jpg"])


def image(record_size: tuple[int, int], *annotations: Annotation, **more: object) -> AnnotatedImage:
    return AnnotatedImage(names=("a.jpg",), image_size=record_size, annotations=annotations, **more)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param(
            image((30, 40)), r"must be of 30 x 40 pixels, got 40 x 30: it was annotated as stored", id="turned"
        ),
        pytest.param(image((10, 20)), r"must be of 30 x 40 pixels, got 20 x 10$", id="another size"),
        pytest.param(
            image((40, 30), Annotation(label="...", rle=encode_rle(box(1, 2, 1, 2)[None])[0])),
            r"a label must be a phrase, got '\.\.\.'",
            id="no word",
        ),
    ],
)
def test_what_cannot_be_compared(found: AnnotatedImage, message: str):
    with pytest.raises(ResultError, match=message):
        corrections.check_comparable(found, made.RECORDS["turned"])
    corrections.check_comparable(image((40, 30)), made.RECORDS["turned"])
    corrections.check_comparable(replace(image((40, 30)), image_size=None), made.RECORDS["turned"])


def test_images_that_are_not_imported(tmp_path: Path):
    folder = runs.write(tmp_path / "run")
    path, name = as_coco(folder)
    data = json.loads(path.read_text())
    one, *_ = (image for image in data["images"] if image["file_name"] == "one.jpg")
    data["images"] += [
        {**one, "id": 100},
        {**one, "id": 101, "file_name": "unknown.jpg"},
        {**one, "id": 102, "file_name": "holes.jpg"},
    ]
    (holes,) = (image for image in data["images"] if image["file_name"] == "holes.jpg" and image["id"] != 102)
    holes["width"] = 41
    data["annotations"] = [entry for entry in data["annotations"] if entry["image_id"] != holes["id"]]
    path.write_text(json.dumps(data))
    result, notes = runs.taken_back(path, folder, name)
    assert result.refused == {
        "one.jpg": "the image is annotated twice; the first counts",
        "holes.jpg": "the image must be of 40 x 30 pixels, got 41 x 30",
    }
    assert notes.lines() == [f"{corrections.UNKNOWN}: 1 (unknown.jpg)"]


def known(*masks: np.ndarray, phrase: str = "a dog", kept: bool = True) -> list[corrections.ReviewedInstance]:
    rles = [encode_rle(mask[None])[0] for mask in masks]
    return [
        corrections.ReviewedInstance(row, phrase, rle, frozenset({f"m{row}"}), kept) for row, rle in enumerate(rles)
    ]


def drawn(*masks: np.ndarray, label: str = "a dog", marks: tuple = ()) -> list[Annotation]:
    marks = marks or (None,) * len(masks)
    return [
        Annotation(label=label, rle=encode_rle(mask[None])[0], mark=mark)
        for mask, mark in zip(masks, marks, strict=True)
    ]


A, B, BIGGER, C = box(0, 10, 0, 10), box(0, 10, 20, 30), box(0, 12, 0, 10), box(20, 30, 0, 10)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param(known(A), [], {}, id="nothing annotated"),
        pytest.param([], drawn(A), {}, id="nothing known"),
        pytest.param(known(A, B), drawn(B, A), {0: 1, 1: 0}, id="another order"),
        pytest.param(known(A), drawn(BIGGER), {0: 0}, id="grown"),
        pytest.param(known(A), drawn(C), {}, id="elsewhere"),
        pytest.param(known(A), drawn(C, marks=("m0",)), {0: 0}, id="moved away, but marked"),
        pytest.param(known(A), drawn(C, marks=("m0",), label="a cat"), {}, id="moved away and relabelled"),
        pytest.param(known(A), drawn(BIGGER, A, marks=("m0", "m0")), {0: 1}, id="copied"),
        pytest.param(known(A), drawn(A, BIGGER), {0: 0}, id="the better one"),
        pytest.param(known(A, BIGGER), drawn(BIGGER, marks=("m0",)), {0: 0}, id="the mark before the overlap"),
        pytest.param(known(A) + known(A, phrase="a cat"), drawn(A, label="a cat"), {1: 0}, id="the same mask twice"),
        pytest.param(known(A, kept=False) + known(A), drawn(A), {1: 0}, id="rejected and kept"),
    ],
)
def test_pairs(before: list, after: list, expected: dict):
    assert corrections.pair_annotations(before, after) == expected


@pytest.mark.parametrize("name", [name for name, mask in MASKS.items() if mask.sum() > 60 and "noise" not in name])
def test_masks_that_pycocotools_has_drawn_from_their_outlines_are_the_same(name: str):
    mask = MASKS[name]
    (rle,) = encode_rle(mask[None])
    redrawn = segmentation_to_rle([ring.ravel().tolist() for ring in outlines(rle)], mask.shape)
    assert corrections.is_same_mask(rle, Annotation(label="a", rle=redrawn, is_rounded=True))


@pytest.mark.parametrize(
    ("after", "is_rounded", "expected"),
    [
        pytest.param(box(5, 25, 5, 25), False, True, id="the same"),
        pytest.param(box(5, 25, 5, 26), False, False, id="a column more"),
        pytest.param(box(5, 25, 5, 26), True, True, id="a column more, rounded"),
        pytest.param(box(5, 25, 5, 27), True, False, id="two columns more, rounded"),
        pytest.param(box(5, 25, 5, 25) & ~box(14, 16, 14, 16), True, False, id="a hole, rounded"),
        pytest.param(box(0, 0, 0, 0), True, False, id="empty"),
    ],
)
def test_is_same_mask(after: np.ndarray, is_rounded: bool, expected: bool):
    before, rle = encode_rle(np.stack([box(5, 25, 5, 25), after]))
    assert corrections.is_same_mask(before, Annotation(label="a", rle=rle, is_rounded=is_rounded)) == expected


def test_empty_masks_are_the_same():
    (nothing,) = encode_rle(box(0, 0, 0, 0)[None])
    assert corrections.is_same_mask(nothing, Annotation(label="a", rle=nothing))

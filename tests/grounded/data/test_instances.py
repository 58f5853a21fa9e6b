import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.errors import ResultError
from segany.utils.rle import encode_rle
from tests.data import build_unchecked, disk

MASKS = np.stack([disk(30, 40, 10, 10, 6), disk(30, 40, 25, 12, 9), disk(30, 40, 30, 20, 4) | disk(30, 40, 5, 25, 3)])
NAN = float("nan")


def parts(**changes: object) -> dict:
    values: dict = {
        "phrases": ("a dog", "pizza", "猫"),
        "image_size": (30, 40),
        "phrase_ids": np.array([1, 0, 1]),
        "boxes": np.array([[4, 4, 17, 17], [16.25, 3, 35, 22], [2, 16, 35, 29]], np.float32),
        "rles": tuple(encode_rle(MASKS)),
        "scores": np.array([0.91, 0.7, 0.3], np.float32),
        "detector_scores": np.array([0.91, 0.7, 0.3], np.float32),
        "clip_scores": np.full(3, NAN, np.float32),
        "predicted_iou": np.array([0.8, 1.02, NAN], np.float32),
        "phrase_scores": np.array([[0.1, 0.91, 0], [0.7, 0.2, 0.1], [NAN, 0.3, 0.2]], np.float32),
        "sources": np.array(["detector", "text", "automatic"]),
    }
    return {**values, **changes}


def build(**changes: object) -> Instances:
    return Instances(**parts(**changes))


def assert_same(actual: Instances, expected: Instances):
    assert (actual.phrases, actual.image_size, actual.rles) == (expected.phrases, expected.image_size, expected.rles)
    names = [
        "phrase_ids",
        "boxes",
        "scores",
        "detector_scores",
        "best_token_scores",
        "clip_scores",
        "predicted_iou",
        "phrase_scores",
        "sources",
    ]
    for name in names:
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)


def test_scores_of_the_best_token():
    assert np.isnan(build().best_token_scores).all()
    given = build(best_token_scores=np.array([0.95, 0.8, NAN], np.float32))
    entries = given.to_dict()["instances"]
    assert [entry["best_token_score"] for entry in entries] == [0.95, 0.8, None]
    assert_same(Instances.from_dict(given.to_dict()), given)
    older = given.to_dict()
    for entry in older["instances"]:
        del entry["best_token_score"]
    assert_same(Instances.from_dict(older), build())
    np.testing.assert_array_equal(
        Instances.concatenate([given[[1]], build()[[2]]]).best_token_scores[0], np.float32(0.8)
    )


def test_notes_are_of_the_query():
    noted = build(notes=("the detector cannot read '猫'",))
    assert noted[[0]].notes == noted.sorted().notes == noted.notes
    assert noted.to_dict()["notes"] == list(noted.notes)
    assert Instances.from_dict(noted.to_dict()).notes == noted.notes
    assert "notes" not in build().to_dict()


def test_labels_and_masks():
    instances = build()
    assert instances.labels.tolist() == ["pizza", "a dog", "pizza"]
    assert set(map(type, instances.labels)) == {str}
    assert (instances.labels == "pizza").tolist() == [True, False, True]
    assert (Instances.empty(("a", "b"), (2, 3)).labels == "a").shape == (0,)
    assert instances.masks.dtype == bool
    np.testing.assert_array_equal(instances.masks, MASKS)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        pytest.param(1, [1], id="int"),
        pytest.param(slice(None, None, -1), [2, 1, 0], id="slice"),
        pytest.param([2, 0], [2, 0], id="list"),
        pytest.param([], [], id="empty list"),
        pytest.param(np.array([False, True, True]), [1, 2], id="bool array"),
    ],
)
def test_indexing(index: object, rows: list[int]):
    instances = build()
    selected = instances[index]
    assert len(selected) == len(rows)
    assert selected.phrases == instances.phrases
    assert selected.labels.tolist() == [instances.labels[row] for row in rows]
    np.testing.assert_array_equal(selected.boxes, instances.boxes[rows])
    np.testing.assert_array_equal(selected.phrase_scores, instances.phrase_scores[rows])
    np.testing.assert_array_equal(selected.masks, MASKS[rows])


def test_selection_by_label():
    instances = build()
    assert len(instances[instances.labels == "pizza"]) == 2
    assert len(instances[instances.labels == "bicycle"]) == 0
    assert len(instances[instances.phrase_ids == 2]) == 0
    with pytest.raises(IndexError):
        instances[3]


def test_iteration_gives_values_of_length_one():
    assert [one.labels.tolist() for one in build()] == [["pizza"], ["a dog"], ["pizza"]]


def test_sorted_is_stable():
    shuffled = build(scores=np.array([0.5, 0.9, 0.5], np.float32))
    assert shuffled.sorted().predicted_iou.tolist()[:2] == shuffled.predicted_iou[[1, 0]].tolist()
    assert shuffled.sorted().sources.tolist() == ["text", "detector", "automatic"]


def test_concatenate():
    instances = build()
    joined = Instances.concatenate([instances[2:], Instances.empty(instances.phrases, (30, 40)), instances[:2]])
    assert_same(joined, instances[[2, 0, 1]])


@pytest.mark.parametrize(
    ("others", "got"),
    [
        pytest.param(None, "no part", id="none"),
        pytest.param([Instances.empty(("a dog",), (30, 40))], "2 different ones", id="other phrases"),
        pytest.param([build()[:0], Instances.empty(("a",), (3, 4))], "2 different ones", id="other size"),
    ],
)
def test_instances_that_cannot_be_joined(others: list[Instances] | None, got: str):
    with pytest.raises(ValueError, match=f"with the same phrases and image size, got {got}"):
        Instances.concatenate([] if others is None else [build(), *others])


def test_from_masks():
    rles = encode_rle(MASKS)
    made = Instances.from_masks(("a", "b"), (30, 40), rles, np.array([1, 0, 1]), np.array([0.5, 0.25, 0.75]), "text")
    assert_same(made[:0], Instances.empty(("a", "b"), (30, 40)))
    assert made.labels.tolist() == ["b", "a", "b"]
    rows, columns = np.nonzero(MASKS[1])
    assert made.boxes[1].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert made.scores.tolist() == made.predicted_iou.tolist() == [0.5, 0.25, 0.75]
    assert np.isnan(made.detector_scores).all() and np.isnan(made.clip_scores).all()
    assert np.isnan(made.phrase_scores).all() and made.phrase_scores.shape == (3, 2)
    assert made.sources.tolist() == ["text"] * 3


@pytest.mark.parametrize(
    "instances",
    [
        pytest.param(build(), id="three"),
        pytest.param(build()[1], id="one"),
        pytest.param(Instances.empty(("a dog", "pizza"), (30, 40)), id="none"),
    ],
)
def test_json_round_trip(instances: Instances, tmp_path: Path):
    path = tmp_path / "result.json"
    instances.to_json(path, image={"file": "picnic.png"}, models={"detector": "bundled:detector", "clip": None})
    assert_same(Instances.from_json(path), instances)
    assert_same(Instances.from_dict(instances.to_dict()), instances)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["image"] == {"file": "picnic.png", "width": 40, "height": 30}
    assert data["models"] == {"detector": "bundled:detector", "clip": None}


def test_json_form():
    entry = build().to_dict()["instances"][0]
    assert entry.pop("mask") == build().rles[0]
    assert entry == {
        "phrase": "pizza",
        "phrase_id": 1,
        "box": [4.0, 4.0, 17.0, 17.0],
        "score": 0.91,  # and not the 0.9100000262260437 of float32 in full
        "detector_score": 0.91,
        "best_token_score": None,
        "clip_score": None,
        "predicted_iou": 0.8,
        "phrase_scores": [0.1, 0.91, 0.0],
        "source": "detector",
    }


def test_masks_are_read_by_pycocotools():
    for entry, mask in zip(json.loads(json.dumps(build().to_dict()))["instances"], MASKS, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(entry["mask"]).astype(bool), mask)


def test_results_without_phrase_scores_are_read():
    data = build().to_dict()
    for entry in data["instances"]:
        del entry["phrase_scores"]
    assert np.isnan(Instances.from_dict(data).phrase_scores).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda data: data["instances"][1]["phrase_scores"].pop(), "instance 1 must have a score", id="few"
        ),
        pytest.param(
            lambda data: data.update(instances=data["instances"] * 2000, phrases=["a"] * 20_000),
            "6000 instances of 20000 phrases are more",
            id="memory",
        ),
    ],
)
def test_phrase_scores_must_fit(change: Callable[[dict], None], message: str):
    data = build().to_dict()
    change(data)
    with pytest.raises(ResultError, match=message):
        Instances.from_dict(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"boxes": np.zeros((3, 5))}, r"boxes must be \(3, 4\), got \(3, 5\)", id="boxes"),
        pytest.param({"scores": np.zeros(2)}, r"scores must be \(3,\), got \(2,\)", id="scores"),
        pytest.param({"phrase_scores": np.zeros((3, 2))}, r"phrase_scores must be \(3, 3\), got \(3, 2\)", id="matrix"),
        pytest.param({"phrase_ids": np.array([0, 1, 3])}, r"phrase_ids must lie in \[0, 3\), got 0 to 3", id="ids"),
        pytest.param(
            {"sources": np.array(["detector", "text", "guess"])}, "sources must be .* got 'guess'", id="source"
        ),
        pytest.param(
            {"image_size": (40, 30)}, r"rles must be of image size \[40, 30\], got \[30, 40\] at 0", id="size"
        ),
    ],
)
def test_wrong_parts(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_unchecked(Instances, **parts(**changes))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param({}, "must hold the key 'phrases'", id="empty"),
        pytest.param({"phrases": [], "instances": []}, "must hold the key 'image'", id="no image"),
        pytest.param({"phrases": ["dog"], "instances": [{}]}, "must hold the key 'score'", id="empty instance"),
        pytest.param({"phrases": ["dog"], "instances": [3]}, "not a result", id="instance is a number"),
        pytest.param({"phrases": 3, "instances": []}, "not a result", id="phrases are a number"),
    ],
)
def test_not_a_result(data: dict, message: str):
    with pytest.raises(ResultError, match=message):
        Instances.from_dict(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot read .*result.json: No such file", id="absent"),
        pytest.param("{", "result.json is not JSON", id="not JSON"),
        pytest.param("[]", "result.json: not a result", id="a list"),
        pytest.param("{}", "result.json: a result must hold the key", id="another file"),
    ],
)
def test_unreadable_files(content: str | None, message: str, tmp_path: Path):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ResultError, match=message):
        Instances.from_json(path)

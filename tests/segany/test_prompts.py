import numpy as np
import pytest
import torch

from segany.errors import PromptError
from segany.prompts import Prompts

BOXES = [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]
POINTS = [[[1, 2]], [[3, 4]], [[5, 6]]]
LABELS = [[1], [0], [-1]]


@pytest.mark.parametrize(
    "boxes",
    [BOXES, np.array(BOXES), np.array(BOXES, dtype=np.float16), torch.tensor(BOXES), torch.tensor(BOXES).int()],
    ids=["list", "float64 array", "float16 array", "tensor", "integer tensor"],
)
def test_values_become_float32_tensors(boxes):
    prompts = Prompts(boxes=boxes)
    assert prompts.boxes.dtype == torch.float32
    assert prompts.boxes.tolist() == BOXES


def test_labels_become_integers():
    prompts = Prompts(points=POINTS, point_labels=np.array(LABELS, dtype=np.float64))
    assert prompts.point_labels.dtype == torch.int64
    assert prompts.point_labels.tolist() == LABELS


@pytest.mark.parametrize(
    "fields",
    [
        {"boxes": []},
        {"boxes": np.zeros((0, 4))},
        {"points": [], "point_labels": []},
        {"points": np.zeros((0, 3, 2)), "point_labels": np.zeros((0, 3))},
        {"masks": torch.zeros(0, 1, 8, 8)},
        {"text": torch.zeros(0, 1, 16)},
    ],
    ids=["box list", "box array", "point list", "point array", "masks", "text"],
)
def test_no_prompts_are_valid(fields):
    prompts = Prompts(**fields)
    assert len(prompts) == 0
    assert len(prompts[:]) == 0
    assert list(prompts) == []


def test_prompts_without_points_in_them_are_valid():
    assert len(Prompts(points=np.zeros((2, 0, 2)), point_labels=np.zeros((2, 0)))) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "at least one of points"),
        ({"boxes": np.zeros((3, 5))}, r"boxes must be \(n, 4\), got \(3, 5\)"),
        ({"boxes": np.zeros(4)}, r"boxes must be \(n, 4\), got \(4,\)"),
        ({"points": np.zeros((3, 2)), "point_labels": np.zeros(3)}, r"points must be \(n, k, 2\), got \(3, 2\)"),
        ({"masks": np.zeros((2, 8, 8))}, r"masks must be \(n, 1, h, w\), got \(2, 8, 8\)"),
        ({"masks": np.zeros((2, 3, 8, 8))}, r"masks must be \(n, 1, h, w\), got \(2, 3, 8, 8\)"),
        ({"text": np.zeros((2, 8))}, r"text must be \(n, t, c\), got \(2, 8\)"),
        ({"points": POINTS}, "given together"),
        ({"point_labels": LABELS}, "given together"),
        (
            {"points": POINTS, "point_labels": np.zeros((3, 2))},
            r"point_labels must be \(3, 1\) like points, got \(3, 2\)",
        ),
        ({"points": POINTS, "point_labels": [[1], [2], [-3]]}, r"must be 1, 0 or -1, got \[-3, 2\]"),
        ({"boxes": BOXES, "text": np.zeros((2, 1, 8))}, r"same number of prompts, got \{'boxes': 3, 'text': 2\}"),
        ({"boxes": [[0, 0, np.nan, 1]]}, "boxes must be finite"),
        ({"points": [[[np.inf, 0]]], "point_labels": [[1]]}, "points must be finite"),
        ({"boxes": [[0, 1, 2, 3], [0, 1]]}, r"boxes must be a rectangular \(n, 4\) array"),
    ],
    ids=[
        "nothing",
        "box width",
        "box without n",
        "points without n",
        "mask without channel",
        "mask channels",
        "text without t",
        "points without labels",
        "labels without points",
        "labels of another shape",
        "unknown labels",
        "different n",
        "nan",
        "infinity",
        "ragged",
    ],
)
def test_bad_prompts_are_refused(fields, message):
    with pytest.raises(PromptError, match=message):
        Prompts(**fields)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(1, None), [1, 2]),
        (slice(0, 0), []),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([False, True, False]), [1]),
        ([1, 1], [1, 1]),
        ([], []),
    ],
    ids=[
        "first",
        "last",
        "numpy integer",
        "slice",
        "empty slice",
        "tensor",
        "mask",
        "numpy mask",
        "list",
        "empty list",
    ],
)
def test_indexing_selects_prompts(index, expected):
    prompts = Prompts(points=POINTS, point_labels=LABELS, boxes=BOXES)
    chosen = prompts[index]
    assert isinstance(chosen, Prompts)
    assert len(chosen) == len(expected)
    assert chosen.boxes.tolist() == [BOXES[i] for i in expected]
    assert chosen.points.tolist() == [POINTS[i] for i in expected]
    assert chosen.point_labels.tolist() == [LABELS[i] for i in expected]
    assert chosen.masks is None


@pytest.mark.parametrize("index", [3, -4])
def test_index_out_of_range(index):
    with pytest.raises(IndexError, match="out of range for 3 prompts"):
        Prompts(boxes=BOXES)[index]


def test_iteration_gives_single_prompts():
    assert [prompt.boxes.tolist() for prompt in Prompts(boxes=BOXES)] == [[box] for box in BOXES]


def test_to_moves_every_field():
    moved = Prompts(points=POINTS, point_labels=LABELS, boxes=BOXES).to("meta")
    assert {moved.points.device.type, moved.point_labels.device.type, moved.boxes.device.type} == {"meta"}


def test_prompts_cannot_be_changed():
    with pytest.raises(AttributeError):
        Prompts(boxes=BOXES).boxes = None

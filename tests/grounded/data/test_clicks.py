import numpy as np
import pytest
import torch

from grounded.data.clicks import assign_points, validate_points
from grounded.errors import PromptError

SIZE = (48, 64)


@pytest.mark.parametrize(
    "convert",
    [list, np.array, lambda points: np.array(points, np.int64), torch.tensor],
    ids="list array int tensor".split(),
)
def test_valid_points(convert):
    points, labels = validate_points(convert([[0, 0], [64, 48], [10, 20]]), convert([1, 0, 1]), SIZE)
    assert points.tolist() == [[0, 0], [64, 48], [10, 20]] and points.dtype == torch.float32
    assert labels.tolist() == [1, 0, 1] and labels.dtype == torch.int64


@pytest.mark.parametrize("points", [[], np.zeros((0, 2))], ids=["list", "array"])
def test_no_points(points):
    points, labels = validate_points(points, [], SIZE)
    assert points.shape == (0, 2) and labels.shape == (0,)


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([[1, 2, 3]], [1], r"points must be \(k, 2\), got \(1, 3\)"),
        ([1, 2], [1], r"points must be \(k, 2\), got \(2,\)"),
        ([[1, 2]], [1, 0], r"labels must be one per point, \(1,\), got \(2,\)"),
        ([[1, 2]], [2], r"labels must be 1 \(foreground\) or 0 \(background\), got \[2.0\]"),
        ([[1, 2]], [0.5], "labels must be 1"),
        ([[1, 2]], [-1], "labels must be 1"),
        ([[1, float("nan")]], [1], "points must be finite"),
        ([[1, float("inf")]], [1], "points must be finite"),
        ([[1, 2], [65, 2]], [1, 1], r"points must lie in the picture of 64 x 48 pixels, got \[65.0, 2.0\]"),
        ([[1, 49]], [1], "points must lie in the picture"),
        ([[-1, 4]], [1], "points must lie in the picture"),
        ([[1, 2], [3]], [1, 1], "points must be numbers in a rectangular array"),
        ([["a", "b"]], [1], "points must be numbers"),
        ([[1, 2]], [None], "labels must be numbers"),
    ],
)
def test_other_points_are_refused(points, labels, message):
    with pytest.raises(PromptError, match=message):
        validate_points(points, labels, SIZE)


BOXES = np.array([[0, 0, 40, 40], [10, 10, 20, 20], [30, 30, 60, 45]], np.float32)


@pytest.mark.parametrize(
    ("points", "labels", "expected", "stray"),
    [
        ([[15, 15]], [1], [[], [([15, 15], 1)], []], []),
        ([[15, 15]], [0], [[([15, 15], 0)], [([15, 15], 0)], []], []),
        ([[35, 35]], [1], [[], [], [([35, 35], 1)]], []),
        ([[62, 2]], [1], [[], [], []], [0]),
        ([[62, 2]], [0], [[], [], []], []),
        (
            [[62, 2], [2, 2], [50, 40], [5, 5], [35, 32]],
            [1, 1, 1, 0, 0],
            [[([2, 2], 1), ([5, 5], 0), ([35, 32], 0)], [], [([50, 40], 1), ([35, 32], 0)]],
            [0],
        ),
        ([], [], [[], [], []], []),
    ],
    ids=["smallest box", "every box", "overlap", "stray", "background beside all", "several", "none"],
)
def test_assigned_points(points, labels, expected, stray):
    points, labels = np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int64)
    shared, kinds, outside = assign_points(BOXES, points, labels)
    assert outside == stray
    most = max(len(own) for own in expected)
    assert shared.shape == (3, most, 2) and kinds.shape == (3, most)
    for row, row_kinds, own in zip(shared, kinds, expected, strict=True):
        assert row_kinds.tolist() == [kind for _, kind in own] + [-1] * (most - len(own))
        assert row[: len(own)].tolist() == [point for point, _ in own]


def test_no_boxes():
    shared, kinds, stray = assign_points(np.zeros((0, 4), np.float32), np.ones((2, 2), np.float32), np.array([1, 0]))
    assert shared.shape == (0, 0, 2) and kinds.shape == (0, 0) and stray == [0]


def test_equal_boxes_share_no_foreground():
    _, kinds, _ = assign_points(BOXES[[1, 1]], np.array([[12, 12]], np.float32), np.array([1]))
    assert kinds.tolist() == [[1], [-1]]

import numpy as np
import pytest
import torch

from grounded.data.clicks import Clicks, validate_points
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
        ([[1, 2], [65, 2]], [1, 1], r"points must lie in the image of 64 x 48 pixels, got \[65.0, 2.0\]"),
        ([[1, 49]], [1], "points must lie in the image"),
        ([[-1, 4]], [1], "points must lie in the image"),
        ([[1, 2], [3]], [1, 1], "points must be numbers in a rectangular array"),
        ([["a", "b"]], [1], "points must be numbers"),
        ([[1, 2]], [None], "labels must be numbers"),
    ],
)
def test_other_points_are_refused(points, labels, message):
    with pytest.raises(PromptError, match=message):
        validate_points(points, labels, SIZE)


class TestRead:
    def test_no_labels_mean_foreground(self):
        clicks = Clicks.read([[1, 2], [3, 4]], None, SIZE)
        assert clicks.points.tolist() == [[1, 2], [3, 4]] and clicks.labels.tolist() == [1, 1]
        assert len(clicks) == 2

    @pytest.mark.parametrize("points", [None, []], ids=["none", "empty"])
    def test_no_points(self, points):
        assert len(Clicks.read(points, None, SIZE)) == 0

    def test_labels_alone(self):
        with pytest.raises(PromptError, match="point_labels need points, got none"):
            Clicks.read(None, [1], SIZE)

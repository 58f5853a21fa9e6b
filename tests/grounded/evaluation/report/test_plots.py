"""Diagrams: where they have ink, and that any input can be drawn."""

import numpy as np
import pytest
from PIL import Image

from grounded.evaluation.calibration import calibration
from grounded.evaluation.confusion import ConfusionMatrix
from grounded.evaluation.report.plots import draw_confusion_matrix, draw_reliability_diagram

BLUE = (43, 108, 176)


def blue(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) == BLUE).all(axis=2)


def test_bars_are_as_high_as_the_shares():
    half = calibration(np.array([0.55, 0.55]), np.array([True, False]), 10)
    whole = calibration(np.array([0.55, 0.55]), np.array([True, True]), 10)
    heights = [np.flatnonzero(blue(draw_reliability_diagram(one)).any(axis=1)) for one in (half, whole)]
    assert np.ptp(heights[1]) == pytest.approx(2 * np.ptp(heights[0]), abs=2)
    columns = np.flatnonzero(blue(draw_reliability_diagram(half)).any(axis=0))
    other = np.flatnonzero(
        blue(draw_reliability_diagram(calibration(np.array([0.95]), np.array([True]), 10))).any(axis=0)
    )
    assert columns.max() < other.min()


@pytest.mark.parametrize(
    ("scores", "bins"),
    [
        pytest.param([], 10, id="no predictions"),
        pytest.param([float("nan")], 10, id="no scores"),
        pytest.param([0.1, 0.9], 1, id="one bin"),
        pytest.param([0.1, 0.9], 100, id="many bins"),
    ],
)
def test_any_reliability_can_be_drawn(scores: list[float], bins: int):
    image = draw_reliability_diagram(calibration(np.array(scores, np.float64), np.ones(len(scores), bool), bins))
    assert blue(image).any() == bool(np.isfinite(scores).any())


def test_the_diagonal_is_blue():
    names = ("dog", "cat", "bird")
    right = ConfusionMatrix(names, {name: name for name in names}, {(name, name): 5 for name in names})
    image = blue(draw_confusion_matrix(right))
    cell = 44
    left, top = np.flatnonzero(image.any(axis=0))[0] - 1, np.flatnonzero(image.any(axis=1))[0] - 1
    centres = [[image[top + y * cell + 8, left + x * cell + 8] for x in range(4)] for y in range(4)]
    np.testing.assert_array_equal(centres, np.diag([True, True, True, False]))


@pytest.mark.parametrize("count", [0, 1, 16, 300], ids=["nothing", "one", "some", "many"])
def test_any_confusion_can_be_drawn(count: int):
    names = tuple(f"a rather long name of a class, number {i}" for i in range(count))
    counts = {(name, name): 20_000 + i for i, name in enumerate(names)} | {(None, name): 1 for name in names[:5]}
    image = draw_confusion_matrix(ConfusionMatrix(names, {name: name for name in names}, counts))
    assert blue(image).any() == (count > 0)
    assert image.width < 3000 and image.height < 3000

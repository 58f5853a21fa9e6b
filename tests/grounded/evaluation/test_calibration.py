import numpy as np
import pytest

from grounded.evaluation.calibration import Bin, calibration
from tests.data import unchecked


def measure(scores: list[float], correct: list[bool], bins: int = 2):
    return calibration(np.array(scores, np.float64), np.array(correct, bool), bins)


def test_by_hand():
    # lower half: mean score 0.3, one of two right; upper half: mean score 0.8, three of four right
    found = measure([0.2, 0.4, 0.6, 0.8, 0.8, 1.0], [True, False, True, True, True, False])
    low, high = found.bins
    assert (low.low, low.high, low.count) == (0.0, 0.5, 2)
    assert (low.mean_score, low.accuracy) == pytest.approx((0.3, 0.5))
    assert (high.low, high.high, high.count) == (0.5, 1.0, 4)
    assert (high.mean_score, high.accuracy) == pytest.approx((0.8, 0.75))
    assert found.error == pytest.approx((2 * 0.2 + 4 * 0.05) / 6)
    assert found.unscored == 0


@pytest.mark.parametrize(
    ("score", "place"),
    [(0.0, 0), (0.1, 1), (0.3, 3), (0.6, 6), (0.7, 7), (0.99, 9), (1.0, 9), (1.7, 9), (-0.2, 0)],
)
def test_the_bin_of_a_score(score: float, place: int):
    assert [one.count for one in measure([score], [True], 10).bins].index(1) == place


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_calibrated_scores_have_no_error(share: float):
    right = np.arange(8) < 8 * share
    assert measure([share] * 8, right.tolist(), 10).error == pytest.approx(0.0)


def test_unknown_scores_are_left_out():
    found = measure([float("nan"), 0.75], [True, True])
    assert found.unscored == 1 and [one.count for one in found.bins] == [0, 1]
    assert found.error == pytest.approx(0.25)


@pytest.mark.parametrize("scores", [[], [float("nan")]], ids=["no predictions", "no scores"])
def test_nothing_to_compare(scores: list[float]):
    found = measure(scores, [True] * len(scores))
    assert found.error is None and found.bins == (Bin(0.0, 0.5, 0, None, None), Bin(0.5, 1.0, 0, None, None))


def test_bad_input():
    with pytest.raises(ValueError, match="of one length, got 2 and 1"):
        unchecked(calibration)(np.zeros(2), np.zeros(1, bool))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        measure([0.5], [True], 0)

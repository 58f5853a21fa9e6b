"""ODS, OIS, AP and R50 of maps and counts made by hand."""

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.boundaries.measure import BoundaryCounts, edge_thresholds, measure_edge_map
from grounded.evaluation.boundaries.scores import average_precision, best_point, recall_at_precision, score_boundaries
from tests.data import unchecked


def line(row: int, value: float = 1.0, size: tuple[int, int] = (40, 40)) -> np.ndarray:
    edge_map = np.zeros(size)
    edge_map[row] = value
    return edge_map


def counts(*columns: tuple[int, int, int, int]) -> BoundaryCounts:
    return BoundaryCounts(*np.array(columns, np.int64).T.copy())


def test_thresholds_are_those_of_the_benchmark():
    np.testing.assert_allclose(edge_thresholds(), np.arange(1, 100) / 100)


def test_counts_of_two_annotators():
    truths = [line(10) > 0, (line(10) + line(30)) > 0]
    found = measure_edge_map(line(10, 0.8) + line(20, 0.3), truths, thresholds=3)  # 0.25, 0.5, 0.75
    np.testing.assert_array_equal(found.true, [120] * 3)
    np.testing.assert_array_equal(found.matched_true, [80] * 3)
    np.testing.assert_array_equal(found.predicted, [80, 40, 40])
    np.testing.assert_array_equal(found.matched_predicted, [40] * 3)


def test_thick_edges_are_thinned_first():
    thick = line(9) + line(10) + line(11)
    both = [measure_edge_map(thick, [line(10) > 0], thresholds=1, thinned=thinned) for thinned in (True, False)]
    assert both[0].predicted[0] < 42 and both[1].predicted[0] == 120


@pytest.mark.parametrize(
    ("edge_map", "annotations", "message"),
    [
        pytest.param(line(3), [], "at least one annotation", id="no annotation"),
        pytest.param(
            line(3), [np.zeros((40, 41), bool)], "annotation is 41 x 40 pixels, the edge map 40 x 40", id="size"
        ),
        pytest.param(line(3, 1.5), [line(3) > 0], r"must lie in \[0, 1\], got 0 to 1.5", id="range"),
    ],
)
def test_what_cannot_be_measured(edge_map: np.ndarray, annotations: list, message: str):
    with pytest.raises(ResultError, match=message):
        unchecked(measure_edge_map)(edge_map, annotations)


def test_perfect_and_absent_edges():
    truth = [line(10) > 0]
    perfect = score_boundaries([measure_edge_map(line(10), truth, thresholds=9)])
    assert (perfect.ods, perfect.ois) == (1.0, 1.0)
    absent = score_boundaries([measure_edge_map(line(10, 0.0), truth, thresholds=9)])
    assert (absent.ods, absent.ois, absent.average_precision, absent.recall_at_half_precision) == (0, 0, 0, None)


def test_each_image_has_its_own_threshold_for_ois():
    # At the low threshold the first image is perfect, at the high one the second.
    first = counts((10, 10, 10, 10), (0, 10, 0, 0))
    second = counts((10, 10, 10, 90), (10, 10, 10, 10))
    scores = score_boundaries([first, second])
    assert scores.ois == 1.0
    # Between both, precision and recall are on straight lines: from (0.2, 1) to (1, 0.5).
    share = np.linspace(0, 1, 101)
    precision, recall = 0.2 + 0.8 * share, 1 - 0.5 * share
    assert scores.ods == pytest.approx((2 * precision * recall / (precision + recall)).max())


def test_best_point_between_thresholds():
    threshold, precision, recall = best_point(np.array([0.2, 0.8]), np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert (threshold, precision, recall) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("precision", "recall", "ap", "r50"),
    [
        pytest.param([0.4, 0.8], [1.0, 0.0], 0.606, 0.75, id="a straight line"),
        pytest.param([1.0, 1.0], [0.5, 0.0], 0.51, 0.5, id="recall ends at a half"),
        pytest.param([0.3, 0.3], [0.5, 0.5], 0.0, None, id="one point below a half"),
        pytest.param([0.7, 0.9], [0.6, 0.2], 0.328, 0.6, id="always above a half: the recall at the lowest precision"),
    ],
)
def test_area_and_recall(precision: list[float], recall: list[float], ap: float, r50: float | None):
    values = np.array(precision), np.array(recall)
    assert average_precision(*values) == pytest.approx(ap)
    assert recall_at_precision(*values, 0.5) == (None if r50 is None else pytest.approx(r50))

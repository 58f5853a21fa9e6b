import numpy as np
import pytest

from grounded.evaluation.counts import Counts, count_case, total
from grounded.evaluation.matching import match_case
from tests.grounded.evaluation.made import answer, block, case, true

LEFT, RIGHT, LOW = block(0, 0, 4, 5), block(5, 0, 4, 5), block(0, 1, 4, 5)


def test_measures_by_hand():
    counts = Counts(objects=4, answers=5, found=2, iou_sum=1.5, boundary_sum=1.0)
    assert (counts.precision, counts.recall, counts.mean_iou, counts.boundary_f) == (0.4, 0.5, 0.75, 0.5)
    assert counts.errors == 5
    assert counts.quality == pytest.approx(1.5 / (2 + 3 / 2 + 2 / 2))  # found, and half of what is wrong or missed


@pytest.mark.parametrize("name", ["precision", "recall", "mean_iou", "boundary_f", "quality"])
def test_undefined_without_anything(name: str):
    assert getattr(Counts(), name) is None


def test_of_a_case():
    one = case(
        [true("dog", LEFT), true("dog", RIGHT), true("cat", RIGHT, is_crowd=True), true("fox", LEFT)],
        [answer("dog", LOW), answer("dog", block(0, 8, 2, 2)), answer("cat", RIGHT)],
        ["dog", "cat", "bird"],
    )
    counts = count_case(one, match_case(one, "mask", 0.5), np.array([0.25, 0.0, 0.0]))
    assert counts == {"dog": Counts(2, 2, 1, 4 / 6, 0.25), "cat": Counts()}
    assert total([]) == Counts()
    assert total([*counts.values(), Counts(1, 1, 1, 1.0, 1.0)]) == Counts(3, 3, 2, 4 / 6 + 1, 1.25)


def test_boundaries_are_unknown_where_boxes_are_compared():
    one = case([true("dog", LEFT)], [answer("dog", LEFT)])
    assert count_case(one, match_case(one, "box", 0.5), np.full(1, np.nan))["dog"].boundary_f is None

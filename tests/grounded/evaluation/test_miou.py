import numpy as np
import pytest

from grounded.evaluation.miou import class_iou
from tests.grounded.evaluation.made import answer, block, case, true

LEFT, RIGHT, ALL = block(0, 0, 5, 10), block(5, 0, 5, 10), np.ones((10, 10), bool)


@pytest.mark.parametrize(
    ("cases", "classes", "mean"),
    [
        pytest.param([case([true("dog", LEFT)], [answer("dog", LEFT)])], {"dog": 1.0}, 1.0, id="equal"),
        pytest.param([case([true("dog", LEFT)], [answer("dog", ALL)])], {"dog": 0.5}, 0.5, id="half"),
        pytest.param(
            [case([true("dog", ALL)], [answer("dog", LEFT), answer("dog", RIGHT)])], {"dog": 1.0}, 1.0, id="in two"
        ),
        # (50 + 0) / (50 + 100): pixels of all pictures are added up first
        pytest.param(
            [case([true("dog", LEFT)], [answer("dog", LEFT)]), case([true("dog", ALL)], file="b.jpg")],
            {"dog": 1 / 3},
            1 / 3,
            id="two pictures",
        ),
        pytest.param([case([true("dog", LEFT)])], {"dog": 0.0}, 0.0, id="no answer"),
        pytest.param([case([], [answer("dog", LEFT)])], {"dog": 0.0}, None, id="empty truth"),
        pytest.param([case()], {}, None, id="nothing at all"),
        pytest.param(
            [case([true("dog", LEFT)], [answer("dog", LEFT), answer("cat", LEFT)], ["dog", "cat"])],
            {"cat": 0.0, "dog": 1.0},
            1.0,
            id="the mean is of classes that are there",
        ),
        pytest.param(
            [case([true("dog", LEFT), true("dog", RIGHT, is_crowd=True)], [answer("dog", ALL)])],
            {"dog": 1.0},
            1.0,
            id="answers in a crowd do not count",
        ),
        pytest.param(
            [case([true("dog", LEFT), true("dog", ALL, is_crowd=True)], [answer("dog", block(0, 0, 2, 10))])],
            {"dog": 20 / 50},
            20 / 50,
            id="objects in a crowd do",
        ),
        pytest.param([case([true("dog", ALL, is_crowd=True)], [answer("dog", LEFT)])], {}, None, id="a crowd alone"),
    ],
)
def test_by_hand(cases: list, classes: dict[str, float], mean: float | None):
    found = class_iou(cases)
    assert found.classes == pytest.approx(classes)
    assert found.mean == (None if mean is None else pytest.approx(mean))

import dataclasses

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.matching import IGNORED, NOTHING, match, match_case, overlaps
from tests.grounded.evaluation.made import answer, block, case, true

NAN = float("nan")


@pytest.mark.parametrize(
    ("candidates", "crowds", "scores", "expected"),
    [
        pytest.param([[0.9, 0.6], [0.8, 0.7]], [0, 0], [0.9, 0.8], [0, 1], id="each its own"),
        pytest.param([[0.6, 0.7], [0.1, 0.9]], [0, 0], [0.9, 0.8], [1, NOTHING], id="the better score chooses"),
        pytest.param([[0.6, 0.7], [0.1, 0.9]], [0, 0], [0.8, 0.9], [0, 1], id="in any order"),
        pytest.param([[0.9], [0.8]], [0], [0.5, 0.9], [NOTHING, 0], id="an object is found once"),
        pytest.param([[0.9], [0.8]], [0], [NAN, 0.1], [NOTHING, 0], id="unknown scores last"),
        pytest.param([[0.5]], [0], [0.9], [0], id="at the threshold"),
        pytest.param([[0.49]], [0], [0.9], [NOTHING], id="below the threshold"),
        pytest.param([[0.9], [0.8]], [1], [0.9, 0.8], [IGNORED, IGNORED], id="a crowd takes many"),
        pytest.param([[1.0, 0.6]], [1, 0], [0.9], [1], id="an object goes before a crowd"),
        pytest.param([[], []], [], [0.9, 0.8], [NOTHING, NOTHING], id="nothing there"),
        pytest.param(np.zeros((0, 2)), [0, 0], [], [], id="no answer"),
    ],
)
def test_match(candidates: list, crowds: list, scores: list, expected: list):
    table = np.array(candidates, np.float64).reshape(len(scores), len(crowds))
    found = match(table, np.array(crowds, bool), np.array(scores, np.float64), 0.5)
    assert found.truths.tolist() == expected
    np.testing.assert_array_equal(found.ious, [table[i, t] if t >= 0 else 0 for i, t in enumerate(expected)])
    assert found.found.tolist() == [t >= 0 for t in expected]
    assert found.judged.tolist() == [t != IGNORED for t in expected]


def test_iou_of_masks_and_of_boxes():
    corner = block(0, 0, 4, 4) & ~block(0, 0, 2, 2)  # 12 pixels in a box of 16
    answers, truths = [answer("dog", corner)], [true("dog", block(0, 0, 4, 2))]  # 8 pixels, 4 in common
    assert overlaps(answers, truths, "mask") == pytest.approx(4 / 16)
    assert overlaps(answers, truths, "box") == pytest.approx(8 / 16)


def test_of_a_crowd_the_share_of_the_answer_counts():
    crowd = true("dog", block(0, 0, 10, 10), is_crowd=True)
    assert overlaps([answer("dog", block(0, 0, 2, 2))], [crowd], "mask") == pytest.approx(1.0)


def test_classes_are_kept_apart():
    mask = block(0, 0, 4, 4)
    both = case([true("dog", mask), true("cat", mask)], [answer("cat", mask), answer("dog", mask)], ["dog", "cat"])
    found = match_case(both, "mask", 0.5)
    assert found.truths.tolist() == [1, 0]
    assert found.overlaps.tolist() == [[1, 1], [1, 1]]


def test_what_was_not_asked_cannot_be_found():
    mask = block(0, 0, 4, 4)
    found = match_case(case([true("cat", mask)], [answer("dog", mask)], ["dog"]), "mask", 0.5)
    assert found.truths.tolist() == [NOTHING]


@pytest.mark.parametrize(
    ("truths", "answers"),
    [pytest.param(0, 0, id="nothing at all"), pytest.param(1, 0, id="no answer"), pytest.param(0, 1, id="no object")],
)
def test_empty_cases(truths: int, answers: int):
    mask = block(0, 0, 4, 4)
    found = match_case(case([true("dog", mask)] * truths, [answer("dog", mask)] * answers), "mask", 0.5)
    assert found.truths.tolist() == [NOTHING] * answers and found.overlaps.shape == (answers, truths)


def test_masks_cannot_be_compared_with_boxes():
    box = dataclasses.replace(true("dog", block(0, 0, 4, 4)), mask=None)
    answers = [answer("dog", block(0, 0, 4, 4))]
    with pytest.raises(ResultError, match="'dog' without a mask"):
        overlaps(answers, [box], "mask")
    assert overlaps(answers, [box], "box") == pytest.approx(1.0)

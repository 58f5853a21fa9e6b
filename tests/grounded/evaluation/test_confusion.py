import pytest

from grounded.evaluation.confusion import confusion
from grounded.evaluation.matching import match_case
from tests.grounded.evaluation.made import answer, block, case, true

LEFT, RIGHT = block(0, 0, 4, 5), block(5, 0, 4, 5)
BOTH = {"a dog": "dog", "a cat": "cat"}


def dog(mask, score: float = 0.9):
    return answer("dog", mask, score, "a dog")


def cat(mask, score: float = 0.9):
    return answer("cat", mask, score, "a cat")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(case([true("dog", LEFT)], [dog(LEFT)], BOTH), {("dog", "a dog"): 1}, id="right"),
        pytest.param(case([true("dog", LEFT)], [cat(LEFT)], BOTH), {("dog", "a cat"): 1}, id="taken for another"),
        pytest.param(
            case([true("dog", LEFT)], [cat(LEFT), dog(LEFT, 0.1)], BOTH),
            {("dog", "a cat"): 1, ("dog", "a dog"): 1},
            id="taken for both",
        ),
        pytest.param(
            case([true("dog", LEFT)], [dog(LEFT), dog(LEFT)], BOTH),
            {("dog", "a dog"): 1, (None, "a dog"): 1},
            id="found twice",
        ),
        pytest.param(
            case([true("dog", LEFT)], [cat(RIGHT)], BOTH), {("dog", None): 1, (None, "a cat"): 1}, id="beside it"
        ),
        pytest.param(case([true("cat", LEFT)], [dog(LEFT)], {"a dog": "dog"}), {("cat", "a dog"): 1}, id="not asked"),
        pytest.param(case([true("cat", LEFT)], [], {"a dog": "dog"}), {}, id="not asked, not answered"),
        pytest.param(case([true("dog", LEFT, is_crowd=True)], [dog(LEFT)], BOTH), {}, id="in a crowd"),
        pytest.param(
            case([true("dog", LEFT, is_crowd=True)], [cat(LEFT)], BOTH), {(None, "a cat"): 1}, id="in another's crowd"
        ),
        pytest.param(case([], [dog(LEFT)], BOTH), {(None, "a dog"): 1}, id="nothing there"),
        pytest.param(case([], [], BOTH), {}, id="nothing at all"),
    ],
)
def test_by_hand(one, expected: dict):
    found = confusion([one], [match_case(one, "mask", 0.5)], 0.5)
    assert found.counts == expected
    assert found.asked == one.asked


def test_pictures_are_added_up():
    cases = [
        case([true("dog", LEFT)], [dog(LEFT)], BOTH),
        case([true("dog", LEFT), true("fox", RIGHT)], [cat(RIGHT)], BOTH),
    ]
    found = confusion(cases, [match_case(one, "mask", 0.5) for one in cases], 0.5)
    assert found.classes == ("dog", "cat", "fox")
    assert found.count("dog", "a dog") == 1 and found.count("dog", None) == 1 and found.count("fox", "a cat") == 1
    assert found.count("cat", "a cat") == 0
    assert confusion([], [], 0.5).counts == {}

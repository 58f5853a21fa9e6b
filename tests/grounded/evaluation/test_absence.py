import pytest

from grounded.evaluation.absence import Absent, absence
from tests.grounded.evaluation.made import answer, block, case, true

MASK = block(0, 0, 4, 4)


def test_pairs_of_a_picture_and_a_phrase():
    cases = [
        # the dog is there; the cat is not, and is answered twice, which counts once
        case([true("dog", MASK)], [answer("cat", MASK, phrase="a cat")] * 2, {"a dog": "dog", "a cat": "cat"}),
        case([], [], {"a dog": "dog", "a cat": "cat"}),
        case([], [answer("dog", MASK, phrase="a dog")], {"a dog": "dog"}),
    ]
    found = absence(cases)
    assert found.overall == Absent(pictures=4, answered=2) and found.overall.share == 0.5
    assert found.phrases == {"a dog": Absent(2, 1), "a cat": Absent(2, 1)}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(
            case([true("dog", MASK, is_crowd=True)], [answer("dog", MASK)]), Absent(0, 0), id="a crowd is there"
        ),
        pytest.param(case([true("cat", MASK)], [answer("dog", MASK)]), Absent(1, 1), id="another class is there"),
        pytest.param(
            case([], [answer("dog", MASK, phrase="pup")], {"pup": "dog", "hound": "dog"}),
            Absent(2, 1),
            id="two phrases",
        ),
    ],
)
def test_what_is_absent(one, expected: Absent):
    assert absence([one]).overall == expected


def test_nothing_asked():
    assert absence([]).overall.share is None

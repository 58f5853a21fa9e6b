import pytest

from grounded.evaluation.confusion import FalsePositiveRate, absent_class_rates, confusion_matrix
from grounded.evaluation.matching import match_pair
from tests.grounded.evaluation.made import block, image_pair, predicted, target

LEFT, RIGHT = block(0, 0, 4, 5), block(5, 0, 4, 5)
BOTH = {"a dog": "dog", "a cat": "cat"}


def dog(mask, score: float = 0.9):
    return predicted("dog", mask, score, "a dog")


def cat(mask, score: float = 0.9):
    return predicted("cat", mask, score, "a cat")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(image_pair([target("dog", LEFT)], [dog(LEFT)], BOTH), {("dog", "a dog"): 1}, id="right"),
        pytest.param(
            image_pair([target("dog", LEFT)], [cat(LEFT)], BOTH), {("dog", "a cat"): 1}, id="taken for another"
        ),
        pytest.param(
            image_pair([target("dog", LEFT)], [cat(LEFT), dog(LEFT, 0.1)], BOTH),
            {("dog", "a cat"): 1, ("dog", "a dog"): 1},
            id="taken for both",
        ),
        pytest.param(
            image_pair([target("dog", LEFT)], [dog(LEFT), dog(LEFT)], BOTH),
            {("dog", "a dog"): 1, (None, "a dog"): 1},
            id="found twice",
        ),
        pytest.param(
            image_pair([target("dog", LEFT)], [cat(RIGHT)], BOTH),
            {("dog", None): 1, (None, "a cat"): 1},
            id="beside it",
        ),
        pytest.param(
            image_pair([target("cat", LEFT)], [dog(LEFT)], {"a dog": "dog"}),
            {("cat", "a dog"): 1},
            id="not in the prompt",
        ),
        pytest.param(
            image_pair([target("cat", LEFT)], [], {"a dog": "dog"}), {}, id="not in the prompt, not predicted"
        ),
        pytest.param(image_pair([target("dog", LEFT, is_crowd=True)], [dog(LEFT)], BOTH), {}, id="in a crowd"),
        pytest.param(
            image_pair([target("dog", LEFT, is_crowd=True)], [cat(LEFT)], BOTH),
            {(None, "a cat"): 1},
            id="in another's crowd",
        ),
        pytest.param(image_pair([], [dog(LEFT)], BOTH), {(None, "a dog"): 1}, id="nothing there"),
        pytest.param(image_pair([], [], BOTH), {}, id="nothing at all"),
    ],
)
def test_confusion_by_hand(one, expected: dict):
    found = confusion_matrix([one], [match_pair(one, "mask", 0.5)], 0.5)
    assert found.counts == expected
    assert found.phrase_classes == one.phrase_classes


def test_images_are_added_up():
    pairs = [
        image_pair([target("dog", LEFT)], [dog(LEFT)], BOTH),
        image_pair([target("dog", LEFT), target("fox", RIGHT)], [cat(RIGHT)], BOTH),
    ]
    found = confusion_matrix(pairs, [match_pair(one, "mask", 0.5) for one in pairs], 0.5)
    assert found.classes == ("dog", "cat", "fox")
    assert found.count("dog", "a dog") == 1 and found.count("dog", None) == 1 and found.count("fox", "a cat") == 1
    assert found.count("cat", "a cat") == 0
    assert confusion_matrix([], [], 0.5).counts == {}


# Absent classes


def test_absent_class_rates():
    pairs = [
        # the dog is there; the cat is not, and is predicted twice, which counts once
        image_pair(
            [target("dog", LEFT)], [predicted("cat", LEFT, phrase="a cat")] * 2, {"a dog": "dog", "a cat": "cat"}
        ),
        image_pair([], [], {"a dog": "dog", "a cat": "cat"}),
        image_pair([], [predicted("dog", LEFT, phrase="a dog")], {"a dog": "dog"}),
    ]
    found = absent_class_rates(pairs)
    assert found.overall == FalsePositiveRate(images=4, false_positives=2) and found.overall.rate == 0.5
    assert found.phrases == {"a dog": FalsePositiveRate(2, 1), "a cat": FalsePositiveRate(2, 1)}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(
            image_pair([target("dog", LEFT, is_crowd=True)], [predicted("dog", LEFT)]),
            FalsePositiveRate(0, 0),
            id="a crowd is there",
        ),
        pytest.param(
            image_pair([target("cat", LEFT)], [predicted("dog", LEFT)]),
            FalsePositiveRate(1, 1),
            id="another class is there",
        ),
        pytest.param(
            image_pair([], [predicted("dog", LEFT, phrase="pup")], {"pup": "dog", "hound": "dog"}),
            FalsePositiveRate(2, 1),
            id="two phrases",
        ),
    ],
)
def test_which_classes_are_absent(one, expected: FalsePositiveRate):
    assert absent_class_rates([one]).overall == expected


def test_no_images():
    assert absent_class_rates([]).overall.rate is None

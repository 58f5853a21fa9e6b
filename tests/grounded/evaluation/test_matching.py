import dataclasses

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.matching import (
    IGNORED,
    UNMATCHED,
    Counts,
    count_matches,
    match_greedily,
    match_pair,
    match_with_ignored,
    pairwise_iou,
    sum_counts,
)
from tests.grounded.evaluation.made import block, image_pair, predicted, target

NAN = float("nan")


@pytest.mark.parametrize(
    ("candidates", "crowds", "scores", "expected"),
    [
        pytest.param([[0.9, 0.6], [0.8, 0.7]], [0, 0], [0.9, 0.8], [0, 1], id="each its own"),
        pytest.param([[0.6, 0.7], [0.1, 0.9]], [0, 0], [0.9, 0.8], [1, UNMATCHED], id="the better score chooses"),
        pytest.param([[0.6, 0.7], [0.1, 0.9]], [0, 0], [0.8, 0.9], [0, 1], id="in any order"),
        pytest.param([[0.9], [0.8]], [0], [0.5, 0.9], [UNMATCHED, 0], id="an object is found once"),
        pytest.param([[0.9], [0.8]], [0], [NAN, 0.1], [UNMATCHED, 0], id="unknown scores last"),
        pytest.param([[0.5]], [0], [0.9], [0], id="at the threshold"),
        pytest.param([[0.49]], [0], [0.9], [UNMATCHED], id="below the threshold"),
        pytest.param([[0.9], [0.8]], [1], [0.9, 0.8], [IGNORED, IGNORED], id="a crowd takes many"),
        pytest.param([[1.0, 0.6]], [1, 0], [0.9], [1], id="an object goes before a crowd"),
        pytest.param([[], []], [], [0.9, 0.8], [UNMATCHED, UNMATCHED], id="nothing there"),
        pytest.param(np.zeros((0, 2)), [0, 0], [], [], id="no prediction"),
    ],
)
def test_match_greedily(candidates: list, crowds: list, scores: list, expected: list):
    table = np.array(candidates, np.float64).reshape(len(scores), len(crowds))
    found = match_greedily(table, np.array(crowds, bool), np.array(scores, np.float64), 0.5)
    assert found.target_ids.tolist() == expected
    np.testing.assert_array_equal(found.ious, [table[i, t] if t >= 0 else 0 for i, t in enumerate(expected)])
    assert found.is_true_positive.tolist() == [t >= 0 for t in expected]
    assert found.is_evaluated.tolist() == [t != IGNORED for t in expected]


@pytest.mark.parametrize(
    ("ious", "ignored", "crowds", "expected"),
    [
        pytest.param([[0.9, 0.6], [0.8, 0.7]], [0, 0], [0, 0], [0, 1], id="each its own"),
        pytest.param([[0.9, 0.6]], [1, 0], [0, 0], [1], id="one that counts goes before one that is ignored"),
        pytest.param([[0.9, 0.4]], [1, 0], [0, 0], [0], id="or else the ignored one"),
        pytest.param([[0.9], [0.9]], [1], [0], [0, UNMATCHED], id="which is taken once"),
        pytest.param([[0.9], [0.9]], [1], [1], [0, 0], id="but a crowd many times"),
        pytest.param([[0.7, 0.7]], [0, 0], [0, 0], [1], id="of equal ones the last"),
        pytest.param([[0.5], [0.49]], [0], [0], [0, UNMATCHED], id="at the threshold"),
        pytest.param(np.zeros((2, 0)), [], [], [UNMATCHED, UNMATCHED], id="nothing there"),
        pytest.param(np.zeros((0, 1)), [0], [0], [], id="no prediction"),
    ],
)
def test_match_with_ignored(ious: list, ignored: list, crowds: list, expected: list):
    table = np.array(ious, np.float64).reshape(len(expected), len(ignored))
    found = match_with_ignored(table, np.array(ignored, bool), np.array(crowds, bool), 0.5)
    assert found.tolist() == expected


def test_iou_of_masks_and_of_boxes():
    corner = block(0, 0, 4, 4) & ~block(0, 0, 2, 2)  # 12 pixels in a box of 16
    predictions, targets = [predicted("dog", corner)], [target("dog", block(0, 0, 4, 2))]  # 8 pixels, 4 in common
    assert pairwise_iou(predictions, targets, "mask") == pytest.approx(4 / 16)
    assert pairwise_iou(predictions, targets, "box") == pytest.approx(8 / 16)


def test_of_a_crowd_the_share_of_the_prediction_counts():
    crowd = target("dog", block(0, 0, 10, 10), is_crowd=True)
    assert pairwise_iou([predicted("dog", block(0, 0, 2, 2))], [crowd], "mask") == pytest.approx(1.0)


def test_classes_are_kept_apart():
    mask = block(0, 0, 4, 4)
    both = image_pair(
        [target("dog", mask), target("cat", mask)], [predicted("cat", mask), predicted("dog", mask)], ["dog", "cat"]
    )
    found = match_pair(both, "mask", 0.5)
    assert found.target_ids.tolist() == [1, 0]
    assert found.pairwise.tolist() == [[1, 1], [1, 1]]


def test_classes_outside_the_prompt_are_not_matched():
    mask = block(0, 0, 4, 4)
    found = match_pair(image_pair([target("cat", mask)], [predicted("dog", mask)], ["dog"]), "mask", 0.5)
    assert found.target_ids.tolist() == [UNMATCHED]


@pytest.mark.parametrize(
    ("targets", "predictions"),
    [
        pytest.param(0, 0, id="nothing at all"),
        pytest.param(1, 0, id="no prediction"),
        pytest.param(0, 1, id="no object"),
    ],
)
def test_empty_images(targets: int, predictions: int):
    mask = block(0, 0, 4, 4)
    found = match_pair(image_pair([target("dog", mask)] * targets, [predicted("dog", mask)] * predictions), "mask", 0.5)
    assert found.target_ids.tolist() == [UNMATCHED] * predictions and found.pairwise.shape == (predictions, targets)


def test_masks_cannot_be_compared_with_boxes():
    box = dataclasses.replace(target("dog", block(0, 0, 4, 4)), mask=None)
    predictions = [predicted("dog", block(0, 0, 4, 4))]
    with pytest.raises(ResultError, match="'dog' without a mask"):
        pairwise_iou(predictions, [box], "mask")
    assert pairwise_iou(predictions, [box], "box") == pytest.approx(1.0)


# Counts

LEFT, RIGHT, LOW = block(0, 0, 4, 5), block(5, 0, 4, 5), block(0, 1, 4, 5)


def test_measures_of_counts_by_hand():
    counts = Counts(objects=4, predictions=5, true_positives=2, iou_sum=1.5, boundary_sum=1.0)
    assert (counts.precision, counts.recall, counts.mean_iou, counts.boundary_f) == (0.4, 0.5, 0.75, 0.5)
    assert counts.errors == 5
    assert counts.panoptic_quality == pytest.approx(
        1.5 / (2 + 3 / 2 + 2 / 2)
    )  # found, and half of what is wrong or missed


@pytest.mark.parametrize("name", ["precision", "recall", "mean_iou", "boundary_f", "panoptic_quality"])
def test_undefined_without_anything(name: str):
    assert getattr(Counts(), name) is None


def test_counts_of_an_image():
    one = image_pair(
        [target("dog", LEFT), target("dog", RIGHT), target("cat", RIGHT, is_crowd=True), target("fox", LEFT)],
        [predicted("dog", LOW), predicted("dog", block(0, 8, 2, 2)), predicted("cat", RIGHT)],
        ["dog", "cat", "bird"],
    )
    counts = count_matches(one, match_pair(one, "mask", 0.5), np.array([0.25, 0.0, 0.0]))
    assert counts == {"dog": Counts(2, 2, 1, 4 / 6, 0.25), "cat": Counts()}
    assert sum_counts([]) == Counts()
    assert sum_counts([*counts.values(), Counts(1, 1, 1, 1.0, 1.0)]) == Counts(3, 3, 2, 4 / 6 + 1, 1.25)


def test_boundaries_are_unknown_where_boxes_are_compared():
    one = image_pair([target("dog", LEFT)], [predicted("dog", LEFT)])
    assert count_matches(one, match_pair(one, "box", 0.5), np.full(1, np.nan))["dog"].boundary_f is None

import numpy as np
import pytest

from grounded.evaluation.segmentation import boundary_f_score, class_iou, mask_boundary
from tests.data import disk, unchecked
from tests.grounded.evaluation.made import block, image_pair, predicted, target

EMPTY, FULL = np.zeros((10, 10), bool), np.ones((10, 10), bool)
SQUARE = block(2, 2, 5, 5)
ONE_PIXEL = 0.99 / np.hypot(10, 10)  # as a share of the diagonal, of which whole pixels are made by rounding up


def test_the_boundary_is_the_rim_of_the_mask():
    np.testing.assert_array_equal(mask_boundary(SQUARE), SQUARE & ~block(3, 3, 3, 3))


def test_the_border_of_the_image_is_no_boundary():
    np.testing.assert_array_equal(mask_boundary(block(0, 0, 4, 10)), block(3, 0, 1, 10))
    assert not mask_boundary(FULL).any()


@pytest.mark.parametrize(
    ("prediction", "truth", "tolerance", "expected"),
    [
        pytest.param(SQUARE, SQUARE, 0.0, 1.0, id="equal"),
        # Of 16 pixels each, the rows of 5 above and below share 4.
        pytest.param(block(3, 2, 5, 5), SQUARE, 0.0, 8 / 16, id="a pixel to the right, exactly"),
        pytest.param(block(3, 2, 5, 5), SQUARE, ONE_PIXEL, 1.0, id="a pixel to the right, within one"),
        # 3 on and 1 beside each row, and both ends of the 3 other pixels of the inner column.
        pytest.param(block(4, 2, 5, 5), SQUARE, ONE_PIXEL, 10 / 16, id="two pixels to the right, within one"),
        pytest.param(block(0, 0, 2, 10), block(0, 0, 5, 10), 2 * ONE_PIXEL, 0.0, id="three apart, within two"),
        pytest.param(block(0, 0, 2, 10), block(0, 0, 5, 10), 3 * ONE_PIXEL, 1.0, id="three apart, within three"),
        # A hole of one pixel has a rim of 4: precision 16 / 16, recall 16 / 20.
        pytest.param(SQUARE, SQUARE & ~block(4, 4, 1, 1), 0.0, 2 * 16 / (16 + 20), id="a hole"),
        pytest.param(EMPTY, SQUARE, 0.1, 0.0, id="no prediction"),
        pytest.param(SQUARE, EMPTY, 0.1, 0.0, id="nothing there"),
        pytest.param(EMPTY, EMPTY, 0.1, 1.0, id="both empty"),
        pytest.param(FULL, FULL, 0.1, 1.0, id="both all of the image"),
        pytest.param(FULL, SQUARE, 0.1, 0.0, id="all of the image"),
    ],
)
def test_boundary_f_score_by_hand(prediction: np.ndarray, truth: np.ndarray, tolerance: float, expected: float):
    assert boundary_f_score(prediction, truth, tolerance) == pytest.approx(expected)
    assert boundary_f_score(truth, prediction, tolerance) == pytest.approx(
        expected
    )  # precision and recall change places


def test_against_all_distances():
    first, second = disk(60, 80, 30, 30, 18), disk(60, 80, 36, 27, 20)
    reach = np.ceil(0.03 * np.hypot(60, 80))
    a, b = (np.argwhere(mask_boundary(mask)) for mask in (first, second))
    near = np.linalg.norm(a[:, None] - b[None], axis=-1) <= reach
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    expected = 2 * precision * recall / (precision + recall)
    assert 0.2 < expected < 0.99
    assert boundary_f_score(first, second, 0.03) == pytest.approx(expected)


def test_bad_input():
    with pytest.raises(ValueError, match=r"of one size, got \(10, 10\) and \(5, 5\)"):
        unchecked(boundary_f_score)(SQUARE, np.zeros((5, 5), bool))
    with pytest.raises(ValueError, match="tolerance must be 0 or more, got -1"):
        boundary_f_score(SQUARE, SQUARE, -1.0)


# Class IoU

LEFT, RIGHT, ALL = block(0, 0, 5, 10), block(5, 0, 5, 10), np.ones((10, 10), bool)


@pytest.mark.parametrize(
    ("pairs", "classes", "mean"),
    [
        pytest.param([image_pair([target("dog", LEFT)], [predicted("dog", LEFT)])], {"dog": 1.0}, 1.0, id="equal"),
        pytest.param([image_pair([target("dog", LEFT)], [predicted("dog", ALL)])], {"dog": 0.5}, 0.5, id="half"),
        pytest.param(
            [image_pair([target("dog", ALL)], [predicted("dog", LEFT), predicted("dog", RIGHT)])],
            {"dog": 1.0},
            1.0,
            id="in two",
        ),
        # (50 + 0) / (50 + 100): pixels of all images are added up first
        pytest.param(
            [
                image_pair([target("dog", LEFT)], [predicted("dog", LEFT)]),
                image_pair([target("dog", ALL)], file="b.jpg"),
            ],
            {"dog": 1 / 3},
            1 / 3,
            id="two images",
        ),
        pytest.param([image_pair([target("dog", LEFT)])], {"dog": 0.0}, 0.0, id="no prediction"),
        pytest.param([image_pair([], [predicted("dog", LEFT)])], {"dog": 0.0}, None, id="empty ground truth"),
        pytest.param([image_pair()], {}, None, id="nothing at all"),
        pytest.param(
            [image_pair([target("dog", LEFT)], [predicted("dog", LEFT), predicted("cat", LEFT)], ["dog", "cat"])],
            {"cat": 0.0, "dog": 1.0},
            1.0,
            id="the mean is of classes that are there",
        ),
        pytest.param(
            [image_pair([target("dog", LEFT), target("dog", RIGHT, is_crowd=True)], [predicted("dog", ALL)])],
            {"dog": 1.0},
            1.0,
            id="predictions in a crowd do not count",
        ),
        pytest.param(
            [
                image_pair(
                    [target("dog", LEFT), target("dog", ALL, is_crowd=True)], [predicted("dog", block(0, 0, 2, 10))]
                )
            ],
            {"dog": 20 / 50},
            20 / 50,
            id="objects in a crowd do",
        ),
        pytest.param(
            [image_pair([target("dog", ALL, is_crowd=True)], [predicted("dog", LEFT)])], {}, None, id="a crowd alone"
        ),
    ],
)
def test_class_iou_by_hand(pairs: list, classes: dict[str, float], mean: float | None):
    found = class_iou(pairs)
    assert found.classes == pytest.approx(classes)
    assert found.mean == (None if mean is None else pytest.approx(mean))

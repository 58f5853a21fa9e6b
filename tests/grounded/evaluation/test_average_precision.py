import dataclasses

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.average_precision import average_precision
from tests.grounded.evaluation.made import block, image_pair, predicted, target

LEFT, RIGHT = block(0, 0, 4, 5), block(5, 0, 4, 5)  # 20 pixels each
NONE = dict.fromkeys(("mean", "at_50", "at_75", "small", "medium", "large"))


def shifted(pixels: int) -> np.ndarray:
    """LEFT moved down: its IoU with LEFT is (5 - pixels) / (5 + pixels)."""
    return block(0, pixels, 4, 5)


@pytest.mark.parametrize("kind", ["mask", "box"])
@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param([image_pair([target("dog", LEFT)], [predicted("dog", LEFT)])], (1.0, 1.0, 1.0), id="all found"),
        pytest.param([image_pair([target("dog", LEFT)])], (0.0, 0.0, 0.0), id="no prediction"),
        # IoU 4/6: above the thresholds 0.50, 0.55, 0.60 and 0.65 out of ten
        pytest.param(
            [image_pair([target("dog", LEFT)], [predicted("dog", shifted(1))])], (0.4, 1.0, 0.0), id="not exactly"
        ),
        # recall 1/2 with precision 1: 51 of the 101 points of recall
        pytest.param(
            [image_pair([target("dog", LEFT), target("dog", RIGHT)], [predicted("dog", LEFT)])],
            (51 / 101,) * 3,
            id="half found",
        ),
        # a wrong prediction first: precision 1/2 from recall 0 to 1
        pytest.param(
            [image_pair([target("dog", LEFT)], [predicted("dog", RIGHT, 0.9), predicted("dog", LEFT, 0.8)])],
            (0.5,) * 3,
            id="wrong",
        ),
        pytest.param(
            [image_pair([target("dog", LEFT)], [predicted("dog", RIGHT, 0.7), predicted("dog", LEFT, 0.8)])],
            (1.0,) * 3,
            id="late",
        ),
        pytest.param(
            [image_pair([target("dog", LEFT)], [predicted("dog", RIGHT, float("nan")), predicted("dog", LEFT, 0.0)])],
            (1.0,) * 3,
            id="unknown scores last",
        ),
        # ranked over both images: right, wrong, right: precision 1 up to recall 1/2, then 2/3
        pytest.param(
            [
                image_pair([target("dog", LEFT)], [predicted("dog", LEFT, 0.9), predicted("dog", RIGHT, 0.5)]),
                image_pair([target("dog", LEFT)], [predicted("dog", LEFT, 0.4)], file="b.jpg"),
            ],
            ((51 + 50 * 2 / 3) / 101,) * 3,
            id="two images",
        ),
        pytest.param(
            [
                image_pair([target("dog", LEFT)], [predicted("dog", LEFT)]),
                image_pair([], [predicted("dog", LEFT, 0.95)], file="b.jpg"),
            ],
            (0.5,) * 3,
            id="an image with nothing",
        ),
        pytest.param(
            [
                image_pair(
                    [target("dog", LEFT), target("dog", RIGHT, is_crowd=True)],
                    [predicted("dog", LEFT, 0.5)] + [predicted("dog", RIGHT, 0.9)] * 2,
                )
            ],
            (1.0,) * 3,
            id="predictions in a crowd",
        ),
        pytest.param(
            [image_pair([target("dog", LEFT), target("cat", RIGHT)], [predicted("dog", LEFT)], ["dog", "cat"])],
            (0.5,) * 3,
            id="mean over classes",
        ),
        pytest.param(
            [image_pair([target("dog", LEFT), target("cat", RIGHT)], [predicted("dog", LEFT)], ["dog"])],
            (1.0,) * 3,
            id="a class outside the prompt",
        ),
        pytest.param(
            [image_pair([target("dog", LEFT)], [predicted("dog", LEFT), predicted("cat", RIGHT)], ["dog", "cat"])],
            (1.0,) * 3,
            id="a class that has no objects",
        ),
    ],
)
def test_by_hand(pairs: list, kind: str, expected: tuple[float, float, float]):
    overall = average_precision(pairs, kind).overall
    assert (overall.mean, overall.at_50, overall.at_75) == pytest.approx(expected)


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([], id="no images"),
        pytest.param([image_pair()], id="nothing at all"),
        pytest.param([image_pair([], [predicted("dog", LEFT)])], id="empty ground truth"),
        pytest.param([image_pair([target("dog", LEFT, is_crowd=True)])], id="a crowd alone"),
    ],
)
def test_undefined_without_objects(pairs: list):
    assert dataclasses.asdict(average_precision(pairs, "mask").overall) == NONE


def test_by_class_and_size():
    small, medium, large = (block(0, 0, side, side, (200, 200)) for side in (20, 60, 150))
    pairs = [
        image_pair([target("dog", small)], [predicted("dog", small)], ["dog", "cat"], "a.jpg", (200, 200)),
        image_pair([target("dog", medium)], [], ["dog", "cat"], "b.jpg", (200, 200)),
        image_pair([target("cat", large)], [predicted("cat", large)], ["dog", "cat"], "c.jpg", (200, 200)),
    ]
    found = average_precision(pairs, "mask")
    dog = found.classes["dog"]
    assert (dog.mean, dog.small, dog.medium) == pytest.approx((51 / 101, 1.0, 0.0))
    assert dog.large is None
    assert (found.classes["cat"].mean, found.classes["cat"].large) == pytest.approx((1.0, 1.0))
    assert (found.overall.small, found.overall.medium, found.overall.large) == pytest.approx((1.0, 0.0, 1.0))
    assert found.overall.mean == pytest.approx((51 / 101 + 1) / 2)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]):
    average_precision([image_pair([target("dog", LEFT)], [predicted("dog", LEFT)])], "box")
    assert capsys.readouterr() == ("", "")


def test_masks_are_needed_for_masks():
    boxes = [image_pair([dataclasses.replace(target("dog", LEFT), mask=None)], [predicted("dog", LEFT)])]
    assert average_precision(boxes, "box").overall.mean == pytest.approx(1.0)
    with pytest.raises(ResultError, match="without a mask"):
        average_precision(boxes, "mask")

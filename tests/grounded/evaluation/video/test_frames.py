import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.evaluation.video.clips import ClipInMemory, FrameObjects
from grounded.evaluation.video.frames import compare_frame
from grounded.evaluation.video.sources import ClipPair
from tests.grounded.evaluation.made import rle
from tests.grounded.evaluation.video.made import SIZE, masks, pair


def paired(truth: FrameObjects, prediction: FrameObjects) -> ClipPair:
    return ClipPair(ClipInMemory("a", {0: truth}), ClipInMemory("b", {0: prediction}), [0])


def objects(ignored: str | None = None, **places: str) -> FrameObjects:
    encoded = {int(name[1:]): rle(masks({1: place})[1]) for name, place in places.items()}
    return FrameObjects.from_rles(encoded, SIZE, rle(masks({1: ignored})[1]) if ignored else None)


def test_iou_of_masks_and_of_boxes():
    both = pair([{1: "left", 2: "right"}], [{5: "right", 6: "half left"}])
    comparison = compare_frame(both, 0, same_ids=False)
    assert comparison.iou.tolist() == [[0, 0.5], [1, 0]]
    boxes = FrameObjects((1,), np.array([[0.0, 0, 4, 4]]))
    comparison = compare_frame(paired(boxes, FrameObjects((1,), np.array([[0.0, 0, 4, 2]]))), 0)
    assert comparison.iou.tolist() == [[0.5]] and comparison.masks is None


def test_pairs():
    comparison = compare_frame(pair([{1: "left", 2: "right"}], [{1: "left", 3: "below"}]), 0)
    assert comparison.masks_of(1, 1) == (1, 1)
    assert comparison.masks_of(2, 2) == (0, 0), "not found"
    assert comparison.masks_of(3, 3) == (0, 0), "wrongly found"
    assert comparison.masks_of(4, 4) == (1, 1), "neither there nor found"
    assert compare_frame(pair([{1: "left"}], [{1: "left"}]), 0, measure_masks=False).masks is None


@pytest.mark.parametrize(
    ("truth", "prediction", "counted"),
    [
        pytest.param(objects(ignored="right", o1="left"), objects(o1="left", o2="right"), (1,), id="in the region"),
        pytest.param(objects(ignored="right", o1="left"), objects(o1="left", o2="below"), (1, 2), id="elsewhere"),
        pytest.param(objects(ignored="left", o1="left"), objects(o1="left"), (1,), id="a match counts"),
        pytest.param(objects(o1="left"), objects(), (), id="nothing"),
    ],
)
def test_predictions_in_ignored_pixels(truth: FrameObjects, prediction: FrameObjects, counted: tuple[int, ...]):
    comparison = compare_frame(paired(truth, prediction), 0)
    assert comparison.counted_ids == counted and comparison.iou.shape == (1, len(counted))


@pytest.mark.parametrize(
    ("same_ids", "region"),
    [pytest.param(True, 0.0, id="background where masks were given"), pytest.param(False, 1.0, id="else left out")],
)
def test_void_pixels(same_ids: bool, region: float):
    # The prediction covers void pixels alone.
    comparison = compare_frame(paired(objects(ignored="right"), objects(o1="right")), 0, same_ids=same_ids)
    assert (comparison.masks or {}).get((None, 1), (0, 0))[0] == region


def test_other_sizes_are_named():
    other = FrameObjects.from_masks({1: np.ones((4, 5), bool)}, (4, 5))
    with pytest.raises(ResultError, match=r"clip a, frame 0: .* of the truth, \(24, 40\), got \(4, 5\)"):
        compare_frame(paired(objects(o1="left"), other), 0)

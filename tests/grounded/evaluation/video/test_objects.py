import pytest

from grounded.errors import ResultError
from grounded.evaluation.video.objects import measure_given_objects, measure_matched_objects
from tests.grounded.evaluation.video.made import compared

LEFT, RIGHT, NONE = {1: "left"}, {1: "right"}, {}


@pytest.mark.parametrize(
    ("truth", "prediction", "region"),
    [
        pytest.param([LEFT] * 4, [LEFT] * 4, 1.0, id="perfect"),
        pytest.param([LEFT] * 4, [NONE, LEFT, LEFT, NONE], 1.0, id="first and last frame do not count"),
        pytest.param([LEFT] * 4, [LEFT, NONE, LEFT, LEFT], 0.5, id="missed half"),
        pytest.param([LEFT] * 4, [LEFT, {1: "half left"}, LEFT, LEFT], 0.75, id="half of it"),
        pytest.param([LEFT, NONE, LEFT, LEFT], [LEFT, NONE, LEFT, LEFT], 1.0, id="out of sight, rightly"),
        pytest.param([LEFT, NONE, LEFT, LEFT], [LEFT] * 4, 0.5, id="out of sight, wrongly found"),
        # What is seen from frame 1 on is measured in frames 2 and 3 of 5.
        pytest.param([NONE, *[LEFT] * 4], [NONE, NONE, LEFT, RIGHT, NONE], 0.5, id="seen later"),
    ],
)
def test_given_objects(truth: list, prediction: list, region: float):
    since = next(number for number, places in enumerate(truth) if places)
    (measured,) = measure_given_objects("a", compared(truth, prediction, same_ids=True), {1: since}, len(truth) - 1)
    assert (measured.id, measured.prediction) == (1, 1)
    assert measured.region.mean == pytest.approx(region)
    assert measured.frames == len(truth) - 2 - since


def test_swapped_ids_are_wrong_where_masks_were_given():
    truth, swapped = {1: "left", 2: "right"}, {2: "left", 1: "right"}
    frames = compared([truth] * 4, [truth, truth, swapped, truth], same_ids=True)
    measured = measure_given_objects("a", frames, {1: 0, 2: 0}, 3)
    assert [(one.region.mean, one.boundary.mean) for one in measured] == [(0.5, 0.5)] * 2


def test_ids_that_do_not_exist():
    frames = compared([LEFT] * 3, [LEFT, {7: "left"}, LEFT], same_ids=True)
    with pytest.raises(ResultError, match=r"clip a: the prediction must have the ids of the truth, \[1\], got \[7\]"):
        measure_given_objects("a", frames, {1: 0}, 2)


def test_an_object_of_the_last_frame_is_left_out():
    assert measure_given_objects("a", compared([NONE, NONE, LEFT], [NONE] * 3), {1: 2}, 2) == ()


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        pytest.param([LEFT] * 4, [{9: "left"}] * 4, {1: (9, 1.0)}, id="another id"),
        pytest.param([LEFT] * 4, [NONE] * 4, {1: (None, 0.0)}, id="empty prediction"),
        pytest.param([NONE] * 2, [LEFT] * 2, {}, id="empty truth"),
        pytest.param([LEFT, LEFT, NONE, NONE], [NONE] * 4, {1: (None, 0.5)}, id="rightly nothing in half the frames"),
        pytest.param(
            [LEFT] * 4, [{4: "left", 5: "right"}] * 3 + [{5: "left"}], {1: (4, 0.75)}, id="split track: the longer part"
        ),
        pytest.param(
            [{1: "left", 2: "right"}] * 2,
            [{3: "right", 8: "left"}, {3: "right", 8: "below"}],
            {1: (8, 0.5), 2: (3, 1.0)},
            id="two objects",
        ),
    ],
)
def test_matched_objects(truth: list, prediction: list, expected: dict):
    measured = measure_matched_objects(compared(truth, prediction))
    assert {one.id: (one.prediction, pytest.approx(one.region.mean)) for one in measured} == expected
    assert all(one.frames == len(truth) for one in measured)

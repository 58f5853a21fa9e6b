"""Rings from outside, against pycocotools, which draws what it is given at any price."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from segany.errors import MaskError
from segany.utils import polygons, rle
from tests.fuzzing import FUZZ_COUNTS, ODD_VALUES

SIZE = (30, 40)


def drawn(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects([ring.ravel().tolist()], *size))[..., 0]


@pytest.mark.parametrize("scale", [30, 100, 1000, 30_000])
def test_rings_that_leave_the_image_are_drawn_as_before(scale: int):
    rng = np.random.default_rng(scale)
    for _ in range(60):
        size = tuple(rng.integers(1, 80, 2).tolist())
        ring = rng.normal(size=(rng.integers(3, 9), 2)) * scale + rng.uniform(-10, 80, 2)
        cut = polygons.check_ring(ring, size)
        np.testing.assert_array_equal(drawn(cut, size), drawn(ring, size))
        assert np.abs(cut).max() <= 2 * max(size)


def test_rings_in_the_image_stay_as_they_are():
    ring = [1.5, 2, 10.25, 2, 10, 12.125]
    assert polygons.check_ring(ring, SIZE).ravel().tolist() == ring
    assert polygons.check_ring(np.reshape(ring, (3, 2)), SIZE).ravel().tolist() == ring


def test_nothing_is_spent_on_what_is_far_away():
    start = time.perf_counter()
    zigzag = [[(-1) ** i * 900_000.0, i % 7 * 100_000.0 - 300_000] for i in range(3001)]
    for _ in range(3):
        assert len(polygons.check_ring(zigzag, (1, 1))) < 50_000
    rle.rle_from_polygons([[-900_000, -900_000, 900_000, 900_000, 900_000, -900_000]], (4000, 6000))
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        pytest.param([], "three corners or more, got 0", id="nothing"),
        pytest.param([1, 2, 3, 4], "three corners or more, got 2", id="a line"),
        pytest.param([1, 2, 3, 4, 5, 6, 7], "an x and a y for each corner", id="odd"),
        pytest.param([[1, 2, 3]] * 3, "an x and a y for each corner", id="three numbers a corner"),
        pytest.param([1, 2, 3, 4, 5, None], "all of them numbers", id="null"),
        pytest.param(["1"] * 6, "all of them numbers", id="text"),
        pytest.param([True] * 6, "all of them numbers", id="bools"),
        pytest.param([[1, 2], [3]], "all of them numbers", id="ragged"),
        pytest.param([10**400] * 6, "all of them numbers", id="beyond any float"),
        pytest.param([1, 2, 3, 4, 5, float("nan")], "finite and within 1000000 pixels, got nan", id="nan"),
        pytest.param([1, 2, 3, 4, 5, float("inf")], "finite and within 1000000 pixels, got inf", id="inf"),
        pytest.param([1, 2, 3, 4, 5, -1e9], r"finite and within 1000000 pixels, got 1e\+09", id="far"),
        pytest.param(None, "a list of numbers, got None", id="none"),
        pytest.param("1 2 3", "a list of numbers, got '1 2 3'", id="a text"),
        pytest.param([-10, 0, 50, 30] * 30_000, "up to 2000000 pixels long, got ", id="a scribble without end"),
    ],
)
def test_what_is_no_ring(corners: Any, message: str):
    with pytest.raises(MaskError, match=message) as caught:
        polygons.check_ring(corners, SIZE)
    assert len(str(caught.value)) < 400
    with pytest.raises(MaskError, match=message):
        rle.rle_from_polygons([corners], SIZE)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param([3, 4], (3, 4), id="numbers"),
        pytest.param(("3", "4 "), (3, 4), id="text"),
        pytest.param([3.0, np.int32(4)], (3, 4), id="floats"),
        pytest.param([3, 0], None, id="nothing"),
        pytest.param([3, -4], None, id="negative"),
        pytest.param([3, 4.5], None, id="half a pixel"),
        pytest.param([3, True], None, id="a bool"),
        pytest.param([3], None, id="one side"),
        pytest.param([3, 4, 5], None, id="three sides"),
        pytest.param("34", None, id="a text"),
        pytest.param(None, None, id="none"),
        pytest.param([70_000, 70_000], None, id="too many pixels"),
        pytest.param([1, 10**30], None, id="too long"),
        pytest.param([float("nan"), float("inf")], None, id="not finite"),
    ],
)
def test_sizes(size: Any, expected: tuple[int, int] | None):
    if expected is not None:
        assert polygons.check_size(size) == expected
        return
    with pytest.raises(MaskError, match=r"two whole numbers|up to 4294967295 pixels"):
        polygons.check_size(size)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_any_ring_is_drawn_or_refused(count: int):
    numbers = st.floats(-60, 100) | st.integers(-2000, 2000) | st.sampled_from(ODD_VALUES)

    @settings(max_examples=count, deadline=5000, derandomize=True, database=None)
    @given(st.lists(numbers, max_size=12), st.tuples(st.integers(1, 50), st.integers(1, 50)))
    def check(corners: list[Any], size: tuple[int, int]) -> None:
        try:
            found = rle.rle_from_polygons([corners], size)
        except MaskError:
            return
        assert rle.check_rle(found, size) == found
        ring = np.array(corners, np.float64).reshape(-1, 2)
        np.testing.assert_array_equal(rle.decode_rle([found])[0].numpy(), drawn(ring, size) > 0)

    check()

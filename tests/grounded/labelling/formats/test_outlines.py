import time

import numpy as np
import pytest

from grounded.errors import MaskError
from grounded.labelling.formats.outlines import ellipse_ring, part_to_rle, rectangle_ring, ring_to_rle
from grounded.output.polygons import Polygon, mask_to_polygons, polygons_to_mask
from segany.utils.rle import decode_rle, rle_area
from tests.data import disk
from tests.grounded.labelling.formats.reading import SIZE, box
from tests.grounded.output.test_polygons import MASKS


@pytest.mark.parametrize(
    "mask", [mask for mask in MASKS.values() if mask.any()], ids=[n for n in MASKS if MASKS[n].any()]
)
def test_rings_are_drawn_as_polygons_are(mask: np.ndarray):
    for polygon in mask_to_polygons(mask):
        expected = polygons_to_mask([Polygon(polygon.outer)], mask.shape)
        found = decode_rle([ring_to_rle(polygon.outer, mask.shape)])[0].numpy()
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        pytest.param([[-10, -10], [5, -10], [5, 4], [-10, 4]], box(0, 4, 0, 5), id="across the corner"),
        pytest.param([[-99, 10], [999, 10], [999, 12], [-99, 12]], box(10, 12, 0, 40), id="across the image"),
        pytest.param([[50, 10], [60, 10], [60, 12]], box(0, 0, 0, 0), id="beside"),
        pytest.param([[3, 3], [3, 3], [3, 3]], box(0, 0, 0, 0), id="a point"),
        pytest.param([4, 3, 20, 3, 20, 15, 4, 15], box(3, 15, 4, 20), id="a flat list"),
    ],
)
def test_rings_are_cut_at_the_border(corners: list, expected: np.ndarray):
    np.testing.assert_array_equal(decode_rle([ring_to_rle(corners, SIZE)])[0].numpy(), expected)


def test_a_ring_costs_by_its_own_size():
    start = time.perf_counter()
    for _ in range(100):
        rle = ring_to_rle([[9000, 9000], [9010, 9000], [9010, 9010], [9000, 9010]], (14_000, 14_000))
    assert rle_area([rle])[0] == 100 and time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "corners", [None, [], [[1, 2], [3, 4]], [[np.nan, 1], [5, 5], [9, 1]], [[1e9, 1], [5, 5], [9, 1]]]
)
def test_what_is_no_ring(corners: object):
    with pytest.raises(MaskError):
        ring_to_rle(corners, SIZE)


@pytest.mark.parametrize(
    ("corner", "expected"),
    [
        pytest.param((5, 7), box(7, 10, 5, 9), id="inside"),
        pytest.param((-1, -2), box(0, 1, 0, 3), id="across the first corner"),
        pytest.param((38, 29), box(29, 30, 38, 40), id="across the last corner"),
        pytest.param((40, 0), box(0, 0, 0, 0), id="beside"),
        pytest.param((-4, 0), box(0, 0, 0, 0), id="before"),
    ],
)
def test_parts_of_images(corner: tuple[int, int], expected: np.ndarray):
    rle = part_to_rle(np.ones((3, 4), bool), corner, SIZE)
    np.testing.assert_array_equal(decode_rle([rle])[0].numpy(), expected)


def test_ellipses_and_rectangles_turn_clockwise():
    circle = decode_rle([ring_to_rle(ellipse_ring((20.5, 15.5), (9.0, 9.0), 30.0), SIZE)])[0].numpy()
    truth = disk(30, 40, 20, 15, 9)
    assert (circle & truth).sum() / (circle | truth).sum() > 0.98
    turned = decode_rle([ring_to_rle(rectangle_ring((20.0, 3.0), (12.0, 16.0), 90.0), SIZE)])[0].numpy()
    np.testing.assert_array_equal(turned, box(3, 15, 4, 20))

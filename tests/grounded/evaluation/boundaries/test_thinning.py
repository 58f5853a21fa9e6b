"""Thinning: lines one pixel wide, connected as before."""

import numpy as np
import pytest
from scipy import ndimage

from grounded.evaluation.boundaries.thinning import thin


def edges(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(edges("....", "...."), edges("....", "...."), id="nothing"),
        pytest.param(edges("#"), edges("#"), id="one pixel"),
        pytest.param(edges("......", ".####.", "......"), edges("......", ".####.", "......"), id="a thin line"),
        pytest.param(edges("#...", ".#..", "..#."), edges("#...", ".#..", "..#."), id="a diagonal"),
        pytest.param(edges("#####", "#####", "#####"), edges(".....", ".###.", "....."), id="a bar, up to the border"),
    ],
)
def test_thin(given: np.ndarray, expected: np.ndarray):
    np.testing.assert_array_equal(thin(given), expected)


def test_thinning_keeps_regions_and_is_final():
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).random((80, 90)), 2) > 0.5
    thinned = thin(blobs)
    assert thinned.sum() < blobs.sum() and not (thinned & ~blobs).any()
    counts = [ndimage.label(one, np.ones((3, 3)))[1] for one in (blobs, thinned)]
    assert counts[0] == counts[1]
    np.testing.assert_array_equal(thin(thinned), thinned)
    assert not ndimage.binary_erosion(thinned, np.ones((2, 2))).any()

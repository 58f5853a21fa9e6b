"""Masks as a segmenter might have drawn them."""

import numpy as np
import pytest

from recipes.tiny.crops import roughened


def _disc(side: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_outlines_move_a_little_and_nothing_else_does() -> None:
    mask = _disc(128, 60, 70, 30)
    drawn = [roughened(mask, np.random.default_rng(seed)) for seed in range(50)]
    overlaps = np.array([(one & mask).sum() / (one | mask).sum() for one in drawn])
    assert overlaps.min() > 0.5 and 0.75 < overlaps.mean() < 0.97
    areas = np.array([one.sum() for one in drawn]) / mask.sum()
    assert areas.min() < 1 < areas.max()
    assert all(one[_disc(128, 60, 70, 15)].all() and not one[~_disc(128, 60, 70, 45)].any() for one in drawn)


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.zeros((9, 9), bool), id="empty"),
        pytest.param(np.ones((9, 9), bool), id="the whole frame"),
        pytest.param(_disc(9, 0, 0, 0), id="a pixel in a corner"),
        pytest.param(_disc(40, 39, 20, 8), id="cut by the border"),
    ],
)
def test_a_mask_stays_a_mask_of_its_shape(mask: np.ndarray) -> None:
    for seed in range(20):
        drawn = roughened(mask, np.random.default_rng(seed))
        assert drawn.shape == mask.shape and drawn.dtype == bool
        assert drawn.any() == mask.any()

import numpy as np
import pytest

from grounded.evaluation.video.davis import (
    boundary_accuracy,
    measure_track,
    region_similarity,
    statistics,
)
from tests.grounded.evaluation.made import block

SIZE = (60, 80)


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    return block(x, y, width, height, SIZE)


def disc(x: int, y: int, radius: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def noise(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(SIZE) < share


NONE, FULL = np.zeros(SIZE, bool), np.ones(SIZE, bool)


# The numbers were computed with db_eval_iou and db_eval_boundary of davis2017-evaluation (commit ac7c43f).
@pytest.mark.parametrize(
    ("mask", "truth", "region", "boundary"),
    [
        pytest.param(rectangle(10, 10, 20, 15), rectangle(10, 10, 20, 15), 1.0, 1.0, id="same"),
        pytest.param(rectangle(12, 10, 20, 15), rectangle(10, 10, 20, 15), 0.8181818181818182, 0.6, id="shifted"),
        pytest.param(rectangle(16, 10, 20, 15), rectangle(10, 10, 20, 15), 0.5384615384615384, 17 / 35, id="far"),
        pytest.param(disc(30, 30, 15), disc(30, 33, 14), 0.7530201342281879, 0.41071428571428575, id="disc"),
        pytest.param(rectangle(0, 0, 30, 20), rectangle(0, 0, 33, 20), 0.9090909090909091, 62 / 101, id="at border"),
        pytest.param(FULL, rectangle(10, 10, 20, 15), 0.0625, 0.0, id="all of the image"),
        pytest.param(FULL, NONE, 0.0, 1.0, id="all against nothing: neither has a boundary"),
        pytest.param(NONE, NONE, 1.0, 1.0, id="both empty"),
        pytest.param(NONE, disc(30, 30, 15), 0.0, 0.0, id="nothing found"),
        pytest.param(disc(30, 30, 15), NONE, 0.0, 0.0, id="nothing there"),
        pytest.param(rectangle(40, 40, 1, 1), rectangle(41, 41, 1, 1), 0.0, 0.75, id="one pixel"),
        pytest.param(rectangle(79, 59, 1, 1), rectangle(78, 58, 2, 2), 0.25, 8 / 9, id="last pixel"),
        pytest.param(
            disc(40, 30, 20) & ~disc(40, 30, 8), disc(40, 30, 20), 0.8449799196787149, 0.8387096774193548, id="hole"
        ),
        pytest.param(noise(0, 0.5), noise(1, 0.02), 0.019183673469387756, 0.33167627758997814, id="noise"),
        pytest.param(
            disc(430, 240, 150, (480, 854)),
            disc(436, 247, 155, (480, 854)),
            0.9151440480247464,
            0.6270624143918722,
            id="480p, 8 pixels",
        ),
    ],
)
def test_region_and_boundary(mask: np.ndarray, truth: np.ndarray, region: float, boundary: float):
    assert region_similarity(mask, truth) == pytest.approx(region, abs=1e-12)
    assert boundary_accuracy(mask, truth) == pytest.approx(boundary, abs=1e-12)
    assert boundary_accuracy(truth, mask) == pytest.approx(boundary, abs=1e-12), "F does not know which is the truth"


# Computed with db_statistics of the same.
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.7], (0.7, 1.0, 0.0), id="one"),
        pytest.param([1, 0.2], (0.6, 0.5, 0.8), id="two"),
        pytest.param([0.9, 0.5, 0.4], (0.6, 1 / 3, 0.3), id="0.5 is not above 0.5"),
        pytest.param([0.9, 0.8, 0.6, 0.51, 0.5, 0.3, 0.2], (0.5442857142857144, 4 / 7, 0.5166666666666667), id="seven"),
        pytest.param(np.linspace(1, 0, 38), (0.5, 0.5, 0.7567567567567567), id="falling"),
        pytest.param(np.ones(1000), (1.0, 1.0, 0.0), id="more frames than 8 bits count"),
    ],
)
def test_statistics(values: list[float], expected: tuple[float, float, float]):
    assert statistics(np.array(values, np.float64)) == pytest.approx(expected, abs=1e-12)


def test_a_track_is_the_mean_of_its_frames():
    left, right = rectangle(12, 10, 20, 15), rectangle(10, 10, 20, 15)
    measured = measure_track([left, right], [right, right])
    assert measured == pytest.approx(((0.8181818181818182 + 1) / 2, 0.8))
    assert measured.mean == pytest.approx(sum(measured) / 2)
    with pytest.raises(ValueError, match="one frame or more"):
        measure_track([], [])

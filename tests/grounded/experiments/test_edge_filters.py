"""Sobel's and Canny's edges, and thinning along the gradient."""

import numpy as np
import pytest
from PIL import Image

from grounded.experiments.edge_filters import canny_edges, detect_edges, sobel_gradient, suppress_non_maxima


@pytest.mark.parametrize(
    ("axis", "direction"), [pytest.param(0, (1, 0), id="rows"), pytest.param(1, (0, 1), id="columns")]
)
def test_gradient_is_per_pixel_and_borders_are_no_edges(axis: int, direction: tuple[int, int]):
    ramp = np.moveaxis(np.tile(np.arange(9.0), (7, 1)), 1, axis)
    inner = sobel_gradient(ramp)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, np.broadcast_to(np.reshape(direction, (2, 1, 1)), inner.shape))
    assert not sobel_gradient(np.ones((5, 6))).any()


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        pytest.param((0, 1), [0, 0, 3, 0, 0], id="across the ridge: its crest stays"),
        pytest.param((0, -5), [0, 0, 3, 0, 0], id="the sign and length do not matter"),
        pytest.param((1, 0), [1, 2, 3, 2, 1], id="along the ridge: all stay"),
    ],
)
def test_suppression_follows_the_gradient(gradient: tuple[int, int], expected: list[int]):
    strength = np.tile([1.0, 2.0, 3.0, 2.0, 1.0], (6, 1))
    directions = np.broadcast_to(np.reshape(gradient, (2, 1, 1)).astype(float), (2, 6, 5)).copy()
    np.testing.assert_array_equal(suppress_non_maxima(strength, directions), np.tile(expected, (6, 1)))


@pytest.mark.parametrize("method", ["sobel", "canny"])
def test_a_step_is_one_line(method: str):
    pixels = np.zeros((30, 40), np.uint8)
    pixels[:, 20:] = 200
    edges = detect_edges(Image.fromarray(pixels), method)
    assert edges.max() == pytest.approx(1, abs=0.02) and set(np.nonzero(edges)[1]) <= {19, 20}
    assert not detect_edges(Image.new("RGB", (9, 8)), method).any()


def test_canny_keeps_weak_edges_that_are_connected_to_strong_ones():
    pixels = np.zeros((60, 40), np.uint8)
    pixels[:30, 20:] = 200
    pixels[30:, 20:] = 100  # half as strong: kept at the threshold of the strong part
    pixels[:, :6] = 100  # as strong as that, but by itself
    edges = canny_edges(pixels, sigma=1.0)
    assert edges[50, 19:21].max() > 0.9 > 0.6 > edges[50, 4:8].max() > 0

"""Clicks of a simulated user, and the IoU of the masks that the bundled segmenter gives for them."""

import numpy as np
import pytest
import torch

import segany
from grounded.experiments.points import _first_clicks, measure_clicks
from tests.data import disk


@pytest.fixture(scope="module")
def predictor() -> segany.Predictor:
    return segany.Predictor(segany.load("tiny"))


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, torch.Tensor]:
    truths = np.stack([disk(80, 100, 30, 40, 18), disk(80, 100, 75, 30, 12)])
    image = np.full((80, 100, 3), 230, np.uint8)
    image[truths[0]], image[truths[1]] = (200, 30, 30), (30, 60, 200)
    return image, torch.from_numpy(truths)


def test_the_first_click_is_the_centre_or_in_the_mask(scene: tuple):
    truths = scene[1]
    points, labels = _first_clicks(truths, "centre", None)
    torch.testing.assert_close(points[:, 0], torch.tensor([[30.0, 40.0], [75.0, 30.0]]))
    assert (labels == 1).all()
    for seed in range(5):
        points, labels = _first_clicks(truths, "random", torch.Generator().manual_seed(seed))
        x, y = points[:, 0].long().unbind(1)
        assert truths[torch.arange(2), y, x].all() and (labels == 1).all()


def test_clicks_are_measured_mask_by_mask(predictor: segany.Predictor, scene: tuple):
    image, truths = scene
    embedding = predictor.encode(image)
    found = measure_clicks(predictor, embedding, truths, clicks=3)
    assert found.best_scored.shape == found.oracle.shape == (2, 3)
    assert (found.oracle[:, 0] >= found.best_scored[:, 0]).all()
    assert found.oracle[:, 0].min() > 0.5
    single = measure_clicks(predictor, embedding, truths[1:], clicks=3)
    np.testing.assert_allclose(single.best_scored, found.best_scored[1:], atol=0.02)


def test_random_clicks_can_be_repeated(predictor: segany.Predictor, scene: tuple):
    image, truths = scene
    embedding = predictor.encode(image)
    runs = [
        measure_clicks(predictor, embedding, truths, "random", 2, torch.Generator().manual_seed(7)) for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0].best_scored, runs[1].best_scored)

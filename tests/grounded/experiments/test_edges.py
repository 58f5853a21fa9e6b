"""Edges by automatic masks: where they lie, and what is no edge."""

import numpy as np
import pytest
import torch
from PIL import Image

import segany
from grounded.experiments.edges import EdgeConfig, EdgeMaximum, automatic_edges, outer_boundary
from tests.data import PICNIC, disk


def prediction(logits: np.ndarray) -> segany.MaskPrediction:
    """Square logits as masks of an image of the same size."""
    low_res = torch.from_numpy(logits).float()[:, None]
    side = logits.shape[-1]
    return segany.MaskPrediction(low_res, torch.ones(len(logits), 1), (side, side), (side, side), side)


def test_outer_boundary_has_eight_neighbours():
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    ring = np.zeros((5, 5), bool)
    ring[1:4, 1:4] = True
    np.testing.assert_array_equal(outer_boundary(mask), ring & ~mask)
    assert not outer_boundary(np.ones((4, 4), bool)).any()


def test_edges_lie_around_masks_and_nowhere_else():
    mask = disk(64, 64, 30, 30, 12)
    logits = np.where(mask, 6.0, -6.0)
    logits[28:33, 28:33] = 0.5  # uncertain inside, yet in the mask
    edges = EdgeMaximum((64, 64))
    edges.add(prediction(logits[None]))
    found = edges.map(thinned=False)
    np.testing.assert_array_equal(found > 0, outer_boundary(mask))
    assert found.max() == 1
    assert not ((edges.map() > 0) & ~outer_boundary(mask)).any()


def test_the_strongest_mask_counts():
    left, both = np.full((32, 32), -1.0), np.full((32, 32), -8.0)
    left[:, :10] = 1.0
    both[:, :20] = 8.0
    edges = EdgeMaximum((32, 32))
    edges.add(prediction(np.stack([left, both])))
    found = edges.map()
    assert found[16, 20] == 1 and 0 < found[16, 10] < 1
    assert set(np.flatnonzero(found[16])) == {10, 20}


def test_no_mask_is_no_edge():
    edges = EdgeMaximum((16, 16))
    edges.add(prediction(np.full((2, 16, 16), -3.0)))
    assert not edges.map().any()


@pytest.mark.parametrize("fields", [{"points_per_side": 0}, {"points_per_batch": 0}, {"nms_threshold": 0.0}])
def test_settings_out_of_range(fields: dict):
    with pytest.raises(ValueError, match="must"):
        EdgeConfig(**fields)


def test_batches_do_not_change_edges():
    predictor = segany.Predictor(segany.load("tiny"))
    image = Image.open(PICNIC).convert("RGB").resize((120, 90))
    done: list[tuple[int, int]] = []
    maps = [
        automatic_edges(predictor, image, EdgeConfig(points_per_side=3, points_per_batch=batch), progress)
        for batch, progress in ((4, lambda *counts: done.append(counts)), (64, None))
    ]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-4)
    assert maps[0].shape == (90, 120) and maps[0].max() == 1
    assert done == [(4, 9), (8, 9), (9, 9)]

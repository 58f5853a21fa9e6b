import numpy as np
import pytest
import torch
from PIL import Image

import segany
from grounded.experiments.similar import pool_embedding, prompted_mask, similar_masks
from segany import Prompts
from segany.utils.rle import encode_rle, rle_iou
from tests.data import disk

SIZE = (100, 160)
# Two red disks and a blue one.
MASKS = np.stack([disk(*SIZE, 30, 30, 16), disk(*SIZE, 120, 70, 16), disk(*SIZE, 40, 80, 16)])


@pytest.fixture(scope="module")
def scene(predictor: segany.Predictor) -> tuple[Image.Image, segany.ImageEmbedding]:
    pixels = np.full((*SIZE, 3), 230, np.uint8)
    for mask, colour in zip(MASKS, [(200, 30, 30), (200, 30, 30), (20, 60, 220)], strict=True):
        pixels[mask] = colour
    image = Image.fromarray(pixels)
    return image, predictor.encode(image)


def test_pooling_averages_the_cells_of_a_mask(predictor: segany.Predictor, scene: tuple):
    _, embedding = scene
    whole = torch.ones(1, *SIZE, dtype=torch.bool)
    features = embedding.features[0]
    cells = [round(features.shape[-1] * side / max(SIZE)) for side in SIZE]
    expected = features[:, : cells[0], : cells[1]].mean(dim=(1, 2))
    torch.testing.assert_close(pool_embedding(predictor, embedding, whole)[0], expected, atol=0.05, rtol=0.05)
    point = torch.zeros_like(whole)
    point[0, 50, 80] = True
    assert torch.isfinite(pool_embedding(predictor, embedding, point)).all()  # smaller than a cell


@pytest.mark.parametrize("crops", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_other_red_disk_is_more_alike(predictor: segany.Predictor, scene: tuple, crops: bool):
    rles = encode_rle(MASKS)
    seen = []
    found = similar_masks(predictor, *scene, rles[0], rles, crops, lambda done, total: seen.append((done, total)))
    assert found.rles == (rles[1], rles[2]) and found.cosines[0] > found.cosines[1]  # without the query itself
    assert seen == ([(1, 3), (2, 3), (3, 3)] if crops else [])


def test_nothing_to_compare(predictor: segany.Predictor, scene: tuple):
    rles = encode_rle(MASKS[:1])
    assert len(similar_masks(predictor, *scene, rles[0], []).rles) == 0
    assert len(similar_masks(predictor, *scene, rles[0], rles).rles) == 0


def test_the_mask_of_a_prompt(predictor: segany.Predictor, scene: tuple):
    rle = prompted_mask(predictor, scene[1], Prompts(points=[[[30, 30]]], point_labels=[[1]]))
    assert rle_iou([rle], encode_rle(MASKS[:1]))[0, 0] > 0.5

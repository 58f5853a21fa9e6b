"""Drawn scenes as a COCO data set."""

from pathlib import Path

import numpy as np
from PIL import Image

from grounded.evaluation.dataset import read_ground_truth
from recipes.tiny.coco import faded, write_scenes
from recipes.tiny.scenes import draw_scene
from segany.utils.rle import decode_rle


def test_scenes_are_read_back(tmp_path: Path) -> None:
    truth = read_ground_truth(write_scenes(tmp_path, "test", 2, saturation=0.5))
    assert list(truth.sizes) == ["test-00000.png", "test-00001.png"] and truth.unusable == ()
    scene = draw_scene("test", 1)
    objects = truth.objects("test-00001.png")
    assert [one.label for one in objects] == [one.noun for one in scene.objects]
    for one, drawn in zip(objects, scene.objects, strict=True):
        assert np.array_equal(decode_rle([one.require_mask()])[0].numpy(), drawn.mask) and one.box == drawn.box
    assert np.array_equal(np.asarray(Image.open(tmp_path / "test-00001.png")), faded(scene.image, 0.5, 1.0))


def test_fading() -> None:
    image = np.array([[[255, 0, 0], [60, 60, 60]]], np.uint8)
    assert faded(image, 1.0, 1.0) is image
    assert faded(image, 0.0, 1.0)[0].tolist() == [[85, 85, 85], [60, 60, 60]]
    assert faded(image, 0.0, 0.5)[0].tolist() == [[106, 106, 106], [94, 94, 94]]


def test_every_scene_shows_the_noun(tmp_path: Path) -> None:
    truth = read_ground_truth(write_scenes(tmp_path, "test", 3, noun="robot"))
    assert all("robot" in {one.label for one in truth.objects(file)} for file in truth.sizes)

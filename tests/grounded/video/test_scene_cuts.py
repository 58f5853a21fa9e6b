"""Scene cuts, in drawn clips."""

import numpy as np
import pytest
from PIL import Image

from grounded.video.scene_cuts import SceneCuts
from recipes.video.clips import draw_clip


def scene(number: int) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in draw_clip("train", number, every=2).frames[:8]]


def cuts(images: list[Image.Image]) -> list[int]:
    detector = SceneCuts()
    return [number for number, image in enumerate(images) if detector.is_cut(image)]


@pytest.mark.parametrize("number", [0, 2, 3])
def test_none_in_one_scene(number: int):
    assert cuts(scene(number)) == []


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 3), (3, 4)])
def test_between_two_scenes(first: int, second: int):
    before = scene(first)
    size = before[0].size
    assert cuts(before + [image.resize(size) for image in scene(second)]) == [len(before)]


def test_a_flash_is_no_cut():
    frames = [np.asarray(image) for image in scene(0)]
    frames[3] = np.minimum(frames[3].astype(int) + 60, 255).astype(np.uint8)
    assert cuts([Image.fromarray(frame) for frame in frames]) == []


def test_the_first_frame_is_none():
    assert cuts(scene(0)[:1]) == []

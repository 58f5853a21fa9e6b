"""Drawn clips."""

import numpy as np
import pytest

from recipes.video.clips import FRAMES, draw_clip


def test_always_the_same():
    one, other = draw_clip("train", 5, every=16), draw_clip("train", 5, every=16)
    assert np.array_equal(one.frames, other.frames) and np.array_equal(one.labels, other.labels)
    assert one.objects == other.objects


@pytest.mark.parametrize("split", ["validation", "test"])
def test_splits_differ(split: str):
    one, other = draw_clip("train", 5, every=24).frames, draw_clip(split, 5, every=24).frames
    assert not np.array_equal(one, other)


def test_every_nth_frame_is_that_of_the_whole():
    whole, some = draw_clip("train", 3), draw_clip("train", 3, every=12)
    assert len(whole.frames) == FRAMES and np.array_equal(whole.frames[::12], some.frames)
    assert np.array_equal(whole.labels[::12], some.labels)


def test_labels_are_those_of_objects():
    for number in range(6):
        clip = draw_clip("train", number, every=8)
        assert clip.labels.max() <= len(clip.objects)
        assert clip.frames.shape[:3] == clip.labels.shape
        assert clip.frames.dtype == np.uint8

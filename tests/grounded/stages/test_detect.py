from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from grounded.data.detections import Detections
from grounded.data.image import SourceImage
from grounded.errors import PromptError
from grounded.stages.detect import detect, note_unread, select

FOUND = Detections(
    np.array([[0, 0, 9, 9], [1, 2, 3, 4]], np.float32), np.array([[0.9, 0.1], [0.2, 0.5]], np.float32), np.array([0, 1])
)


class Fixed:
    """A detector that sees the same in every image."""

    def detect(self, images: list[Image.Image], phrases: list[tuple[str, ...]]) -> list[Detections]:
        assert [image.size for image in images] == [(20, 10)] and phrases == [("a dog", "pizza")]
        return [FOUND]


def test_one_image():
    assert detect(Fixed(), SourceImage(Image.new("RGB", (20, 10))), ("a dog", "pizza")) is FOUND


@pytest.mark.parametrize(
    ("threshold", "count"), [(None, 2), (0.0, 2), (0.5, 2), (0.6, 1), (1.0, 0)], ids=["none", "0", "at", "above", "all"]
)
def test_a_threshold(threshold: float | None, count: int):
    assert len(select(FOUND, ("a dog", "pizza"), threshold)) == count


def test_a_threshold_applies_to_the_best_token():
    found = replace(FOUND, best_token_scores=np.array([0.9, 0.7], np.float32))
    assert len(select(found, ("a dog", "pizza"), 0.6)) == 2


def test_what_a_detector_cannot_read():
    class Reader(Fixed):
        def note_unread(self, phrases: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(f"cannot read {phrase}" for phrase in phrases)

    assert note_unread(Reader(), ("a dog",)) == ("cannot read a dog",)
    assert note_unread(Fixed(), ("a dog",)) == note_unread(None, ("a dog",)) == ()


def test_other_phrases():
    with pytest.raises(PromptError, match="detections must be of 3 phrases, got 2"):
        select(FOUND, ("a", "b", "c"), None)

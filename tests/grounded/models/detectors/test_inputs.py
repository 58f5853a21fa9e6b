import numpy as np
import pytest
from PIL import Image

from grounded.errors import ImageError, PromptError
from grounded.models.detectors.inputs import open_inputs


def test_pictures_and_phrases():
    array = np.zeros((3, 4, 3), np.uint8)
    pictures, phrases = open_inputs([array, Image.new("L", (5, 6))], [["a cat", "dog"], ()])
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (4, 3)), ("RGB", (5, 6))]
    assert phrases == [("a cat", "dog"), ()]


def test_nothing():
    assert open_inputs([], []) == ([], [])


@pytest.mark.parametrize(
    ("images", "phrases", "error", "message"),
    [
        pytest.param([Image.new("RGB", (2, 2))], [], ValueError, "one list per image, got 0 for 1", id="too few lists"),
        pytest.param([], [["a cat"]], ValueError, "one list per image, got 1 for 0", id="too many lists"),
        pytest.param([Image.new("RGB", (2, 2))], ["a cat"], PromptError, "got 'a cat'", id="text that was not parsed"),
        pytest.param([np.zeros((4, 4, 3))], [["a cat"]], ImageError, "must be uint8", id="not a picture"),
    ],
)
def test_bad_input(images: list, phrases: list, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        open_inputs(images, phrases)

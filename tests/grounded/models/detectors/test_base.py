import numpy as np
import pytest
import torch
from PIL import Image

from grounded.errors import ImageError, PromptError
from grounded.models.detectors.base import open_inputs, select, to_pixels


def test_images_and_phrases():
    array = np.zeros((3, 4, 3), np.uint8)
    images, phrases = open_inputs([array, Image.new("L", (5, 6))], [["a cat", "dog"], ()])
    assert [(image.mode, image.size) for image in images] == [("RGB", (4, 3)), ("RGB", (5, 6))]
    assert phrases == [("a cat", "dog"), ()]
    assert open_inputs([], []) == ([], [])


@pytest.mark.parametrize(
    ("images", "phrases", "error", "message"),
    [
        pytest.param([Image.new("RGB", (2, 2))], [], ValueError, "one list per image, got 0 for 1", id="too few lists"),
        pytest.param([], [["a cat"]], ValueError, "one list per image, got 1 for 0", id="too many lists"),
        pytest.param([Image.new("RGB", (2, 2))], ["a cat"], PromptError, "got 'a cat'", id="text that was not parsed"),
        pytest.param([np.zeros(4)], [["a cat"]], ImageError, "an image array must be", id="not an image"),
    ],
)
def test_bad_input(images: list, phrases: list, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        open_inputs(images, phrases)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([0.5, 0.5, 1.0, 1.0], [0, 0, 200, 100], id="the whole image"),
        pytest.param([0.25, 0.5, 0.1, 0.2], [40, 40, 60, 60], id="inside"),
        pytest.param([0.0, 1.0, 0.5, 0.5], [0, 75, 50, 100], id="cut at two borders"),
        pytest.param([1.2, 0.5, 0.2, 0.2], [200, 40, 200, 60], id="outside: no area is left"),
    ],
)
def test_to_pixels(box: list[float], expected: list[float]):
    torch.testing.assert_close(
        to_pixels(torch.tensor([box]), (100, 200))[0], torch.tensor(expected, dtype=torch.float32)
    )


# Two boxes that nearly coincide (IoU 0.9), one apart, one without area.
BOXES = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [5, 5, 5, 9]], dtype=torch.float32)
DEFAULTS = {"box_threshold": 0.25, "nms_threshold": 0.7}


@pytest.mark.parametrize(
    ("scores", "options", "queries", "phrases"),
    [
        pytest.param([[0.5], [0.6], [0.4], [0.9]], {}, [1, 2], [0, 0], id="duplicate of one phrase, box without area"),
        pytest.param(
            [[0.5, 0.1], [0.2, 0.6], [0.4, 0.3], [0, 0]], {}, [1, 0, 2], [1, 0, 0], id="two phrases, one place"
        ),
        pytest.param(
            [[0.5, 0.1], [0.2, 0.6], [0.4, 0.3], [0, 0]], {"cross_phrase_nms": 0.7}, [1, 2], [1, 0], id="across phrases"
        ),
        pytest.param([[0.5], [0.6], [0.4], [0.9]], {"nms_threshold": 0.95}, [1, 0, 2], [0, 0, 0], id="lax NMS"),
        pytest.param([[0.5], [0.6], [0.4], [0.9]], {"max_detections": 1}, [1], [0], id="only the best"),
        pytest.param([[0.25], [0.1], [0.2], [0.9]], {}, [0], [0], id="the threshold itself passes"),
        pytest.param([[0.1], [0.1], [0.1], [0.1]], {}, [], [], id="nothing above the threshold"),
    ],
)
def test_select(scores: list[list[float]], options: dict, queries: list[int], phrases: list[int]):
    chosen, phrase_ids = select(BOXES, torch.tensor(scores), **{**DEFAULTS, **options})
    assert (chosen.tolist(), phrase_ids.tolist()) == (queries, phrases)


def test_thresholds_and_suppression_go_by_the_best_token_and_the_order_by_the_mean():
    scores = torch.tensor([[0.2, 0.1], [0.25, 0.1], [0.3, 0.1], [0.9, 0.9]])
    best = torch.tensor([[0.5, 0.9], [0.4, 0.9], [0.35, 0.9], [0.9, 0.9]])
    chosen, phrase_ids = select(BOXES, scores, best, **DEFAULTS)
    assert (chosen.tolist(), phrase_ids.tolist()) == ([2, 0], [0, 0])  # of 0 and 1 the one of the better token
    chosen, _ = select(BOXES, scores, best, box_threshold=0.4, nms_threshold=0.7)
    assert chosen.tolist() == [0]


def test_select_from_nothing():
    chosen, phrase_ids = select(torch.zeros(0, 4), torch.zeros(0, 3), **DEFAULTS, cross_phrase_nms=0.5)
    assert chosen.shape == phrase_ids.shape == (0,)

import numpy as np
import pytest
import torch

from grounded.errors import PromptError
from grounded.prompts import build
from grounded.types import Detections

BOXES = np.array([[0, 0, 9, 9], [1, 2, 3, 4], [5, 5, 8, 7]], np.float32)
DETECTIONS = Detections(BOXES, np.array([[0.9, 0.1], [0.2, 0.7], [0.5, 0.4]], np.float32), np.array([0, 1, 0]))
TEXT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])


def test_boxes():
    prompts = build(DETECTIONS, None, "box")
    assert torch.equal(prompts.boxes, torch.from_numpy(BOXES))
    assert prompts.text is None


def test_boxes_leave_embeddings_out():
    assert build(DETECTIONS, TEXT, "box").text is None


def test_boxes_with_the_text_of_their_phrase():
    prompts = build(DETECTIONS, TEXT, "box+text")
    assert torch.equal(prompts.boxes, torch.from_numpy(BOXES))
    assert torch.equal(prompts.text, TEXT[[0, 1, 0]][:, None])


def test_text_gives_one_prompt_per_phrase():
    prompts = build(None, TEXT, "text")
    assert torch.equal(prompts.text, TEXT[:, None])
    assert prompts.boxes is None


@pytest.mark.parametrize("mode", ["box", "box+text"])
def test_no_detections(mode: str):
    assert len(build(Detections.empty(2), TEXT, mode)) == 0


@pytest.mark.parametrize(
    ("detections", "text", "mode", "message"),
    [
        pytest.param(None, TEXT, "box", "mode 'box' needs detections", id="box"),
        pytest.param(None, TEXT, "box+text", "needs detections", id="box+text without boxes"),
        pytest.param(DETECTIONS, None, "box+text", "needs text embeddings", id="box+text without text"),
        pytest.param(DETECTIONS, None, "text", "mode 'text' needs text embeddings", id="text"),
        pytest.param(DETECTIONS, TEXT[:1], "box+text", "one per phrase, 2, got 1", id="too few embeddings"),
    ],
)
def test_what_a_mode_lacks(detections: Detections | None, text: torch.Tensor | None, mode: str, message: str):
    with pytest.raises(PromptError, match=message):
        build(detections, text, mode)

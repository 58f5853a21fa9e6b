import numpy as np
import pytest
import torch

from grounded.data.detections import Detections
from grounded.errors import PromptError
from grounded.stages.prompt import build, build_dense
from tests.data import unchecked

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


# Two phrases with a peak, perhaps a second one, and a trough.
POINTS = torch.tensor([[[2.0, 3.0], [6.0, 6.0], [20.0, 20.0]], [[2.0, 3.0], [50.0, 50.0], [2.0, 2.0]]])
LABELS = torch.tensor([[1, 1, 0], [1, -1, 0]])
MASKS = torch.arange(2 * 16.0).reshape(2, 1, 4, 4)


def test_heat_gives_one_prompt_per_phrase():
    prompts = build_dense(POINTS, LABELS, MASKS)
    assert torch.equal(prompts.points, POINTS)
    assert torch.equal(prompts.point_labels, LABELS)
    assert torch.equal(prompts.masks, MASKS)
    assert prompts.boxes is None and prompts.text is None


def test_heat_beside_boxes_keeps_the_points_that_agree_with_the_box():
    prompts = build_dense(POINTS, LABELS, MASKS, DETECTIONS)
    assert torch.equal(prompts.boxes, torch.from_numpy(BOXES))
    assert torch.equal(prompts.points, POINTS[[0, 1, 0]])
    # Box 1 holds the peak and the trough of its phrase, box 2 only the second peak of its own.
    assert prompts.point_labels.tolist() == [[1, 1, 0], [1, -1, -1], [-1, 1, 0]]
    assert prompts.masks is None and prompts.text is None


@pytest.mark.parametrize("detections", [None, Detections.empty(0)], ids=["alone", "beside boxes"])
def test_no_heat(detections: Detections | None):
    assert len(build_dense(POINTS[:0], LABELS[:0], MASKS[:0], detections)) == 0


def test_heat_beside_no_boxes():
    assert len(build_dense(POINTS, LABELS, MASKS, Detections.empty(2))) == 0


@pytest.mark.parametrize(
    ("points", "masks", "detections"),
    [
        pytest.param(POINTS, MASKS[:1], None, id="too few masks"),
        pytest.param(POINTS[:1], MASKS, None, id="too few points"),
        pytest.param(POINTS, MASKS, Detections.empty(3), id="too few phrases"),
    ],
)
def test_heat_of_other_phrases(points: torch.Tensor, masks: torch.Tensor, detections: Detections | None):
    with pytest.raises(PromptError, match="one row per phrase"):
        unchecked(build_dense)(points, LABELS[: len(points)], masks, detections)

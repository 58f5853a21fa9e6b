"""Prompts to instances, on the example with the bundled weights."""

import numpy as np
import pytest
import torch

from grounded.data.clicks import Clicks
from grounded.data.detections import Detections
from grounded.errors import ConfigError
from grounded.stages.prompt import PromptGroup, prompt_boxes
from grounded.stages.segment import encode_masks, segment
from segany import MaskPrediction, Prompts
from segany.utils.rle import encode_rle, rle_boxes

BOXES = np.array([[380, 190, 575, 350], [100, 300, 300, 450]], np.float32)
SCORES = np.array([[0.9, 0.1], [0.2, 0.6]], np.float32)
PHRASES = ("dog", "pizza")


@pytest.fixture(scope="module")
def group() -> PromptGroup:
    return prompt_boxes(Detections(BOXES, SCORES, np.array([0, 1])), Clicks.read(None, None, (480, 640)))


def test_detections_keep_their_boxes_and_scores(predictor, embedding, group: PromptGroup):
    found = segment(predictor, embedding, group, PHRASES)
    prediction = predictor.predict(embedding, group.prompts, multimask_output=False)
    assert list(found.rles) == encode_rle(prediction.masks[:, 0])
    np.testing.assert_array_equal(found.boxes, BOXES)
    np.testing.assert_array_equal(found.phrase_scores, SCORES)
    np.testing.assert_array_equal(found.scores, [np.float32(0.9), np.float32(0.6)])
    np.testing.assert_array_equal(found.predicted_iou, prediction.predicted_iou[:, 0])
    assert np.isnan(found.clip_scores).all()
    assert found.sources.tolist() == ["detector"] * 2 and list(found.labels) == ["dog", "pizza"]


def test_clicks_get_tight_boxes_and_the_best_of_three_masks(predictor, embedding):
    prompts = Prompts(points=[[[470.0, 270.0]]], point_labels=[[1]])
    found = segment(predictor, embedding, PromptGroup("point", prompts, np.array([1])), PHRASES, multimask_output=True)
    best = predictor.predict(embedding, prompts, multimask_output=True).best()
    assert list(found.rles) == encode_rle(best.masks[:, 0])
    np.testing.assert_array_equal(found.boxes, rle_boxes(found.rles))
    assert np.isnan(found.detector_scores).all() and list(found.labels) == ["pizza"]


def test_each_prompt_alone_equals_all(predictor, embedding, group: PromptGroup):
    together = segment(predictor, embedding, group, PHRASES)
    for row in range(2):
        detections = group.detections[row]
        alone = prompt_boxes(detections, Clicks.read(None, None, (480, 640)))
        assert segment(predictor, embedding, alone, PHRASES).rles == together[row].rles


def test_no_prompts(predictor, embedding):
    empty = prompt_boxes(Detections.empty(2), Clicks.read(None, None, (480, 640)))
    found = segment(predictor, embedding, empty, PHRASES)
    assert len(found) == 0 and found.phrases == PHRASES and found.image_size == (480, 640)


def test_coarse_masks_need_a_segmenter_that_takes_them(embedding):
    class PromptsAlone:
        def encode(self, image):
            raise NotImplementedError

        def predict(self, embedding, prompts, multimask_output=True):
            raise NotImplementedError

    prompts = Prompts(points=[[[1.0, 1.0]]], point_labels=[[1]])
    group = PromptGroup("text", prompts, np.array([0]), coarse_masks=torch.zeros(1, 4, 4))
    with pytest.raises(ConfigError, match="need a segmenter with mask prompts, got PromptsAlone"):
        segment(PromptsAlone(), embedding, group, PHRASES)


def test_masks_of_a_large_image_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch):
    logits = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    prediction = MaskPrediction(logits, torch.ones(5, 1), (48, 64), (48, 64), 64)
    expected = encode_masks(prediction)
    monkeypatch.setattr("grounded.stages.segment._PIXELS_AT_ONCE", 2 * 48 * 64)
    assert encode_masks(prediction) == expected

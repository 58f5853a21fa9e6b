import pytest

from grounded import config
from grounded.data.image import open_image
from grounded.errors import PromptError
from grounded.labelling.review.clicks import ClickSegmenter
from grounded.pipeline import Pipeline
from segany import CheckpointError
from tests.data import PICNIC
from tests.grounded.labelling.review.runs import example_record


def test_the_pipeline_returns_the_same(bundled: Pipeline, segmenter: ClickSegmenter):
    image, record = open_image(PICNIC), example_record("picnic", "picnic.png")
    points, labels = [[480.0, 300.0], [20.0, 20.0]], [1, 0]
    one = record.instances[0]
    corrected = segmenter.segment(image, "dog", points, labels, one)
    assert corrected.rles == bundled.refine(image, one, 0, points, labels).rles
    assert corrected.labels.tolist() == ["dog"] and segmenter.is_loaded
    new = segmenter.segment(image, "dog", points[:1], labels[:1])
    assert new.rles == bundled.candidates(image, "dog", points[:1], labels[:1]).rles and 1 <= len(new) <= 3


def test_no_clicks(segmenter: ClickSegmenter):
    with pytest.raises(PromptError):
        segmenter.segment(open_image(PICNIC), "dog", [], [])


def test_weights_are_not_loaded_before_the_first_click():
    made = ClickSegmenter(config.override(config.load("tiny"), segmenter={"checkpoint": "bundled:none"}))
    assert not made.is_loaded
    with pytest.raises(CheckpointError, match="none"):
        made.segment(open_image(PICNIC), "dog", [[1.0, 1.0]], [1])
    assert not made.is_loaded

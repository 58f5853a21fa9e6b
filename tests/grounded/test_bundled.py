"""The bundled weights on the example: what is found is what is there."""

import numpy as np
import pytest
from PIL import Image

from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.pipeline import Pipeline
from tests.data import PICNIC, picnic_truth
from tests.grounded.test_pipeline import assert_same

# Words that the bundled detector knows and that look like nothing in the example. How often look-alikes are taken for
# what is there is a figure of recipes.tiny.evaluate.
KNOWN = ("helicopter", "bicycle", "television", "tractor")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_config("tiny", device="cpu")


@pytest.fixture(scope="module")
def truth() -> dict[str, list[np.ndarray]]:
    return picnic_truth()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def covered(instances: Instances, phrase: str, masks: list[np.ndarray], threshold: float) -> int:
    """How many of the true masks are matched by an instance of that phrase."""
    found = instances[instances.labels == phrase].masks
    return sum(any(iou(mask, one) >= threshold for one in found) for mask in masks)


def test_finds_what_is_there(pipeline: Pipeline, truth: dict[str, list[np.ndarray]]):
    instances = pipeline.segment(PICNIC, list(truth))
    for phrase, masks in truth.items():
        assert covered(instances, phrase, masks, threshold=0.5) == len(masks), phrase
    assert len(instances) <= sum(map(len, truth.values())) + 1


def test_the_dog_is_the_dog(pipeline: Pipeline, truth: dict[str, list[np.ndarray]]):
    best = pipeline.segment(PICNIC, "dog")[0]
    assert best.labels.tolist() == ["dog"]
    assert max(iou(best.masks[0], mask) for mask in truth["dog"]) > 0.8
    assert best.sources.tolist() == ["detector"]


@pytest.mark.parametrize("phrase", [*KNOWN, "zeppelin", "a mailbox", "qwzx"])
def test_an_absent_phrase_finds_nothing(pipeline: Pipeline, phrase: str):
    instances = pipeline.segment(PICNIC, phrase)
    assert len(instances) == 0
    assert instances.phrases == (phrase,)
    assert instances.masks.shape == (0, *instances.image_size)


def test_absent_phrases_do_not_disturb_the_others(pipeline: Pipeline, truth: dict[str, list[np.ndarray]]):
    absent = [word for word in KNOWN if not any(word in phrase for phrase in truth)][:2]
    instances = pipeline.segment(PICNIC, ["dog", *absent])
    assert set(instances.labels.tolist()) == {"dog"}


def test_batch_equals_single(pipeline: Pipeline, truth: dict[str, list[np.ndarray]]):
    image = Image.open(PICNIC).convert("RGB")
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    images, texts = [image, small, image, image], ["dog", "dog", ". ".join(truth), "helicopter"]
    for one, text, together in zip(images, texts, pipeline.segment_batch(images, texts), strict=True):
        assert together.phrases == parse(text)
        assert_same(together, pipeline.segment(one, text))


def test_boxes_alone_find_the_dog(truth: dict[str, list[np.ndarray]]):
    best = Pipeline.from_config("tiny", device="cpu", mode="box").segment(PICNIC, "dog")[0]
    assert max(iou(best.masks[0], mask) for mask in truth["dog"]) > 0.7
    assert best.sources.tolist() == ["detector"]


@pytest.mark.parametrize(
    ("text_prompt", "phrases"),
    [("adapter", ["dog", "pizza", "watermelon", "butterfly", "balloon"]), ("dense-clip", ["dog", "balloon"])],
)
def test_text_alone_finds_what_it_names(truth: dict[str, list[np.ndarray]], text_prompt: str, phrases: list[str]):
    pipeline = Pipeline.from_config("tiny", device="cpu", mode="text", text_prompt=text_prompt)
    instances = pipeline.segment(PICNIC, phrases)
    assert set(instances.sources.tolist()) == {"text"}
    assert np.isnan(instances.detector_scores).all()
    for phrase in phrases:
        assert covered(instances, phrase, truth[phrase], threshold=0.6) == 1, phrase


def test_clip_judges_each_mask(pipeline: Pipeline):
    instances = pipeline.segment(PICNIC, "dog. pizza")
    assert (instances.clip_scores > 0.9).all()
    np.testing.assert_allclose(instances.scores**2, instances.clip_scores * instances.detector_scores, rtol=1e-5)


@pytest.mark.slow
def test_what_the_detector_missed_is_found_among_all_masks(truth: dict[str, list[np.ndarray]]):
    fallback = {"source": "automatic", "points_per_side": 12}
    instances = Pipeline.from_config("tiny", device="cpu", box_threshold=1.0, fallback=fallback).segment(
        PICNIC, ["dog", "balloon", "helicopter"]
    )
    assert set(instances.sources.tolist()) == {"automatic"}
    assert set(instances.labels.tolist()) == {"dog", "balloon"}
    for phrase in ("dog", "balloon"):
        assert covered(instances, phrase, truth[phrase], threshold=0.6) == 1, phrase

"""The bundled weights on the example: what is found is what is there."""

import numpy as np
import pytest
from PIL import Image

from grounded.phrases import parse
from grounded.pipeline import Pipeline
from grounded.types import Instances
from tests.data import PICNIC, needs_bundled_weights, picnic_truth
from tests.grounded.test_pipeline import assert_same

pytestmark = needs_bundled_weights

# Words that the bundled detector knows; those that the example shows are left out.
KNOWN = ("helicopter", "violin", "penguin", "bicycle", "wolf", "television", "tractor", "panda")


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
        assert covered(instances, phrase, masks, threshold=0.75) == len(masks), phrase
        assert (instances.labels == phrase).sum() == len(masks), phrase


def test_the_dog_is_the_dog(pipeline: Pipeline, truth: dict[str, list[np.ndarray]]):
    best = pipeline.segment(PICNIC, "dog")[0]
    assert best.labels.tolist() == ["dog"]
    assert max(iou(best.masks[0], mask) for mask in truth["dog"]) > 0.8
    assert best.sources.tolist() == ["detector"]


def test_absent_phrases_find_nothing(pipeline: Pipeline, truth: dict[str, list[np.ndarray]]):
    absent = [word for word in KNOWN if not any(word in phrase for phrase in truth)]
    instances = pipeline.segment(PICNIC, absent)
    assert len(instances) == 0
    assert instances.phrases == tuple(absent)
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


@pytest.mark.parametrize(("mode", "threshold"), [("text", 0.5), ("box+text", 0.75)])
def test_other_modes_find_the_dog(truth: dict[str, list[np.ndarray]], mode: str, threshold: float):
    best = Pipeline.from_config("tiny", device="cpu", mode=mode).segment(PICNIC, "dog")[0]
    assert max(iou(best.masks[0], mask) for mask in truth["dog"]) > threshold
    assert best.sources.tolist() == ["text" if mode == "text" else "detector"]

"""The contract that every detector fulfils, on a tiny checkpoint of each family."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.config import DetectorConfig
from grounded.data.detections import Detections
from grounded.data.protocols import Detector
from grounded.errors import CheckpointError, ConfigError, PromptError
from grounded.models import detectors
from segany.utils.boxes import box_iou
from tests.grounded import builders
from tests.grounded.conftest import random_image
from tests.grounded.models.detectors import tiny_models

CHECKPOINTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "grounding-dino": ("grounding-dino", lambda folder: builders.save_detector(folder, "grounding-dino")),
    "mm-grounding-dino": ("grounding-dino", lambda folder: builders.save_detector(folder, "mm-grounding-dino")),
    "llmdet": ("grounding-dino", tiny_models.save_llmdet),
    "groundingdino-py": ("groundingdino-py", tiny_models.save_original),
    "owlvit": ("owl", lambda folder: tiny_models.save_owl(folder, "owlvit")),
    "owlv2": ("owl", lambda folder: tiny_models.save_owl(folder, "owlv2")),
}
# 64 pixels: the original package would take 800. The models on transformers have their size in a file.
IMAGE_SIZE = {"groundingdino-py": 64}
COLORS, NOUNS = ("red", "green", "blue", "hot"), ("cat", "dog", "mug", "ball", "pizza")
MANY = [f"a {color} {noun} {i}" for i in range(3) for color in COLORS for noun in NOUNS]

Build = Callable[..., Detector]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Builds a detector of one kind out of its tiny checkpoint, with given fields of its configuration."""
    kind, save = CHECKPOINTS[request.param]
    checkpoint = save(tmp_path_factory.mktemp(request.param))
    built: dict[str, Detector] = {}

    def build_once(**fields: object) -> Detector:
        # The scores of random weights mean nothing, so every query passes.
        fields = {"box_threshold": 0.0, "nms_threshold": 1.0, "image_size": IMAGE_SIZE.get(kind), **fields}
        if str(fields) not in built:
            built[str(fields)] = detectors.build(DetectorConfig(kind=kind, checkpoint=str(checkpoint), **fields))
        return built[str(fields)]

    yield build_once


def check(found: Detections, image: Image.Image, phrase_count: int) -> None:
    """Check that detections are well formed."""
    n = len(found)
    assert found.boxes.shape == (n, 4) and found.boxes.dtype == np.float32
    assert found.scores.shape == (n, phrase_count) and found.scores.dtype == np.float32
    assert found.phrase_ids.shape == (n,) and found.phrase_ids.dtype == np.int64
    assert set(found.phrase_ids.tolist()) <= set(range(phrase_count))
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [image.width, image.height] * 2).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (np.diff(found.score) <= 0).all()
    np.testing.assert_array_equal(found.score, found.scores.max(axis=1, initial=0))
    assert found.best_token_scores.shape == (n,) and found.best_token_scores.dtype == np.float32
    assert (found.best_token_scores >= found.score - 1e-6).all()


def assert_same(actual: Detections, expected: Detections) -> None:
    assert actual.phrase_ids.tolist() == expected.phrase_ids.tolist()
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-4)


def test_it_is_a_detector(build: Build):
    assert isinstance(build(), Detector)


@pytest.mark.parametrize(
    ("size", "phrases"),
    [
        pytest.param((60, 80), ["a cat"], id="one phrase"),
        pytest.param((80, 45), ["a cat", "cat", "dog", "a red mug"], id="several, one within another"),
        pytest.param((60, 80), MANY, id="a very long list"),
    ],
)
def test_detections_are_well_formed(build: Build, size: tuple[int, int], phrases: list[str]):
    image = random_image(*size)
    (found,) = build().detect([image], [phrases])
    assert len(found) > 0
    check(found, image, len(phrases))


def test_thresholds(build: Build):
    """Queries that score enough become detections, and of those that nearly coincide only the best."""
    image = random_image()
    (all_queries,) = build().detect([image], [["a cat", "dog"]])
    enough = float(np.median(all_queries.best_token_scores))
    (found,) = build(box_threshold=enough, nms_threshold=0.7).detect([image], [["a cat", "dog"]])
    check(found, image, 2)
    assert 0 < len(found) < len(all_queries)
    assert (found.best_token_scores >= enough).all()
    for phrase_id in set(found.phrase_ids.tolist()):
        boxes = torch.from_numpy(found.boxes[found.phrase_ids == phrase_id])
        assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.7


def test_the_default_settings(build: Build):
    """Those of the settings: nothing below 0.3, which random weights may or may not reach."""
    image = random_image()
    (all_queries,) = build().detect([image], [["a cat", "dog"]])
    (found,) = build(box_threshold=0.3, nms_threshold=0.7).detect([image], [["a cat", "dog"]])
    check(found, image, 2)
    assert (found.best_token_scores >= 0.3).all()
    assert (len(found) > 0) == bool((all_queries.best_token_scores >= 0.3).any())


def test_an_image_of_one_pixel(build: Build):
    image = random_image(1, 1)
    (found,) = build().detect([image], [["a cat", "dog"]])
    check(found, image, 2)
    assert len(found) > 0
    assert (found.boxes[:, 2:] - found.boxes[:, :2] <= 1).all()


@pytest.mark.parametrize(
    ("sizes", "phrases"),
    [
        pytest.param([(60, 80)] * 2, [["a cat", "dog"], ["a red mug"]], id="one size, two prompts"),
        pytest.param([(60, 80)] * 3, [["a cat"], ["dog"], ["a cat"]], id="a prompt twice"),
        pytest.param([(60, 80), (90, 50)], [["a cat"], ["a cat", "dog"]], id="two sizes"),
        pytest.param([(60, 80)] * 2, [MANY[:12], ["a cat"]], id="a long and a short list"),
        pytest.param([(60, 80)] * 2, [[], ["a cat"]], id="one image without phrases"),
        pytest.param([(60, 80)] * 5, [["a cat", "dog"]] * 5, id="more than a batch"),
    ],
)
def test_single_equals_batched(build: Build, sizes: list[tuple[int, int]], phrases: list[list[str]]):
    images = [random_image(*size, seed=i) for i, size in enumerate(sizes)]
    detector = build()
    together = detector.detect(images, phrases)
    assert len(together) == len(images)
    for image, own, found in zip(images, phrases, together, strict=True):
        assert_same(found, detector.detect([image], [own])[0])


def test_no_images(build: Build):
    assert build().detect([], []) == []


def test_no_phrases(build: Build):
    (found,) = build().detect([random_image()], [[]])
    assert found.scores.shape == (0, 0)


def test_nothing_found(build: Build):
    (found,) = build(box_threshold=1.0).detect([random_image()], [["a cat", "dog"]])
    assert (found.boxes.shape, found.scores.shape, found.phrase_ids.shape) == ((0, 4), (0, 2), (0,))


def test_most_detections(build: Build):
    (all_queries,) = build().detect([random_image()], [["a cat", "dog"]])
    (found,) = build(max_detections=2).detect([random_image()], [["a cat", "dog"]])
    assert_same(found, all_queries[:2])


def test_letters_and_spaces_of_a_phrase(build: Build):
    plain, odd = build().detect([random_image()] * 2, [["a red mug"], ["A  Red mug "]])
    assert_same(odd, plain)


@pytest.mark.parametrize(
    ("phrases", "error", "message"),
    [
        pytest.param([["a cat", " "]], PromptError, "at least one word, got ' '", id="no word"),
        pytest.param([["red " * 300]], PromptError, r"must have at most \d+ tokens, got \d+: 'red .*…'", id="too long"),
        pytest.param(["a cat"], PromptError, "sequence of phrases, got 'a cat'", id="text that was not parsed"),
        pytest.param([], ValueError, "one list per image, got 0 for 1", id="too few lists"),
    ],
)
def test_bad_phrases(build: Build, phrases: list, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        build().detect([random_image()], phrases)


@pytest.mark.parametrize("source", ["nobody/no-such-detector", "/nowhere/detector", "no-such-detector"])
@pytest.mark.parametrize("kind", detectors.KINDS)
def test_a_checkpoint_that_is_not_there(kind: str, source: str):
    """tests/conftest.py sets HF_HUB_OFFLINE, so that the hub id is out of reach."""
    with pytest.raises(CheckpointError, match=source) as error:
        detectors.build(DetectorConfig(kind=kind, checkpoint=source))
    message = str(error.value)
    assert "\n" not in message
    if kind == "groundingdino-py":
        assert "a local .pth file" in message and "hub ids are read by kind grounding-dino" in message
    else:
        assert ("one_stage.safetensors" if kind == "one-stage" else "model.safetensors") in message


@pytest.mark.parametrize("kind", detectors.KINDS)
def test_bundled_weights_that_there_are_not(kind: str):
    with pytest.raises((ConfigError, CheckpointError), match="no-such"):
        detectors.build(DetectorConfig(kind=kind, checkpoint="bundled:no-such"))

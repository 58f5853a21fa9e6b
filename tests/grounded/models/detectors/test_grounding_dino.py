import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GroundingDinoProcessor

from grounded.data.detections import Detections
from grounded.errors import ConfigError, GroundedError, ImageError, PromptError
from grounded.models import detectors
from grounded.models.detectors.checkpoint import load_parts
from grounded.models.detectors.fast.bi_attention import AbsorbedFusion
from grounded.models.detectors.fast.deformable_attention import GatheredSampling
from grounded.models.detectors.grounding_dino import GroundingDino
from grounded.settings import DetectorConfig
from segany import CheckpointError
from tests.grounded import builders

# Random weights say nothing, so that every query is let through.
EVERYTHING = DetectorConfig(box_threshold=0.0, nms_threshold=1.0)


def picture(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def load(folder: Path, config: DetectorConfig = EVERYTHING, **options) -> GroundingDino:
    return GroundingDino.from_pretrained(folder, config, **options)


def assert_same(actual: Detections, expected: Detections):
    assert actual.phrase_ids.tolist() == expected.phrase_ids.tolist()
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-5)


BATCHES = [
    pytest.param([(60, 80)] * 3, [["a cat", "dog"]] * 3, id="one size, one query"),
    pytest.param(
        [(60, 80)] * 3,
        [["a cat"], ["dog", "a red mug", "pizza"], ["ice cream", "a cat"]],
        id="one size, several queries",
    ),
    pytest.param(
        [(60, 80), (90, 50), (60, 80), (64, 64)], [["a cat"], ["dog", "pizza"], ["dog"], ["dog"]], id="several sizes"
    ),
    pytest.param(
        [(60, 80), (60, 80)],
        [
            ["a cat"],
            [f"a {color} {noun}" for color in ("red", "green", "blue") for noun in ("mug", "dog", "cat", "ball")],
        ],
        id="short and split",
    ),
    pytest.param([(60, 80), (60, 80)], [[], ["a cat"]], id="a picture without phrases"),
    pytest.param([], [], id="no pictures"),
]


@pytest.mark.parametrize(("shapes", "phrases"), BATCHES)
@pytest.mark.parametrize("batch_size", [8, 2])
def test_single_equals_batched(family_folder: Path, shapes: list, phrases: list[list[str]], batch_size: int):
    detector = load(family_folder, DetectorConfig(box_threshold=0.0), batch_size=batch_size)
    pictures = [picture(*shape, seed=i) for i, shape in enumerate(shapes)]
    together = detector.detect(pictures, phrases)
    assert len(together) == len(pictures)
    for i, found in enumerate(together):
        assert_same(found, detector.detect([pictures[i]], [phrases[i]])[0])


def test_answers_are_those_of_the_network_for_the_joined_text(family_folder: Path):
    """Scores and boxes as they follow from the processor and the model of `transformers` without this package."""
    model, image_processor, tokenizer = load_parts(family_folder)
    phrases = ["a cat", "zebra", "hot dog"]
    processor = GroundingDinoProcessor(image_processor, tokenizer)
    inputs = processor(images=picture(), text=[phrases], return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    probabilities = output.logits[0].sigmoid()
    word_pieces = [2, 5, 2]
    starts = [1, 4, 10]
    expected = torch.stack(
        [probabilities[:, start : start + n].mean(1) for start, n in zip(starts, word_pieces, strict=True)], dim=1
    )
    found = load(family_folder).detect([picture()], [phrases])[0]
    order = expected.amax(dim=1).argsort(descending=True)
    np.testing.assert_allclose(found.scores, expected[order], atol=1e-5)
    assert found.phrase_ids.tolist() == expected[order].argmax(dim=1).tolist()
    centers = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    inside = (output.pred_boxes[0, order, :2] - output.pred_boxes[0, order, 2:] / 2 > 0).all(1)
    inside &= (output.pred_boxes[0, order, :2] + output.pred_boxes[0, order, 2:] / 2 < 1).all(1)
    assert inside.any()
    np.testing.assert_allclose(
        centers[inside], output.pred_boxes[0, order, :2][inside] * torch.tensor([80, 60]), atol=0.01
    )


def test_labels_are_the_phrases_that_were_asked(family_folder: Path):
    phrases = ["a cat", "cat", "hot dog", "dog", "kitten"]
    found = load(family_folder).detect([picture()], [phrases])[0]
    assert found.scores.shape == (12, 5)
    assert set(found.phrase_ids.tolist()) <= set(range(5))
    np.testing.assert_array_equal(found.score, found.scores.max(axis=1))
    assert (np.diff(found.score) <= 0).all()


def test_boxes_lie_in_the_picture(family_folder: Path):
    found = load(family_folder).detect([picture(50, 90)], [["a cat"]])[0]
    assert len(found)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [90, 50, 90, 50]).all()
    assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()


@pytest.mark.parametrize("phrase", ["A Cat", " a  cat ", "a cat?", "a cat."])
def test_spelling_of_a_phrase(folder: Path, phrase: str):
    detector = load(folder)
    assert_same(detector.detect([picture()], [[phrase]])[0], detector.detect([picture()], [["a cat"]])[0])


def test_maximum_over_tokens_is_at_least_their_mean(folder: Path):
    phrases = [["a red mug"]]
    mean, best = (
        load(folder, DetectorConfig(box_threshold=0.0, nms_threshold=1.0, phrase_score=score)).detect(
            [picture()], phrases
        )[0]
        for score in ("mean", "max")
    )
    # One phrase: boxes are the same, in another order.
    mean, best = (found[np.lexsort(found.boxes.T)] for found in (mean, best))
    np.testing.assert_allclose(mean.boxes, best.boxes, atol=1e-4)
    assert (best.scores >= mean.scores).all()
    assert (best.scores > mean.scores).any()


def test_many_phrases_are_searched_in_parts(family_folder: Path):
    """24 tokens hold 5 phrases of 3 tokens."""
    phrases = [f"a {color} {noun}" for color in ("red", "green", "blue") for noun in ("cat", "dog", "mug", "ball")]
    detector = load(family_folder)
    found = detector.detect([picture()], [phrases])[0]
    assert found.scores.shape == (36, 12)
    parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
    alone = [detector.detect([picture()], [phrases[part]])[0] for part in parts]
    for part, expected in zip(parts, alone, strict=True):
        own = found[(found.phrase_ids >= part.start) & (found.phrase_ids < part.stop)]
        assert (own.scores[:, part] > 0).all()
        assert own.scores.sum() == pytest.approx(own.scores[:, part].sum())
        np.testing.assert_allclose(own.boxes, expected.boxes, atol=0.01)
        np.testing.assert_allclose(own.scores[:, part], expected.scores, atol=1e-5)
    assert (np.diff(found.score) <= 0).all()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_the_backbone_runs_once_for_each_picture(family_folder: Path, batch_size: int):
    """Two pictures with three prompts each, a third one of another size, and one that is not searched."""
    detector = load(family_folder, batch_size=batch_size)
    seen = []
    detector.model.model.backbone.register_forward_hook(lambda _module, args, _output: seen.append(len(args[0])))
    many = [f"a {color} {noun}" for color in ("red", "green", "blue") for noun in ("cat", "dog", "mug", "ball")]
    detector.detect([picture(), picture(seed=1), picture(90, 50), picture()], [many, many, ["dog"], []])
    assert sum(seen) == 3


@pytest.mark.parametrize("shapes, phrases", BATCHES)
def test_rearranged_attention_answers_the_same(family_folder: Path, shapes: list, phrases: list[list[str]]):
    fast, plain = (load(family_folder, replace(EVERYTHING, fast_attention=fast)) for fast in (True, False))
    kinds = [{type(module) for module in detector.model.modules()} for detector in (fast, plain)]
    assert {AbsorbedFusion, GatheredSampling} <= kinds[0] and not {AbsorbedFusion, GatheredSampling} & kinds[1]
    assert fast.model.state_dict().keys() == plain.model.state_dict().keys()
    pictures = [picture(*shape, seed=i) for i, shape in enumerate(shapes)]
    for actual, expected in zip(fast.detect(pictures, phrases), plain.detect(pictures, phrases), strict=True):
        assert_same(actual, expected)


def test_a_phrase_longer_than_the_prompt(folder: Path):
    with pytest.raises(PromptError, match="at most 21 tokens, got 26: 'abcdefghijklmnopqrstuvwxyz'"):
        load(folder).detect([picture()], [["a cat", "abcdefghijklmnopqrstuvwxyz"]])


def test_duplicates_of_a_phrase_are_suppressed(folder: Path):
    strict, lax = (
        load(folder, DetectorConfig(box_threshold=0.0, nms_threshold=iou)).detect([picture()], [["a cat"]])[0]
        for iou in (0.05, 1.0)
    )
    assert 0 < len(strict) < len(lax)
    assert strict.boxes[0].tolist() == lax.boxes[0].tolist()


def test_most_detections(folder: Path):
    config = DetectorConfig(box_threshold=0.0, nms_threshold=1.0, max_detections=3)
    assert_same(
        load(folder, config).detect([picture()], [["a cat"]])[0], load(folder).detect([picture()], [["a cat"]])[0][:3]
    )


def test_nothing_found(family_folder: Path):
    found = load(family_folder, DetectorConfig(box_threshold=1.0)).detect([picture()], [["a cat", "dog"]])[0]
    assert (found.boxes.shape, found.scores.shape, found.phrase_ids.shape) == ((0, 4), (0, 2), (0,))


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (1, 400), (400, 3), (2, 1)], ids=str)
def test_tiny_and_thin_pictures(folder: Path, shape: tuple[int, int]):
    height, width = shape
    found = load(folder, DetectorConfig(box_threshold=0.0, image_size=16)).detect(
        [picture(height, width)], [["a cat"]]
    )[0]
    assert np.isfinite(found.boxes).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [width, height, width, height]).all()


def test_image_size_replaces_the_saved_one(folder: Path, tmp_path: Path):
    larger = builders.save_detector(tmp_path, size={"shortest_edge": 128, "longest_edge": 192})
    resized = load(larger, DetectorConfig(box_threshold=0.0, nms_threshold=1.0, image_size=64))
    assert_same(resized.detect([picture()], [["a cat"]])[0], load(folder).detect([picture()], [["a cat"]])[0])


def test_nothing_is_remembered(folder: Path):
    detector = load(folder)
    first = detector.detect([picture()], [["a cat"]])[0]
    detector.detect([picture(seed=1)], [["dog", "pizza"]])
    assert_same(detector.detect([picture()], [["a cat"]])[0], first)


def test_half_precision(family_folder: Path):
    detector = load(family_folder, dtype=torch.bfloat16)
    found = detector.detect([picture()], [["a cat"]])[0]
    assert detector.model.dtype == torch.bfloat16
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert len(found)


def test_a_network_that_answers_nothing_sensible(folder: Path):
    detector = load(folder)
    with torch.no_grad():
        detector.model.class_embed[0].bias.fill_(torch.nan)
    with pytest.raises(GroundedError, match=r"not a number in torch\.float32"):
        detector.detect([picture()], [["a cat"]])


@pytest.mark.parametrize(
    ("images", "phrases", "error", "message"),
    [
        pytest.param([picture()], [], ValueError, "one list per image, got 0 for 1", id="too few lists of phrases"),
        pytest.param([picture()], [["a cat", "?"]], PromptError, "at least one word, got '\\?'", id="no words"),
        pytest.param([np.zeros((4, 4, 3))], [["a cat"]], ImageError, "must be uint8", id="not a picture"),
        pytest.param(
            [picture()], ["a cat"], PromptError, "sequence of phrases, got 'a cat'", id="text that was not parsed"
        ),
    ],
)
def test_bad_input(folder: Path, images: list, phrases: list, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        load(folder).detect(images, phrases)


def test_tokenizer_of_another_model(folder: Path):
    model, image_processor, tokenizer = load_parts(folder)
    tokenizer.add_tokens(["xylophone"])
    with pytest.raises(CheckpointError, match="the text encoder knows"):
        GroundingDino(model, image_processor, tokenizer)


def test_build(folder: Path):
    detector = detectors.build(DetectorConfig(checkpoint=str(folder), box_threshold=0.0, nms_threshold=1.0))
    assert detector.name == str(folder)
    assert_same(detector.detect([picture()], [["a cat"]])[0], load(folder).detect([picture()], [["a cat"]])[0])


def test_libraries_are_imported_only_when_a_detector_is_built():
    code = "import sys, grounded.models.detectors; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_kind():
    with pytest.raises(ConfigError, match="kind must be one of grounding-dino, groundingdino-py, owl, got 'yolo'"):
        detectors.build(DetectorConfig(kind="yolo"))


@pytest.mark.parametrize("phrases", [["猫"], ["猫", "🐶 🐱"], ["猫", "a cat"], ["a cat", "猫", "dog"]])
def test_words_that_the_tokenizer_cannot_spell_find_nothing(family_folder: Path, phrases: list[str]):
    detector = load(family_folder)
    foreign = [phrase for phrase in phrases if not phrase.isascii()]
    detections = detector.detect([picture()], [phrases])[0]
    assert detections.scores.shape[1] == len(phrases)
    assert not {phrases[i] for i in detections.phrase_ids} & set(foreign)
    known = [phrase for phrase in phrases if phrase.isascii()]
    assert len(detections) == (len(detector.detect([picture()], [known])[0]) if known else 0)

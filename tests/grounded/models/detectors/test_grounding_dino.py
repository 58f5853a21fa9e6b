import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GroundingDinoProcessor

from grounded.config import DetectorConfig
from grounded.data.detections import Detections
from grounded.data.protocols import NotingDetector
from grounded.errors import CheckpointError, ConfigError, GroundedError, PromptError
from grounded.models import detectors
from grounded.models.detectors.checkpoint import load_checkpoint
from grounded.models.detectors.fast.bi_attention import AbsorbedBiAttention
from grounded.models.detectors.fast.deformable_attention import GatheredDeformableAttention
from grounded.models.detectors.grounding_dino import (
    GroundingDino,
    apply_size_rule,
    count_feature_locations,
    grow_to_locations,
    scale_size_rule,
    score_phrases,
)
from tests.grounded import builders

# The scores of random weights mean nothing, so every query passes.
ALL_QUERIES = DetectorConfig(box_threshold=0.0, nms_threshold=1.0)
MANY = [f"a {color} {noun}" for color in ("red", "green", "blue") for noun in ("cat", "dog", "mug", "ball")]


def random_image(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def load(folder: Path, config: DetectorConfig = ALL_QUERIES, **options) -> GroundingDino:
    """A detector that a test may change."""
    return GroundingDino.from_pretrained(folder, config, **options)


@cache
def shared(folder: Path, config: DetectorConfig = ALL_QUERIES) -> GroundingDino:
    """A detector for several tests."""
    return load(folder, config)


def assert_same(actual: Detections, expected: Detections):
    assert actual.phrase_ids.tolist() == expected.phrase_ids.tolist()
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "phrases"),
    [
        pytest.param([(60, 80)] * 3, [["a cat", "dog"]] * 3, id="one size, one prompt"),
        pytest.param(
            [(60, 80)] * 3,
            [["a cat"], ["dog", "a red mug", "pizza"], ["ice cream", "a cat"]],
            id="one size, several prompts",
        ),
        pytest.param(
            [(60, 80), (90, 50), (60, 80), (64, 64)],
            [["a cat"], ["dog", "pizza"], ["dog"], ["dog"]],
            id="several sizes",
        ),
        pytest.param([(60, 80), (60, 80)], [["a cat"], MANY], id="short and split"),
        pytest.param([(60, 80), (60, 80)], [[], ["a cat"]], id="an image without phrases"),
        pytest.param([], [], id="no images"),
    ],
)
def test_single_equals_batched_and_fast_equals_plain_attention(
    family_folder: Path, sizes: list[tuple[int, int]], phrases: list[list[str]]
):
    """Batches of 8 hold all passes, those of 2 do not; `test_contract` has those of 4."""
    config = DetectorConfig(box_threshold=0.0)
    images = [random_image(*size, seed=i) for i, size in enumerate(sizes)]
    fast, plain = shared(family_folder, config), shared(family_folder, replace(config, fast_attention=False))
    single = [fast.detect([image], [own])[0] for image, own in zip(images, phrases, strict=True)]
    for detector, batch_size in ((fast, 8), (fast, 2), (plain, 8)):
        detector.batch_size = batch_size
        together = detector.detect(images, phrases)
        assert len(together) == len(images)
        for actual, expected in zip(together, single, strict=True):
            assert_same(actual, expected)


def test_fast_attention_keeps_the_parameters(family_folder: Path):
    fast, plain = (shared(family_folder, replace(ALL_QUERIES, fast_attention=fast)).model for fast in (True, False))
    fast_kinds, plain_kinds = ({type(module) for module in model.modules()} for model in (fast, plain))
    assert {AbsorbedBiAttention, GatheredDeformableAttention} <= fast_kinds
    assert not {AbsorbedBiAttention, GatheredDeformableAttention} & plain_kinds
    assert fast.state_dict().keys() == plain.state_dict().keys()


def test_detections_are_those_of_the_network_for_the_joined_text(family_folder: Path):
    """Scores and boxes as they follow from the processor and the model of `transformers` without this package."""
    model, image_processor, tokenizer = load_checkpoint(family_folder)
    phrases = ["a cat", "zebra", "hot dog"]
    processor = GroundingDinoProcessor(image_processor, tokenizer)
    inputs = processor(images=random_image(), text=[phrases], return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    probabilities = output.logits[0].sigmoid()
    # [CLS] a cat . z ##e ##b ##r ##a . hot dog . [SEP]; the article does not count in the mean.
    counted, pieces = [[2], [4, 5, 6, 7, 8], [10, 11]], [[1, 2], [4, 5, 6, 7, 8], [10, 11]]
    expected = torch.stack([probabilities[:, own].mean(1) for own in counted], dim=1)
    best = torch.stack([probabilities[:, own].amax(1) for own in pieces], dim=1)
    found = shared(family_folder).detect([random_image()], [phrases])[0]
    order = expected.amax(dim=1).argsort(descending=True)
    np.testing.assert_allclose(found.scores, expected[order], atol=1e-5)
    assert found.phrase_ids.tolist() == expected[order].argmax(dim=1).tolist()
    own_best = best[order, expected[order].argmax(dim=1)]
    np.testing.assert_allclose(found.best_token_scores, own_best, atol=1e-5)
    centers = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    inside = (output.pred_boxes[0, order, :2] - output.pred_boxes[0, order, 2:] / 2 > 0).all(1)
    inside &= (output.pred_boxes[0, order, :2] + output.pred_boxes[0, order, 2:] / 2 < 1).all(1)
    assert inside.any()
    np.testing.assert_allclose(
        centers[inside], output.pred_boxes[0, order, :2][inside] * torch.tensor([80, 60]), atol=0.01
    )


def test_marks_that_end_a_phrase(folder: Path):
    plain, *others = shared(folder).detect([random_image()] * 3, [["a cat"], ["a cat?"], ["A cat."]])
    for other in others:
        assert_same(other, plain)


def test_maximum_over_tokens_is_at_least_their_mean(folder: Path):
    mean, best = (
        shared(folder, replace(ALL_QUERIES, phrase_score=score)).detect([random_image()], [["a red mug"]])[0]
        for score in ("mean", "max")
    )
    # One phrase: boxes are the same, in another order.
    mean, best = (found[np.lexsort(found.boxes.T)] for found in (mean, best))
    np.testing.assert_allclose(mean.boxes, best.boxes, atol=1e-4)
    assert (best.scores >= mean.scores).all()
    assert (best.scores > mean.scores).any()


def test_many_phrases_take_several_prompts(family_folder: Path):
    """24 tokens hold 5 phrases of 3 tokens. A query scores 0 for the phrases of other prompts."""
    detector = shared(family_folder)
    found = detector.detect([random_image()], [MANY])[0]
    assert found.scores.shape == (36, 12)
    parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
    alone = [detector.detect([random_image()], [MANY[part]])[0] for part in parts]
    for part, expected in zip(parts, alone, strict=True):
        own = found[(found.phrase_ids >= part.start) & (found.phrase_ids < part.stop)]
        assert (own.scores[:, part] > 0).all()
        assert own.scores.sum() == pytest.approx(own.scores[:, part].sum())
        np.testing.assert_allclose(own.boxes, expected.boxes, atol=0.01)
        np.testing.assert_allclose(own.scores[:, part], expected.scores, atol=1e-5)
    assert (np.diff(found.score) <= 0).all()


def test_the_backbone_runs_once_for_each_image(family_folder: Path):
    """Two images with three prompts each, a third one of another size, and one without phrases."""
    detector = load(family_folder)
    encoded: list[int] = []
    detector.model.model.backbone.register_forward_hook(lambda _module, args, _output: encoded.append(len(args[0])))
    for batch_size in (1, 2, 8):
        encoded.clear()
        detector.batch_size = batch_size
        images = [random_image(), random_image(seed=1), random_image(90, 50), random_image()]
        detector.detect(images, [MANY, MANY, ["dog"], []])
        assert sum(encoded) == 3


def test_a_phrase_longer_than_the_prompt(folder: Path):
    with pytest.raises(PromptError, match="at most 21 tokens, got 26: 'abcdefghijklmnopqrstuvwxyz'"):
        shared(folder).detect([random_image()], [["a cat", "abcdefghijklmnopqrstuvwxyz"]])


def test_tiny_and_thin_images(folder: Path):
    sizes = [(1, 1), (3, 3), (1, 400), (400, 3), (2, 1)]
    detector = shared(folder, DetectorConfig(box_threshold=0.0, image_size=16))
    found = detector.detect([random_image(*size) for size in sizes], [["a cat"]] * len(sizes))
    for (height, width), detections in zip(sizes, found, strict=True):
        assert np.isfinite(detections.boxes).all()
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= [width, height, width, height]).all()


def test_image_size_replaces_the_saved_one(folder: Path, tmp_path: Path):
    larger = builders.save_detector(tmp_path, size={"shortest_edge": 128, "longest_edge": 192})
    resized = load(larger, replace(ALL_QUERIES, image_size=64))
    assert_same(
        resized.detect([random_image()], [["a cat"]])[0], shared(folder).detect([random_image()], [["a cat"]])[0]
    )


def test_no_call_changes_the_next(folder: Path):
    detector = load(folder)
    first = detector.detect([random_image()], [["a cat"]])[0]
    detector.detect([random_image(seed=1)], [["dog", "pizza"]])
    assert_same(detector.detect([random_image()], [["a cat"]])[0], first)


def test_half_precision(family_folder: Path):
    detector = load(family_folder, dtype=torch.bfloat16)
    found = detector.detect([random_image()], [["a cat"]])[0]
    assert detector.model.dtype == torch.bfloat16
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert len(found)


def test_nan_is_an_error(folder: Path):
    detector = load(folder)
    with torch.no_grad():
        detector.model.class_embed[0].bias.fill_(torch.nan)
    with pytest.raises(GroundedError, match=r"not a number in torch\.float32"):
        detector.detect([random_image()], [["a cat"]])


def test_tokenizer_of_another_model(folder: Path):
    model, image_processor, tokenizer = load_checkpoint(folder)
    tokenizer.add_tokens(["xylophone"])
    with pytest.raises(CheckpointError, match="the text encoder knows"):
        GroundingDino(model, image_processor, tokenizer)


def test_build(folder: Path):
    detector = detectors.build(replace(ALL_QUERIES, checkpoint=str(folder)))
    assert detector.name == str(folder)
    assert_same(
        detector.detect([random_image()], [["a cat"]])[0], shared(folder).detect([random_image()], [["a cat"]])[0]
    )


def test_libraries_are_imported_only_when_a_detector_is_built():
    code = "import sys, grounded.models.detectors; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_kind():
    message = "kind must be one of grounding-dino, groundingdino-py, owl, one-stage, got 'yolo'"
    for function in (detectors.build, detectors.locate):
        with pytest.raises(ConfigError, match=message):
            function(DetectorConfig(kind="yolo"))


@pytest.mark.parametrize("phrases", [["猫"], ["猫", "🐶 🐱"], ["猫", "a cat"], ["a cat", "猫", "dog"]])
def test_words_that_the_tokenizer_cannot_spell_have_no_detections(folder: Path, phrases: list[str]):
    detector = shared(folder)
    foreign = [phrase for phrase in phrases if not phrase.isascii()]
    detections = detector.detect([random_image()], [phrases])[0]
    assert detections.scores.shape[1] == len(phrases)
    assert not {phrases[i] for i in detections.phrase_ids} & set(foreign)
    known = [phrase for phrase in phrases if phrase.isascii()]
    assert len(detections) == (len(detector.detect([random_image()], [known])[0]) if known else 0)


def test_what_the_detector_cannot_read_is_noted(folder: Path):
    phrases = ["a cat", "猫", "a 🐶", "red 猫"]
    detector = shared(folder)
    assert isinstance(detector, NotingDetector)
    assert detector.note_unread(phrases) == (
        "the detector cannot read '猫': its vocabulary has none of these words",
        "the detector cannot read 'a 🐶': its vocabulary has none of these words",
        "the detector reads 'red 猫' in part: its vocabulary lacks a word of it",
    )
    assert detector.note_unread(["a cat"]) == detector.note_unread([]) == ()


def test_thresholds_apply_to_the_best_token(folder: Path):
    """What a threshold of the detector keeps is what the same threshold keeps of all its detections."""
    phrases = ["a red mug", "the hot dog", "ice cream"]
    config = DetectorConfig(box_threshold=0.0, nms_threshold=0.5)
    everything = shared(folder, config).detect([random_image()], [phrases])[0]
    assert (everything.best_token_scores >= everything.score - 1e-6).all()
    assert (everything.best_token_scores > everything.score + 1e-6).any()
    threshold = float(np.median(everything.best_token_scores))
    found = shared(folder, replace(config, box_threshold=threshold)).detect([random_image()], [phrases])[0]
    assert 0 < len(found) < len(everything)
    assert (found.score < threshold).any()
    assert_same(found, everything[everything.best_token_scores >= threshold])


LOGITS = torch.logit(torch.tensor([[0.9, 0.2, 0.4, 0.1, 0.0], [0.5, 0.6, 0.8, 0.7, 0.0]]))  # the last is padding: -inf
TOKENS = [(1, 2), (3,)]


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", [[0.3, 0.1], [0.7, 0.7]]), ("max", [[0.4, 0.1], [0.8, 0.7]])],
)
def test_score_phrases(reduction: str, expected: list[list[float]]):
    together = score_phrases(LOGITS, TOKENS, reduction)
    torch.testing.assert_close(together, torch.tensor(expected))
    for i in range(2):
        torch.testing.assert_close(score_phrases(LOGITS[i : i + 1], TOKENS, reduction), together[i : i + 1])
    assert score_phrases(LOGITS[:0], TOKENS, reduction).shape == (0, 2)


EDGES = {"shortest_edge": 800, "longest_edge": 1333}


@pytest.mark.parametrize(
    ("rule", "image_size", "expected"),
    [
        pytest.param(EDGES, None, EDGES, id="as saved"),
        pytest.param(EDGES, 400, {"shortest_edge": 400, "longest_edge": 666}, id="longer edge keeps its ratio"),
        pytest.param({"height": 320, "width": 320}, 64, {"height": 64, "width": 64}, id="square"),
        pytest.param({**EDGES, "height": None}, None, EDGES, id="unset keys are dropped"),
    ],
)
def test_scale_size_rule(rule: dict, image_size: int | None, expected: dict):
    assert scale_size_rule(rule, image_size) == expected


@pytest.mark.parametrize(
    ("image_size", "rule", "expected"),
    [
        pytest.param((480, 640), EDGES, (800, 1066), id="shorter edge"),
        pytest.param((480, 1600), EDGES, (400, 1333), id="longer edge wins"),
        pytest.param((1, 1), EDGES, (800, 800), id="one pixel"),
        pytest.param((1, 5000), EDGES, (1, 1333), id="a line keeps one pixel"),
        pytest.param((5000, 1), EDGES, (1333, 1), id="an upright line"),
        pytest.param((480, 640), {"height": 320, "width": 300}, (320, 300), id="both sides given"),
        pytest.param((480, 640), {"max_height": 100, "max_width": 100}, (75, 100), id="fitted inside"),
    ],
)
def test_apply_size_rule(image_size: tuple[int, int], rule: dict[str, int], expected: tuple[int, int]):
    assert apply_size_rule(image_size, rule) == expected


def test_unknown_size_rule():
    with pytest.raises(ValueError, match="size must have shortest_edge"):
        apply_size_rule((4, 4), {"longest_edge": 10})


@pytest.mark.parametrize(
    ("size", "minimum", "expected"),
    [
        pytest.param((64, 64), 85, (64, 64), id="just enough: 64 + 16 + 4 + 1"),
        pytest.param((64, 64), 86, (72, 64), id="one more is needed"),
        pytest.param((32, 32), 64, (56, 56), id="both sides grow"),
        pytest.param((1, 1), 1, (1, 1), id="one location is enough"),
        pytest.param((1, 960), 300, (16, 960), id="a line grows thicker, not longer"),
    ],
)
def test_grow_to_locations(size: tuple[int, int], minimum: int, expected: tuple[int, int]):
    strides = (8, 16, 32, 64)
    result = grow_to_locations(size, strides, minimum)
    assert result == expected
    assert count_feature_locations(result, strides) >= minimum

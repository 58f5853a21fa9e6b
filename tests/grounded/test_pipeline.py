"""The pipeline with small models of random weights: its logic, for which it does not matter what the models say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.config import override
from grounded.errors import ConfigError, ImageError, PromptError
from grounded.pipeline import Pipeline
from grounded.settings import PipelineConfig
from grounded.timing import Stopwatch
from grounded.types import Instances
from tests.grounded.conftest import picture, save_segmenter

MODES = ("box", "text", "box+text")


def assert_same(actual: Instances, expected: Instances):
    """Same labels, boxes within 0.01 px, mask IoU of at least 0.999."""
    assert actual.phrases == expected.phrases
    assert actual.image_size == expected.image_size
    assert actual.labels.tolist() == expected.labels.tolist()
    assert actual.sources.tolist() == expected.sources.tolist()
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-4)
    for one, other in zip(actual.rles, expected.rles, strict=True):
        assert coco_mask.iou([one], [other], [False])[0, 0] >= 0.999


@pytest.mark.parametrize("mode", MODES)
def test_instances_fit_the_question(random_pipelines: dict[str, Pipeline], mode: str):
    instances = random_pipelines[mode].segment(picture(), "a cat. the red mug. dog")
    assert instances.phrases == ("a cat", "the red mug", "dog")
    assert instances.image_size == (60, 80)
    assert len(instances) > 0
    assert set(instances.labels.tolist()) <= set(instances.phrases)
    assert (np.diff(instances.scores) <= 0).all()
    assert instances.masks.any(axis=(1, 2)).all()
    assert np.isnan(instances.clip_scores).all()
    assert np.isfinite(instances.predicted_iou).all()


@pytest.mark.parametrize("mode", ["box", "box+text"])
def test_detected_instances_carry_the_scores_of_the_detector(random_pipelines: dict[str, Pipeline], mode: str):
    instances = random_pipelines[mode].segment(picture(), ["a cat", "dog"])
    own = instances.score_matrix[np.arange(len(instances)), instances.phrase_ids]
    np.testing.assert_array_equal(instances.detector_scores, own)
    np.testing.assert_array_equal(instances.scores, own)
    assert set(instances.sources.tolist()) == {"detector"}


def test_text_instances_carry_no_scores_of_a_detector(random_pipelines: dict[str, Pipeline]):
    instances = random_pipelines["text"].segment(picture(), ["a cat", "dog"])
    assert sorted(instances.phrase_ids.tolist()) == [0, 1]
    assert np.isnan(instances.detector_scores).all()
    assert np.isnan(instances.score_matrix).all()
    np.testing.assert_array_equal(instances.scores, instances.predicted_iou)
    assert set(instances.sources.tolist()) == {"text"}
    for (x0, y0, x1, y1), mask in zip(instances.boxes.astype(int), instances.masks, strict=True):
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert all(side.any() for side in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("sizes", "texts"),
    [
        pytest.param([(60, 80)], ["a cat. dog"], id="one"),
        pytest.param([(60, 80)] * 3, ["a cat. dog"] * 3, id="one size, one text"),
        pytest.param([(60, 80)] * 2, ["a cat", ["dog", "the red mug"]], id="one size, two texts"),
        pytest.param([(60, 80), (90, 50), (64, 64)], ["a cat", "dog", "a cat. dog"], id="sizes and texts"),
    ],
)
def test_batch_equals_single(random_pipelines: dict[str, Pipeline], mode: str, sizes: list, texts: list):
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    together = random_pipelines[mode].segment_batch(images, texts)
    assert len(together) == len(images)
    for image, text, instances in zip(images, texts, together, strict=True):
        assert_same(instances, random_pipelines[mode].segment(image, text))


@pytest.mark.parametrize("mode", MODES)
def test_empty_batch(random_pipelines: dict[str, Pipeline], mode: str):
    assert random_pipelines[mode].segment_batch([], []) == []
    assert random_pipelines[mode].segment_batch([], "a cat") == []


@pytest.mark.parametrize("mode", ["box", "box+text"])
def test_nothing_found(random_config: PipelineConfig, mode: str):
    watch = Stopwatch()
    pipeline = Pipeline.from_config(random_config, mode=mode, box_threshold=1.0)
    instances = pipeline.segment(picture(50, 70), "a cat. dog", watch)
    assert len(instances) == 0
    assert instances.phrases == ("a cat", "dog")
    assert instances.masks.shape == (0, 50, 70)
    assert "encode" not in watch.seconds  # an image without prompts is not embedded


def test_one_text_for_all_images(random_pipelines: dict[str, Pipeline]):
    images = [picture(seed=0), picture(seed=1)]
    pipeline = random_pipelines["box"]
    for actual, expected in zip(
        pipeline.segment_batch(images, "a cat"), pipeline.segment_batch(images, ["a cat"] * 2), strict=True
    ):
        assert_same(actual, expected)


def test_nothing_is_remembered(random_pipelines: dict[str, Pipeline]):
    pipeline = random_pipelines["box+text"]
    first = pipeline.segment(picture(seed=0), "a cat. dog")
    pipeline.segment(picture(90, 40, seed=1), "the red mug")
    assert_same(pipeline.segment(picture(seed=0), "a cat. dog"), first)


def test_kinds_of_images_agree(random_pipelines: dict[str, Pipeline], tmp_path: Path):
    upright, exif = picture(), Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected = random_pipelines["box"].segment(upright, "a cat")
    for image in (np.asarray(upright), tmp_path / "turned.png", str(tmp_path / "turned.png")):
        assert_same(random_pipelines["box"].segment(image, "a cat"), expected)


def test_masks_within_a_phrase_are_suppressed(random_config: PipelineConfig):
    everything = Pipeline.from_config(random_config, mask_nms_threshold=None).segment(picture(), "a cat")
    some = Pipeline.from_config(random_config, mask_nms_threshold=0.3).segment(picture(), "a cat")
    assert 0 < len(some) < len(everything)
    overlaps = coco_mask.iou(list(some.rles), list(some.rles), [False] * len(some))
    assert (overlaps - np.eye(len(some)) <= 0.3).all()


@pytest.mark.parametrize(
    ("mode", "stages"),
    [
        ("box", ["open", "detect", "encode", "decode", "masks"]),
        ("text", ["open", "text", "encode", "decode", "masks"]),
        ("box+text", ["open", "detect", "text", "encode", "decode", "masks"]),
    ],
)
def test_stopwatch(random_pipelines: dict[str, Pipeline], mode: str, stages: list[str]):
    watch = Stopwatch()
    random_pipelines[mode].segment(picture(), "a cat", watch)
    assert list(watch.seconds) == stages


@pytest.mark.parametrize(
    ("mode", "unused", "part"),
    [
        ("box", {"clip": {"checkpoint": "absent"}}, "text_encoder"),
        ("text", {"detector": {"checkpoint": "absent"}}, "detector"),
    ],
)
def test_parts_without_use_are_not_loaded(random_config: PipelineConfig, mode: str, unused: dict, part: str):
    pipeline = Pipeline.from_config(random_config, mode=mode, **unused)
    assert getattr(pipeline, part) is None
    stage = {"text_encoder": "clip", "detector": "detector"}[part]
    assert pipeline.models[stage] is None
    assert pipeline.models["segmenter"] == random_config.segmenter.checkpoint


@pytest.mark.parametrize("mode", ["text", "box+text"])
@pytest.mark.parametrize(
    ("text_dim", "message"),
    [
        pytest.param(
            None, "no text prompt of its own: use text_prompt 'dense-clip', or mode 'box'", id="no text prompt"
        ),
        pytest.param(8, "must give embeddings of width 8, .* got 16", id="another width"),
    ],
)
def test_segmenter_that_does_not_fit(
    random_config: PipelineConfig, tmp_path: Path, mode: str, text_dim: int | None, message: str
):
    segmenter = {"checkpoint": str(save_segmenter(tmp_path / "other.safetensors", text_dim))}
    with pytest.raises(ConfigError, match=message):
        Pipeline.from_config(random_config, mode=mode, segmenter=segmenter)
    assert len(Pipeline.from_config(random_config, mode="box", segmenter=segmenter).segment(picture(), "a cat")) > 0


@pytest.mark.parametrize(
    ("mode", "missing", "message"),
    [
        ("box", "detector", "mode 'box' needs a detector, got none"),
        ("box+text", "detector", "mode 'box.text' needs a detector, got none"),
        ("text", "text_encoder", "text_prompt 'adapter' needs a text encoder, got none"),
    ],
)
def test_missing_part(
    random_pipelines: dict[str, Pipeline], random_config: PipelineConfig, mode: str, missing: str, message: str
):
    whole = random_pipelines["box+text"]
    parts = {"detector": whole.detector, "text_encoder": whole.text_encoder, "segmenter": whole.segmenter}
    config = override(random_config, mode=mode)
    Pipeline(**parts, config=config)
    with pytest.raises(ConfigError, match=message):
        Pipeline(**{**parts, missing: None}, config=config)


@pytest.mark.parametrize(
    ("images", "texts", "error", "message"),
    [
        pytest.param([picture()], ["a cat", "dog"], PromptError, "one per image, 1, got 2", id="too many texts"),
        pytest.param([picture()], [" . "], PromptError, "holds no phrase", id="empty text"),
        pytest.param(["absent.png"], ["a cat"], ImageError, "no such image: absent.png", id="no image"),
    ],
)
def test_wrong_input(
    random_pipelines: dict[str, Pipeline], images: list, texts: list, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        random_pipelines["box"].segment_batch(images, texts)

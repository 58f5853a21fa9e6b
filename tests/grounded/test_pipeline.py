"""The pipeline with small models of random weights: its logic, for which it does not matter what the models say."""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.config import PipelineConfig, override
from grounded.data.detections import Detections
from grounded.data.instances import Instances
from grounded.errors import ConfigError, ImageError, PromptError
from grounded.models import build
from grounded.pipeline import Pipeline
from grounded.stages.cache import StageCache
from grounded.utils.timing import Stopwatch
from segany.fast.decoder import FastDecoder
from tests.data import PICNIC
from tests.grounded.conftest import random_image, save_segmenter
from tests.grounded.counting import counted

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
    instances = random_pipelines[mode].segment(random_image(), "a cat. the red mug. dog")
    assert instances.phrases == ("a cat", "the red mug", "dog")
    assert instances.image_size == (60, 80)
    assert len(instances) > 0
    assert set(instances.labels.tolist()) <= set(instances.phrases)
    assert (np.diff(instances.scores) <= 0).all()
    assert instances.masks.any(axis=(1, 2)).all()
    assert np.isnan(instances.clip_scores).all()
    assert np.isfinite(instances.predicted_iou).all()


@pytest.mark.parametrize("mode", MODES)
def test_phrases_that_the_detector_cannot_read_are_noted(random_pipelines: dict[str, Pipeline], mode: str):
    image, text = random_image(), ["a cat", "猫"]
    found = random_pipelines[mode].segment(image, text)
    expected = ("the detector cannot read '猫': its vocabulary has none of these words",) if mode != "text" else ()
    assert found.notes == random_pipelines[mode].segment_batch([image], [text])[0].notes == expected
    assert random_pipelines[mode].segment(image, "a cat").notes == ()


@pytest.mark.parametrize("mode", ["box", "box+text"])
def test_detected_instances_carry_the_scores_of_the_detector(random_pipelines: dict[str, Pipeline], mode: str):
    instances = random_pipelines[mode].segment(random_image(), ["a cat", "dog"])
    own = instances.phrase_scores[np.arange(len(instances)), instances.phrase_ids]
    np.testing.assert_array_equal(instances.detector_scores, own)
    np.testing.assert_array_equal(instances.scores, own)
    assert (instances.best_token_scores >= own - 1e-6).all()
    assert set(instances.sources.tolist()) == {"detector"}


def test_text_instances_carry_no_scores_of_a_detector(random_pipelines: dict[str, Pipeline]):
    instances = random_pipelines["text"].segment(random_image(), ["a cat", "dog"])
    assert sorted(instances.phrase_ids.tolist()) == [0, 1]
    assert np.isnan(instances.detector_scores).all()
    assert np.isnan(instances.phrase_scores).all()
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
    images = [random_image(*size, seed=i) for i, size in enumerate(sizes)]
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
    instances = pipeline.segment(random_image(50, 70), "a cat. dog", watch)
    assert len(instances) == 0
    assert instances.phrases == ("a cat", "dog")
    assert instances.masks.shape == (0, 50, 70)
    assert "encode" not in watch.seconds  # an image without prompts is not embedded


def test_one_text_for_all_images(random_pipelines: dict[str, Pipeline]):
    images = [random_image(seed=0), random_image(seed=1)]
    pipeline = random_pipelines["box"]
    for actual, expected in zip(
        pipeline.segment_batch(images, "a cat"), pipeline.segment_batch(images, ["a cat"] * 2), strict=True
    ):
        assert_same(actual, expected)


def test_nothing_is_remembered(random_pipelines: dict[str, Pipeline]):
    pipeline = random_pipelines["box+text"]
    first = pipeline.segment(random_image(seed=0), "a cat. dog")
    pipeline.segment(random_image(90, 40, seed=1), "the red mug")
    assert_same(pipeline.segment(random_image(seed=0), "a cat. dog"), first)


def test_the_image_is_known_as_long_as_it_is_there(random_pipelines: dict[str, Pipeline], tmp_path: Path):
    pipeline, image = random_pipelines["box"], random_image()
    image.save(tmp_path / "image.png")
    for given in (image, np.asarray(image), tmp_path / "image.png"):
        for found in (pipeline.segment(given, "a cat"), *pipeline.segment_batch([given], "a cat")):
            assert found.show().size == image.size
    assert pipeline.everything(image, points_per_side=2).show().size == image.size
    assert pipeline.candidates(image, "a cat", points=[[40, 30]]).show().size == image.size


def test_kinds_of_images_agree(random_pipelines: dict[str, Pipeline], tmp_path: Path):
    upright, exif = random_image(), Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected = random_pipelines["box"].segment(upright, "a cat")
    for image in (np.asarray(upright), tmp_path / "turned.png", str(tmp_path / "turned.png")):
        assert_same(random_pipelines["box"].segment(image, "a cat"), expected)


def test_masks_within_a_phrase_are_suppressed(random_config: PipelineConfig):
    everything = Pipeline.from_config(random_config, mask_nms_threshold=None).segment(random_image(), "a cat")
    some = Pipeline.from_config(random_config, mask_nms_threshold=0.3).segment(random_image(), "a cat")
    assert 0 < len(some) < len(everything)
    overlaps = coco_mask.iou(list(some.rles), list(some.rles), [False] * len(some))
    assert (overlaps - np.eye(len(some)) <= 0.3).all()


@pytest.mark.parametrize(
    ("mode", "stages"),
    [
        ("box", ["open", "detect", "encode", "segment"]),
        ("text", ["open", "embed_text", "encode", "segment"]),
        ("box+text", ["open", "detect", "embed_text", "encode", "segment"]),
    ],
)
def test_stopwatch(random_pipelines: dict[str, Pipeline], mode: str, stages: list[str]):
    watch = Stopwatch()
    random_pipelines[mode].segment(random_image(), "a cat", watch)
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
    assert (
        len(Pipeline.from_config(random_config, mode="box", segmenter=segmenter).segment(random_image(), "a cat")) > 0
    )


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
        pytest.param([random_image()], ["a cat", "dog"], PromptError, "one per image, 1, got 2", id="too many texts"),
        pytest.param([random_image()], [" . "], PromptError, "holds no phrase", id="empty text"),
        pytest.param(["absent.png"], ["a cat"], ImageError, "no such image: absent.png", id="no image"),
    ],
)
def test_wrong_input(
    random_pipelines: dict[str, Pipeline], images: list, texts: list, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        random_pipelines["box"].segment_batch(images, texts)


class TestEveryPart:
    @pytest.mark.parametrize("mode", MODES)
    def test_parts_without_use_are_loaded(self, random_config: PipelineConfig, mode: str):
        pipeline = Pipeline.from_config(random_config, load_all=True, mode=mode)
        assert None not in (pipeline.detector, pipeline.text_encoder, pipeline.scorer)
        assert pipeline.dense_prompter is None  # phrases reach the segmenter in one way
        assert pipeline.models == Pipeline.from_config(random_config, mode=mode).models

    @pytest.mark.parametrize(
        ("text_prompt", "text_encoder", "dense_prompter"),
        [("adapter", True, False), ("dense-clip", False, True), ("none", False, False)],
    )
    def test_the_text_prompt_is_the_configured_one(
        self, random_config: PipelineConfig, text_prompt: str, text_encoder: bool, dense_prompter: bool
    ):
        pipeline = Pipeline.from_config(random_config, load_all=True, mode="box", text_prompt=text_prompt)
        assert (pipeline.text_encoder is not None) == text_encoder
        assert (pipeline.dense_prompter is not None) == dense_prompter
        assert pipeline.scorer is not None

    def test_a_segmenter_without_text_prompt(self, random_config: PipelineConfig, tmp_path: Path):
        segmenter = {"checkpoint": str(save_segmenter(tmp_path / "other.safetensors", None))}
        pipeline = Pipeline.from_config(random_config, load_all=True, mode="box", segmenter=segmenter)
        assert len(pipeline.segment(random_image(), "a cat")) > 0
        with pytest.raises(ConfigError, match="no text prompt of its own"):
            pipeline.with_config(mode="text")


LENIENT = {"fallback_threshold": 0.0, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 3}


@pytest.fixture(scope="module")
def whole(random_config: PipelineConfig) -> Pipeline:
    """Every part of the small models."""
    return Pipeline.from_config(random_config, load_all=True)


class TestAdjusted:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "overrides",
        [
            pytest.param({}, id="nothing"),
            *(pytest.param({"mode": mode}, id=mode) for mode in MODES),
            pytest.param({"mask_nms_threshold": 0.3, "multimask_output": True}, id="masks"),
            pytest.param({"filtering": {"enabled": True, "clip_threshold": 0.0}}, id="filtering"),
            pytest.param({"refine_rounds": 2}, id="refinement"),
            pytest.param({"fallback": {"source": "automatic", **LENIENT}}, id="automatic masks"),
            pytest.param({"fallback": {"source": "text", **LENIENT}}, id="text-prompted masks"),
            pytest.param({"mode": "box+text", "refine_rounds": 1, "filtering": {"enabled": True}}, id="several"),
        ],
    )
    def test_answers_as_if_loaded_so(self, whole: Pipeline, random_config: PipelineConfig, overrides: dict[str, Any]):
        adjusted, loaded = whole.with_config(**overrides), Pipeline.from_config(random_config, **overrides)
        assert adjusted.config == loaded.config
        assert adjusted.models == loaded.models
        text = "a cat. the red mug. dog. pizza"
        assert_same(adjusted.segment(random_image(), text), loaded.segment(random_image(), text))

    def test_the_models_are_the_same(self, whole: Pipeline):
        before, adjusted = whole.config, whole.with_config(mode="text", refine_rounds=1)
        assert whole.config is before
        for part in ("detector", "text_encoder", "segmenter", "scorer"):
            assert getattr(adjusted, part) is getattr(whole, part)
        assert adjusted.with_config(mode=before.prompting.mode, refine_rounds=0).config == before

    @pytest.mark.parametrize(
        ("overrides", "name"),
        [
            pytest.param({"box_threshold": 0.5}, "detector", id="detector"),
            pytest.param({"templates": ["a drawing of {}"]}, "clip", id="clip"),
            pytest.param({"segmenter": {"dtype": "bfloat16"}}, "segmenter", id="segmenter"),
            pytest.param({"margin": 0.5}, "scoring", id="scoring"),
            pytest.param({"device": "auto"}, "device", id="device"),
            pytest.param({"mode": "text", "nms_threshold": 0.5}, "detector", id="among others"),
        ],
    )
    def test_what_models_are_loaded_with_stays(self, whole: Pipeline, overrides: dict[str, Any], name: str):
        with pytest.raises(ConfigError, match=f"^{name} is what models were loaded with: use Pipeline.from_config"):
            whole.with_config(**overrides)

    def test_what_models_are_loaded_with_may_be_repeated(self, whole: Pipeline):
        same = {"device": "cpu", "box_threshold": 0.0, "segmenter": whole.config.segmenter}
        assert whole.with_config(**same).config == whole.config

    @pytest.mark.parametrize(
        ("loaded", "overrides", "message"),
        [
            pytest.param("box", {"mode": "text"}, "needs a text encoder, got none", id="text encoder"),
            pytest.param("box", {"mode": "box+text"}, "needs a text encoder, got none", id="text encoder beside boxes"),
            pytest.param("box", {"filtering": {"enabled": True}}, "need a region scorer, got none", id="scorer"),
            pytest.param("box", {"fallback": {"source": "automatic"}}, "need a region scorer", id="scorer of masks"),
            pytest.param("text", {"mode": "box"}, "mode 'box' needs a detector, got none", id="detector"),
            pytest.param("box+text", {"text_prompt": "dense-clip"}, "needs a dense prompter", id="heat prompter"),
            pytest.param("box", {"mode": "both"}, "mode must be one of box, text", id="unknown mode"),
            pytest.param("box", {"refine_rounds": 9}, r"must lie in \[0, 8\], got 9", id="out of range"),
            pytest.param("box", {"refine_rounds": "1"}, "refine_rounds must be int, got str '1'", id="type"),
            pytest.param("box", {"nonsense": 1}, "unknown field 'nonsense'", id="unknown"),
            pytest.param(
                "box",
                {"text_prompt": "none", "fallback": {"source": "text"}},
                "needs a prompting.text_prompt",
                id="pair",
            ),
        ],
    )
    def test_wrong(self, random_pipelines: dict[str, Pipeline], loaded: str, overrides: dict[str, Any], message: str):
        with pytest.raises(ConfigError, match=message):
            random_pipelines[loaded].with_config(**overrides)


class TestBoxThreshold:
    @pytest.mark.parametrize(
        ("text", "threshold"),
        [
            *(("dog. pizza. red apple. helicopter", threshold) for threshold in (0.05, 0.72, 1.0)),
            ("fruit. animal", 0.15),
        ],
    )
    def test_as_if_the_detector_had_it(self, bundled: Pipeline, text: str, threshold: float):
        config = override(bundled.config, box_threshold=threshold)
        detector = build.load_detector(config, build.pick_device("cpu"))
        plain = bundled.with_config(filtering={"enabled": False})
        expected = replace(plain, detector=detector).segment(PICNIC, text)
        assert_same(plain.segment(PICNIC, text, box_threshold=threshold), expected)

    def test_several_counts(self, bundled: Pipeline):
        """The thresholds above do tell detections apart."""
        text, plain, kept = "dog. pizza. red apple. helicopter", bundled.with_config(mode="box"), StageCache()
        counts = [len(plain.segment(PICNIC, text, box_threshold=t, cache=kept)) for t in (0.05, 0.72, 1.0)]
        assert counts[0] > counts[1] > counts[2] == 0

    @pytest.mark.parametrize("threshold", [None, 0.0, -1.0])
    def test_below_the_detectors_own(self, random_config: PipelineConfig, threshold: float | None):
        pipeline = Pipeline.from_config(random_config, box_threshold=0.3)
        expected = pipeline.segment(random_image(), "a cat. dog")
        assert_same(pipeline.segment(random_image(), "a cat. dog", box_threshold=threshold), expected)

    def test_without_a_detector(self, random_pipelines: dict[str, Pipeline]):
        expected = random_pipelines["text"].segment(random_image(), "a cat. dog")
        assert_same(random_pipelines["text"].segment(random_image(), "a cat. dog", box_threshold=1.0), expected)


class TestEncode:
    def test_once_for_each_image(self, random_pipelines: dict[str, Pipeline]):
        pipeline, kept = random_pipelines["box"], StageCache()
        first, again, other, back = (Stopwatch() for _ in range(4))
        embedding = pipeline.encode(random_image(), kept, first)
        assert pipeline.encode(np.asarray(random_image()), kept, again) is embedding
        assert pipeline.encode(random_image(seed=1), kept, other) is not embedding
        pipeline.encode(random_image(), kept, back)  # of one image at a time
        assert [list(watch.seconds) for watch in (first, again, other, back)] == [
            ["encode"],
            [],
            ["encode"],
            ["encode"],
        ]

    def test_without_it_every_time(self, random_pipelines: dict[str, Pipeline]):
        pipeline, watch = random_pipelines["box"], Stopwatch()
        assert pipeline.encode(random_image()) is not pipeline.encode(random_image(), stopwatch=watch)
        assert list(watch.seconds) == ["encode"]

    def test_segment_and_encode_share_it(self, bundled: Pipeline):
        kept, bundled = StageCache(), bundled.with_config(zoom=None)
        with counted(bundled) as calls:
            found = bundled.segment(PICNIC, "dog", box_threshold=0.3, cache=kept)
            embedding = bundled.encode(PICNIC, kept)
            bundled.refine(PICNIC, found, 0, [[470, 270]], embedding=embedding)
            bundled.segment(PICNIC, "pizza", box_threshold=0.3, cache=kept)
        assert calls["encode"] == 1


def test_the_mask_decoder_is_six_calls_away(random_pipelines: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch):
    """A reader who follows `Pipeline.segment` to the masks passes few functions, decorators aside."""
    original, depths = FastDecoder.predict_deferred, []

    def recording(self: FastDecoder, *arguments: Any, **options: Any) -> Any:
        calls = [
            frame for frame in traceback.extract_stack() if {"grounded", "segany"} & set(Path(frame.filename).parts)
        ]
        calls = [call for call in calls if "tests" not in Path(call.filename).parts]
        depths.append([call.name for call in calls] + ["predict_deferred"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(FastDecoder, "predict_deferred", recording)
    random_pipelines["box"].segment(random_image(), "a cat")
    assert depths[0][0] == "segment" and len(depths[0]) <= 6, depths[0]


class NeverUsed:
    """A detector that must not run."""

    def detect(self, images: list[Image.Image], phrases: list[tuple[str, ...]]) -> list[Detections]:
        raise AssertionError("the detector ran")


def test_detections_from_elsewhere(random_pipelines: dict[str, Pipeline]):
    pipeline = random_pipelines["box"]
    detections = pipeline.detector.detect([random_image()], [("a cat", "dog")])[0]
    without = replace(pipeline, detector=NeverUsed())
    found = without.segment(random_image(), "a cat. dog", detections=detections)
    assert_same(found, pipeline.segment(random_image(), "a cat. dog"))
    with pytest.raises(PromptError, match="detections must be of 1 phrases, got 2"):
        pipeline.segment(random_image(), "a cat", detections=detections)

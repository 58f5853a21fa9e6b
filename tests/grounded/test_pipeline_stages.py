"""The stages beyond boxes, with small models of random weights: what each may change, and what it must leave alone."""

import numpy as np
import pytest

from grounded.config import PipelineConfig, override
from grounded.data.instances import Instances
from grounded.errors import ConfigError, PromptError
from grounded.pipeline import Pipeline
from grounded.utils.timing import Stopwatch
from segany.utils.rle import decode_rle
from tests.grounded.conftest import random_image
from tests.grounded.test_pipeline import assert_same

TEXT = "a cat. the red mug. dog"
EVERYTHING = {"filtering": {"enabled": True, "clip_threshold": 0.0}, "refine_rounds": 1, "mode": "box+text"}
LENIENT = {"fallback_threshold": 0.0, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 3}
CASES = [
    pytest.param({"filtering": {"enabled": True, "clip_threshold": 0.0}}, id="filtering"),
    pytest.param({"refine_rounds": 2}, id="refinement"),
    pytest.param({"fallback": {"source": "automatic", **LENIENT}, "box_threshold": 1.0}, id="automatic masks"),
    pytest.param({"fallback": {"source": "text", **LENIENT}, "box_threshold": 1.0}, id="text-prompted masks"),
    pytest.param({"mode": "text", "text_prompt": "dense-clip"}, id="dense-clip"),
    pytest.param({"mode": "box+text", "text_prompt": "dense-clip"}, id="boxes and dense-clip"),
    pytest.param({**EVERYTHING, "fallback": {"source": "automatic", **LENIENT}}, id="everything"),
]


def build(config: PipelineConfig, **overrides) -> Pipeline:
    return Pipeline.from_config(config, **overrides)


@pytest.mark.parametrize("overrides", CASES)
def test_instances_fit_the_question(random_config: PipelineConfig, overrides: dict):
    instances = build(random_config, **overrides).segment(random_image(), TEXT)
    assert len(instances) > 0
    assert instances.phrases == ("a cat", "the red mug", "dog")
    assert (np.diff(instances.scores) <= 1e-6).all()
    assert instances.masks.any(axis=(1, 2)).all()


@pytest.mark.parametrize("overrides", CASES)
def test_batch_equals_single(random_config: PipelineConfig, overrides: dict):
    pipeline = build(random_config, **overrides)
    images = [random_image(seed=0), random_image(seed=1), random_image(90, 50)]
    for image, instances in zip(images, pipeline.segment_batch(images, TEXT), strict=True):
        assert_same(instances, pipeline.segment(image, TEXT))


@pytest.mark.parametrize("overrides", CASES)
def test_a_kept_embedding_gives_the_same(random_config: PipelineConfig, overrides: dict):
    pipeline, watch = build(random_config, **overrides), Stopwatch()
    embedding = pipeline.encode(random_image())
    assert_same(
        pipeline.segment(random_image(), TEXT, watch, embedding=embedding), pipeline.segment(random_image(), TEXT)
    )
    assert "encode" not in watch.seconds


def test_an_embedding_of_another_image_is_refused(random_config: PipelineConfig):
    pipeline = build(random_config)
    with pytest.raises(PromptError, match=r"of an image of \(60, 80\), got one of \(90, 50\)"):
        pipeline.segment(random_image(), TEXT, embedding=pipeline.encode(random_image(90, 50)))


def test_scores_of_filtered_instances(random_config: PipelineConfig):
    instances = build(random_config, filtering={"enabled": True, "clip_threshold": 0.0}).segment(random_image(), TEXT)
    np.testing.assert_allclose(instances.scores**2, instances.detector_scores * instances.clip_scores, rtol=1e-5)
    assert ((instances.clip_scores > 0) & (instances.clip_scores < 1)).all()


def test_filtering_drops_what_does_not_look_like_its_phrase(random_config: PipelineConfig):
    everything = build(random_config, filtering={"enabled": True, "clip_threshold": 0.0}).segment(random_image(), TEXT)
    cut = float(np.median(everything.clip_scores))
    some = build(random_config, filtering={"enabled": True, "clip_threshold": cut}).segment(random_image(), TEXT)
    assert 0 < len(some) < len(everything)
    assert (some.clip_scores >= cut).all()


def test_another_phrase_does_not_change_a_clip_score(random_config: PipelineConfig):
    scorer = build(random_config, filtering={"enabled": True}).scorer
    rles = build(random_config).segment(random_image(), TEXT).rles
    few, many = (
        scorer.score(random_image(), rles, ["a cat"]),
        scorer.score(random_image(), rles, ["dog", "a cat", "a mug"]),
    )
    np.testing.assert_array_equal(few[:, 0], many[:, 1])


@pytest.mark.parametrize("source", ["automatic", "text"])
def test_the_fallback_answers_for_missing_phrases_only(random_config: PipelineConfig, source: str):
    detected = build(random_config).segment(random_image(), TEXT)
    names, counts = np.unique(detected.phrase_ids, return_counts=True)
    assert len(names) > 0
    pipeline = build(random_config, fallback={"source": source, **LENIENT, "max_instances": 2})
    instances = pipeline.segment(random_image(), TEXT)
    found = instances[instances.sources == "detector"]
    assert_same(found, detected)
    fallen = instances[instances.sources == source]
    assert len(fallen) + len(found) == len(instances)
    assert not set(fallen.phrase_ids.tolist()) & set(names.tolist())
    assert counts.sum() == len(found)


def test_the_fallback_ranks_by_clip_and_predicted_iou(random_config: PipelineConfig):
    pipeline = build(random_config, box_threshold=1.0, fallback={"source": "automatic", **LENIENT, "max_instances": 2})
    instances = pipeline.segment(random_image(), TEXT)
    assert set(instances.sources.tolist()) == {"automatic"}
    assert np.isnan(instances.detector_scores).all()
    expected = np.sqrt(instances.clip_scores * instances.predicted_iou.clip(0, 1))
    np.testing.assert_allclose(instances.scores, expected, rtol=1e-5)
    assert np.bincount(instances.phrase_ids).max() <= 2


def test_no_fallback_above_its_threshold(random_config: PipelineConfig):
    fallback = {"source": "automatic", **LENIENT, "fallback_threshold": 1.0}
    assert len(build(random_config, box_threshold=1.0, fallback=fallback).segment(random_image(), TEXT)) == 0


def test_refinement_never_lowers_the_predicted_iou(random_config: PipelineConfig):
    settings = {"mask_nms_threshold": None}
    before = build(random_config, **settings).segment(random_image(), TEXT)
    after = build(random_config, refine_rounds=2, **settings).segment(random_image(), TEXT)
    assert len(before) == len(after)
    assert (after.predicted_iou >= before.predicted_iou - 1e-6).all()


class TestClicks:
    """Points beside the text. The detector's own boxes are where the clicks must fall."""

    def test_a_click_in_a_box_changes_that_instance(self, random_config: PipelineConfig):
        pipeline = build(random_config, max_detections=1)
        before = pipeline.segment(random_image(), "a cat")
        x0, y0, x1, y1 = before.boxes[0]
        centre = [[(x0 + x1) / 2, (y0 + y1) / 2]]
        for label in (0, 1):
            after = pipeline.segment(random_image(), "a cat", points=centre, point_labels=[label])
            np.testing.assert_array_equal(after.boxes, before.boxes)
            assert after.predicted_iou[0] != before.predicted_iou[0]

    def test_a_click_outside_all_boxes_is_an_instance(self, random_config: PipelineConfig):
        pipeline = build(random_config, box_threshold=1.0)
        instances = pipeline.segment(random_image(), "a cat", points=[[40, 30]])
        assert instances.labels.tolist() == ["a cat"]
        assert instances.sources.tolist() == ["point"]

    def test_background_outside_all_boxes_says_nothing(self, random_config: PipelineConfig):
        pipeline = build(random_config, box_threshold=1.0)
        assert len(pipeline.segment(random_image(), TEXT, points=[[40, 30]], point_labels=[0])) == 0

    def test_a_click_that_may_mean_several_phrases(self, random_config: PipelineConfig):
        with pytest.raises(PromptError, match="may mean any of 3 phrases"):
            build(random_config, box_threshold=1.0).segment(random_image(), TEXT, points=[[40, 30]])
        scored = build(random_config, box_threshold=1.0, filtering={"enabled": True, "clip_threshold": 1.0})
        assert len(scored.segment(random_image(), TEXT, points=[[40, 30]])) == 1

    @pytest.mark.parametrize(
        ("points", "labels", "message"),
        [
            pytest.param([[100, 10]], None, "must lie in the image of 80 x 60", id="outside"),
            pytest.param([[float("nan"), 10]], None, "finite", id="nan"),
            pytest.param([[1, 2]], [1, 0], "one per point", id="too many labels"),
            pytest.param([[1, 2]], [2], "must be 1 .* or 0", id="unknown label"),
            pytest.param(None, [1], "point_labels need points", id="labels alone"),
        ],
    )
    def test_wrong_clicks(self, random_pipelines: dict, points: list | None, labels: list | None, message: str):
        with pytest.raises(PromptError, match=message):
            random_pipelines["box"].segment(random_image(), TEXT, points=points, point_labels=labels)


class TestRefineOne:
    @pytest.fixture
    def instances(self, random_pipelines: dict[str, Pipeline]) -> Instances:
        return random_pipelines["box"].segment(random_image(), TEXT)

    @pytest.mark.parametrize("index", [0, -1])
    @pytest.mark.parametrize("kept", [False, True], ids=["encoded again", "kept embedding"])
    def test_the_others_stay(self, random_pipelines: dict, instances: Instances, index: int, kept: bool):
        pipeline = random_pipelines["box"]
        eraser = decode_rle([instances.rles[index]])[0].numpy()
        eraser[: eraser.shape[0] // 2] = False
        embedding = pipeline.encode(random_image()) if kept else None
        after = pipeline.refine(random_image(), instances, index, eraser=eraser, embedding=embedding)
        assert len(after) == len(instances)
        assert after.labels.tolist() == instances.labels.tolist()
        others = np.arange(len(instances)) != np.arange(len(instances))[index]
        assert_same(after[others], instances[others])
        assert after.rles[index] != instances.rles[index]
        assert not (after[index].masks[0] & eraser).all() or not eraser.any()

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            pytest.param({"index": 99, "points": [[1, 1]]}, IndexError, "99", id="no such instance"),
            pytest.param({"index": 0}, PromptError, "must have points or strokes", id="nothing"),
            pytest.param({"index": 0, "points": [[1, 1, 1]]}, PromptError, "points must be", id="wrong shape"),
            pytest.param(
                {"index": 0, "brush": np.zeros((3, 3), bool)}, PromptError, "brush must be bool", id="wrong size"
            ),
        ],
    )
    def test_wrong_corrections(
        self, random_pipelines: dict, instances: Instances, arguments: dict, error: type, message: str
    ):
        with pytest.raises(error, match=message):
            random_pipelines["box"].refine(random_image(), instances, **arguments)

    def test_another_image(self, random_pipelines: dict, instances: Instances):
        with pytest.raises(PromptError, match="the image must be"):
            random_pipelines["box"].refine(random_image(30, 30), instances, 0, points=[[1, 1]])


@pytest.mark.parametrize(
    ("overrides", "missing", "message"),
    [
        ({"filtering": {"enabled": True}}, "scorer", "need a region scorer"),
        ({"fallback": {"source": "automatic"}}, "scorer", "need a region scorer"),
        ({"mode": "text", "text_prompt": "dense-clip"}, "dense_prompter", "needs a dense prompter"),
    ],
)
def test_missing_parts(random_config: PipelineConfig, overrides: dict, missing: str, message: str):
    whole = build(random_config, **overrides)
    parts = {**vars(whole), missing: None}
    with pytest.raises(ConfigError, match=message):
        Pipeline(**parts)


def test_parts_are_loaded_only_when_needed(random_config: PipelineConfig):
    plain = build(override(random_config, mode="box"))
    assert plain.text_encoder is plain.scorer is plain.dense_prompter is None
    assert plain.models["clip"] is None
    assert build(random_config, filtering={"enabled": True}).models["clip"] == random_config.clip.checkpoint

"""The actions of a user on the example, with the bundled models and without a browser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grounded.config import PipelineConfig, load, override
from grounded.data.instances import Instances
from grounded.errors import ConfigError, ImageError, PromptError
from grounded.pipeline import Pipeline
from grounded.query import QuerySettings
from grounded.stages.cache import StageCache
from grounded.ui.actions import LOWEST_BOX_THRESHOLD, Actions, instance_at, interactive_defaults
from grounded.ui.state import AppState, Limits
from segany.utils.rle import encode_rle, rle_area
from tests.data import PICNIC, disk
from tests.grounded.conftest import random_image
from tests.grounded.counting import counted

DOG, EDGE = (470.0, 270.0), (400.0, 330.0)
SIZE = (480, 640)
GRID: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}


class TestOpen:
    def test_a_file(self, actions: Actions):
        state = actions.open(PICNIC)
        assert state.cache is not None and state.cache is not actions.open(PICNIC).cache
        assert state.require_image().size == SIZE
        assert state.name == "picnic"
        assert (state.edits, state.history, state.require_image().notes) == (None, (), ())

    @pytest.mark.parametrize(
        ("image", "name", "expected"),
        [
            pytest.param(str(PICNIC), None, "picnic", id="file"),
            pytest.param(PICNIC, "lunch", "lunch", id="given"),
            pytest.param(random_image(), None, "image", id="image"),
            pytest.param(np.asarray(random_image()), "", "image", id="array"),
        ],
    )
    def test_its_name(self, actions: Actions, image: Any, name: str | None, expected: str):
        assert actions.open(image, name).name == expected

    def test_a_large_image_is_scaled_down_with_a_note(self, actions: Actions):
        state = replace(actions, limits=Limits(max_side=320)).open(PICNIC)
        assert state.require_image().size == (240, 320)
        assert state.require_image().notes == ("scaled down from 640 x 480 to 320 x 240 pixels",)
        after = actions.segment(state, "dog")
        assert after.instances.image_size == (240, 320)
        assert len(after.instances) == 1

    def test_too_large(self, actions: Actions):
        with pytest.raises(ImageError, match="too large: 640 x 480"):
            replace(actions, limits=Limits(max_megapixels=0.3)).open(PICNIC)

    def test_no_image(self, actions: Actions, tmp_path: Path):
        (tmp_path / "broken.png").write_bytes(PICNIC.read_bytes()[:2000])
        with pytest.raises(ImageError, match=r"cannot read .*broken\.png"):
            actions.open(tmp_path / "broken.png")


class TestFromConfig:
    def test_the_controls_stand_where_the_configuration_says(self, actions: Actions):
        config = Pipeline.from_config("tiny").config
        assert actions.defaults == QuerySettings.from_config(config)
        assert actions.defaults.box_threshold > LOWEST_BOX_THRESHOLD
        assert actions.pipeline.config.detector.box_threshold == LOWEST_BOX_THRESHOLD
        assert actions.limits == Limits()

    @pytest.mark.parametrize(("threshold", "loaded"), [(0.0, 0.0), (0.01, 0.01), (0.5, LOWEST_BOX_THRESHOLD)])
    def test_the_detector_is_loaded_with_the_lowest_threshold(
        self, random_config: PipelineConfig, threshold: float, loaded: float
    ):
        config = replace(random_config, detector=replace(random_config.detector, box_threshold=threshold))
        actions = Actions.from_config(config, Limits(max_side=50))
        assert actions.pipeline.config.detector.box_threshold == loaded
        assert actions.defaults.box_threshold == threshold
        assert actions.limits.max_side == 50

    def test_unknown(self):
        with pytest.raises(ConfigError, match="no preset named 'huge'"):
            Actions.from_config("huge")


class TestWithSettings:
    @pytest.fixture(scope="class")
    @staticmethod
    def whole(random_config: PipelineConfig) -> Actions:
        return Actions.from_config(override(random_config, box_threshold=0.5))

    def test_the_defaults_change_nothing_but_the_box_threshold(self, whole: Actions):
        pipeline, threshold = whole.with_settings(whole.defaults)
        assert pipeline == whole.pipeline
        assert threshold == whole.config.detector.box_threshold > whole.pipeline.config.detector.box_threshold
        assert whole.with_settings(QuerySettings()) == (pipeline, threshold)

    def test_the_other_settings_reach_the_pipeline(self, whole: Actions):
        settings = replace(
            whole.defaults, mode="text", filtering=True, clip_threshold=0.2, refine_rounds=3, fallback="automatic"
        )
        pipeline, _ = whole.with_settings(settings)
        lowest = whole.pipeline.config.detector.box_threshold
        assert QuerySettings.from_config(pipeline.config) == replace(settings, box_threshold=lowest)

    def test_a_model_that_was_not_loaded(self, random_config: PipelineConfig):
        few = Actions(Pipeline.from_config(random_config), random_config, Limits())
        with pytest.raises(ConfigError, match="need a region scorer, got none"):
            few.with_settings(QuerySettings(filtering=True))


class TestSegment:
    def test_finds_what_the_pipeline_finds(self, found: AppState):
        assert found.instances.to_dict() == Pipeline.from_config("tiny").segment(PICNIC, "dog. pizza").to_dict()
        assert set(found.instances.labels.tolist()) == {"dog", "pizza"}
        assert {"open", "detect", "encode", "segment", "score"} <= found.stages_run == set(found.seconds)
        assert found.edits is not None
        assert found.edits.selected is None

    @pytest.mark.parametrize(
        ("text", "change", "ran", "may_run"),
        [
            pytest.param("dog. pizza", {}, set(), set(), id="nothing"),
            pytest.param("dog. balloon", {}, {"detect", "decode", "score"}, set(), id="text"),
            pytest.param("dog. pizza", {"box_threshold": 0.73}, {"decode", "score"}, set(), id="box threshold"),
            pytest.param("dog. pizza", {"clip_threshold": 0.99999}, set(), set(), id="CLIP threshold"),
            # Whether a mask changes, and with it its score, is up to the weights.
            pytest.param("dog. pizza", {"mode": "box"}, {"decode"}, {"score"}, id="mode"),
        ],
    )
    def test_a_change_runs_only_what_depends_on_it(
        self, actions: Actions, text: str, change: dict, ran: set[str], may_run: set[str]
    ):
        settings = replace(actions.defaults, **change)
        before = actions.segment(actions.open(PICNIC), "dog. pizza")
        with counted(actions.pipeline) as calls:
            after = actions.segment(before, text, settings)
        assert ran <= set(calls) <= ran | may_run
        assert set(after.seconds) & {"detect", "score"} == set(calls) & {"detect", "score"}
        assert "encode" not in after.seconds
        assert after.stages_run >= {"detect", "encode", "segment", "score"}
        alone = actions.segment(actions.open(PICNIC), text, settings)
        assert after.instances.to_dict() == alone.instances.to_dict()

    def test_nothing_found(self, actions: Actions, found: AppState):
        after = actions.segment(found, "helicopter")
        assert len(after.instances) == 0
        assert after.instances.phrases == ("helicopter",)

    @pytest.mark.parametrize("text", ["", " . ", []], ids=str)
    def test_no_text(self, actions: Actions, found: AppState, text: Any):
        with pytest.raises(PromptError, match="holds no phrase"):
            actions.segment(found, text)

    def test_a_setting_out_of_range(self, actions: Actions, found: AppState):
        with pytest.raises(ConfigError, match="clip_threshold must lie in"):
            actions.segment(found, "dog", replace(actions.defaults, clip_threshold=2.0))


class TestEverything:
    def test_masks_without_names(self, actions: Actions, found: AppState):
        with counted(actions.pipeline) as calls:
            after = actions.everything(found, **GRID)
        assert set(calls) == {"decode"}
        assert list(after.seconds) == ["automatic_masks"]
        assert len(after.instances) > 3
        assert after.instances.phrases == ("unnamed",)
        assert actions.undo(after).instances.to_dict() == found.instances.to_dict()

    def test_names(self, actions: Actions):
        after = actions.everything(actions.open(PICNIC), "dog. pizza", naming_threshold=0.0, **GRID)
        assert set(after.instances.labels.tolist()) <= {"dog", "pizza"}
        assert list(after.seconds) == ["encode", "automatic_masks", "score"]


class TestUsers:
    @pytest.mark.slow
    def test_two_users_share_the_models_alone(self, actions: Actions):
        picnic, shelf = PICNIC, PICNIC.with_name("shelf.png")
        expected = [actions.segment(actions.open(path), "dog. pizza").instances.to_dict() for path in (picnic, shelf)]
        one, other = actions.open(picnic), actions.open(shelf)
        one, other = actions.segment(one, "dog. pizza"), actions.segment(other, "dog. pizza")
        assert one.cache is not other.cache
        one = actions.press(actions.select(one, 0), "remove point", *EDGE)
        other_again = actions.segment(other, "dog. pizza")
        assert other_again.instances.to_dict() == other.instances.to_dict() == expected[1]
        assert actions.undo(one).instances.to_dict() == expected[0]

    @pytest.mark.slow
    def test_one_image_of_two_users_is_encoded_for_each(self, actions: Actions):
        with counted(actions.pipeline) as calls:
            for _ in range(2):
                actions.segment(actions.open(PICNIC), "dog")
        assert calls["encode"] == calls["detect"] == 2

    def test_an_action_leaves_the_state_before_it(self, actions: Actions, selected: AppState):
        before = selected.instances.to_dict()
        for event in (
            lambda: actions.press(selected, "remove point", *EDGE),
            lambda: actions.relabel(selected, "hound"),
            lambda: actions.delete(selected),
            lambda: actions.segment(selected, "orange"),
        ):
            assert event() is not selected
            assert selected.instances.to_dict() == before
            assert isinstance(selected.cache, StageCache)


class TestInstanceAt:
    @pytest.fixture(scope="class")
    @staticmethod
    def nested() -> Instances:
        masks = np.stack(
            [disk(40, 60, 30, 20, 15), disk(40, 60, 30, 20, 5), disk(40, 60, 38, 20, 5), disk(40, 60, 0, 0, 1)]
        )
        found = Instances.empty(("a",), (40, 60))
        unknown = np.full(4, np.nan, np.float32)
        return replace(
            found,
            phrase_ids=np.zeros(4, np.int64),
            boxes=np.zeros((4, 4), np.float32),
            rles=tuple(encode_rle(masks)),
            **dict.fromkeys(("scores", "detector_scores", "clip_scores", "predicted_iou"), unknown),
            phrase_scores=unknown[:, None],
            sources=np.array(["point"] * 4),
        )

    @pytest.mark.parametrize(
        ("x", "y", "index"),
        [
            pytest.param(30.0, 20.0, 1, id="the smallest"),
            pytest.param(34.0, 20.0, 1, id="the first of two"),
            pytest.param(38.9, 20.9, 2, id="within a pixel"),
            pytest.param(20.0, 20.0, 0, id="the large one"),
            pytest.param(3.0, 3.0, None, id="none"),
            pytest.param(0.9, 0.9, 3, id="the first pixel"),
            pytest.param(60.0, 40.0, None, id="the far corner"),
            pytest.param(-1.0, 20.0, None, id="outside"),
        ],
    )
    def test_smallest_first(self, nested: Instances, x: float, y: float, index: int | None):
        assert instance_at(nested, x, y) == index

    @pytest.mark.slow
    def test_every_pixel(self, nested: Instances):
        areas = rle_area(nested.rles)
        for y, x in np.ndindex(40, 60):
            here = np.flatnonzero(nested.masks[:, y, x])
            expected = None if len(here) == 0 else int(here[areas[here].argmin()])
            assert instance_at(nested, x + 0.5, y + 0.5) == expected

    def test_among_none(self):
        assert instance_at(Instances.empty((), (40, 60)), 1.0, 1.0) is None


@pytest.mark.parametrize(
    ("given", "area", "expected"),
    [
        pytest.param({}, 0, (0.6, 0.6, 100), id="the bundled weights"),
        pytest.param({"pred_iou_thresh": 0.8, "stability_score_thresh": 0.9}, 200, (0.8, 0.9, 200), id="stricter ones"),
    ],
)
def test_masks_worth_showing_are_no_worse_than_those_of_the_fallback(given: dict, area: int, expected: tuple):
    whole = override(load("tiny"), fallback=given, refinement={"min_mask_region_area": area})
    strict = interactive_defaults(whole)
    found = strict.fallback.pred_iou_thresh, strict.fallback.stability_score_thresh
    assert (*found, strict.refinement.min_mask_region_area) == expected
    assert replace(strict, fallback=whole.fallback, refinement=whole.refinement) == whole

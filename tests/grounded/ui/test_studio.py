"""The events of the app on the example, with the bundled models and without a browser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from grounded.data.instances import Instances
from grounded.errors import ConfigError, ImageError, PromptError
from grounded.pipeline import Pipeline
from grounded.settings import PipelineConfig
from grounded.stages.cache import StageCache
from grounded.ui.limits import Limits
from grounded.ui.options import Options
from grounded.ui.session import Session
from grounded.ui.studio import LOWEST_BOX_THRESHOLD, Studio, instance_at
from segany.utils.rle import encode_rle
from tests.data import PICNIC, disk
from tests.grounded.conftest import picture
from tests.grounded.counting import counted

DOG, EDGE = (470.0, 270.0), (400.0, 330.0)
SIZE = (480, 640)
GRID: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}


class TestOpen:
    def test_a_file(self, studio: Studio):
        session = studio.open(PICNIC)
        assert session.opened.size == SIZE
        assert session.name == "picnic"
        assert (session.work, session.history, session.opened.notes) == (None, (), ())

    @pytest.mark.parametrize(
        ("image", "name", "expected"),
        [
            pytest.param(str(PICNIC), None, "picnic", id="file"),
            pytest.param(PICNIC, "lunch", "lunch", id="given"),
            pytest.param(picture(), None, "picture", id="picture"),
            pytest.param(np.asarray(picture()), "", "picture", id="array"),
        ],
    )
    def test_its_name(self, studio: Studio, image: Any, name: str | None, expected: str):
        assert studio.open(image, name).name == expected

    def test_a_large_picture_is_scaled_down_which_is_said(self, studio: Studio):
        session = replace(studio, limits=Limits(max_side=320)).open(PICNIC)
        assert session.opened.size == (240, 320)
        assert session.opened.notes == ("scaled down from 640 x 480 to 320 x 240 pixels",)
        after = studio.segment(session, "dog")
        assert after.instances.image_size == (240, 320)
        assert len(after.instances) == 1

    def test_too_large(self, studio: Studio):
        with pytest.raises(ImageError, match="too large: 640 x 480"):
            replace(studio, limits=Limits(max_megapixels=0.3)).open(PICNIC)

    def test_no_picture(self, studio: Studio, tmp_path: Path):
        (tmp_path / "broken.png").write_bytes(PICNIC.read_bytes()[:2000])
        with pytest.raises(ImageError, match=r"cannot read .*broken\.png"):
            studio.open(tmp_path / "broken.png")


class TestFromConfig:
    def test_the_controls_stand_where_the_configuration_says(self, studio: Studio):
        config = Pipeline.from_config("tiny").config
        assert studio.defaults == Options.of(config)
        assert studio.defaults.box_threshold > LOWEST_BOX_THRESHOLD
        assert studio.pipeline.config.detector.box_threshold == LOWEST_BOX_THRESHOLD
        assert studio.limits == Limits()

    @pytest.mark.parametrize(("threshold", "loaded"), [(0.0, 0.0), (0.01, 0.01), (0.5, LOWEST_BOX_THRESHOLD)])
    def test_the_detector_is_loaded_with_the_lowest_threshold(
        self, random_config: PipelineConfig, threshold: float, loaded: float
    ):
        config = replace(random_config, detector=replace(random_config.detector, box_threshold=threshold))
        studio = Studio.from_config(config, Limits(max_side=50))
        assert studio.pipeline.config.detector.box_threshold == loaded
        assert studio.defaults.box_threshold == threshold
        assert studio.limits.max_side == 50

    def test_unknown(self):
        with pytest.raises(ConfigError, match="no preset named 'huge'"):
            Studio.from_config("huge")


class TestSegment:
    def test_answers_as_the_pipeline_does(self, found: Session):
        assert found.instances.to_dict() == Pipeline.from_config("tiny").segment(PICNIC, "dog. pizza").to_dict()
        assert set(found.instances.labels.tolist()) == {"dog", "pizza"}
        assert {"open", "detect", "encode", "decode", "score"} <= found.ran == set(found.seconds)
        assert found.work is not None
        assert found.work.selected is None

    @pytest.mark.parametrize(
        ("text", "change", "ran", "may_run"),
        [
            pytest.param("dog. pizza", {}, set(), set(), id="nothing"),
            pytest.param("dog. balloon", {}, {"detect", "decode", "score"}, set(), id="text"),
            pytest.param("dog. pizza", {"box_threshold": 0.73}, {"decode", "score"}, set(), id="box threshold"),
            pytest.param("dog. pizza", {"clip_threshold": 0.99999}, set(), set(), id="CLIP threshold"),
            pytest.param("dog. pizza", {"filtering": False}, set(), set(), id="filtering"),
            # Whether a mask changes, and with it its score, is up to the weights.
            pytest.param("dog. pizza", {"mode": "box"}, {"decode"}, {"score"}, id="mode"),
            pytest.param("dog. pizza", {"refine_rounds": 1}, {"decode"}, {"score"}, id="refinement"),
        ],
    )
    def test_a_change_runs_only_what_depends_on_it(
        self, studio: Studio, text: str, change: dict, ran: set[str], may_run: set[str]
    ):
        options = studio.defaults.changed(**change)
        before = studio.segment(studio.open(PICNIC), "dog. pizza")
        with counted(studio.pipeline) as calls:
            after = studio.segment(before, text, options)
        assert ran <= set(calls) <= ran | may_run
        assert set(after.seconds) & {"detect", "score"} == set(calls) & {"detect", "score"}
        assert "encode" not in after.seconds
        assert after.ran >= {"detect", "encode", "decode", "score"}
        alone = studio.segment(studio.open(PICNIC), text, options)
        assert after.instances.to_dict() == alone.instances.to_dict()

    def test_nothing_found(self, studio: Studio, found: Session):
        after = studio.segment(found, "helicopter")
        assert len(after.instances) == 0
        assert after.instances.phrases == ("helicopter",)

    @pytest.mark.parametrize("text", ["", " . ", []], ids=str)
    def test_no_text(self, studio: Studio, found: Session, text: Any):
        with pytest.raises(PromptError, match="holds no phrase"):
            studio.segment(found, text)

    def test_options_that_do_not_fit(self, studio: Studio, found: Session):
        with pytest.raises(ConfigError, match="clip_threshold must lie in"):
            studio.segment(found, "dog", studio.defaults.changed(clip_threshold=2.0))


class TestEverything:
    def test_masks_without_names(self, studio: Studio, found: Session):
        with counted(studio.pipeline) as calls:
            after = studio.everything(found, **GRID)
        assert set(calls) == {"decode"}
        assert list(after.seconds) == ["automatic"]
        assert len(after.instances) > 3
        assert after.instances.phrases == ("unnamed",)
        assert studio.undo(after).instances.to_dict() == found.instances.to_dict()

    def test_names(self, studio: Studio):
        after = studio.everything(studio.open(PICNIC), "dog. pizza", naming_threshold=0.0, **GRID)
        assert set(after.instances.labels.tolist()) <= {"dog", "pizza"}
        assert list(after.seconds) == ["encode", "automatic", "score"]


class TestUsers:
    def test_two_users_share_the_models_alone(self, studio: Studio):
        picnic, shelf = PICNIC, PICNIC.with_name("shelf.png")
        expected = [studio.segment(studio.open(path), "dog. pizza").instances.to_dict() for path in (picnic, shelf)]
        one, other = studio.open(picnic), studio.open(shelf)
        one, other = studio.segment(one, "dog. pizza"), studio.segment(other, "dog. pizza")
        assert one.kept is not other.kept
        one = studio.press(studio.select(one, 0), "remove point", *EDGE)
        other_again = studio.segment(other, "dog. pizza")
        assert other_again.instances.to_dict() == other.instances.to_dict() == expected[1]
        assert studio.undo(one).instances.to_dict() == expected[0]

    def test_one_picture_of_two_users_is_encoded_for_each(self, studio: Studio):
        with counted(studio.pipeline) as calls:
            for _ in range(2):
                studio.segment(studio.open(PICNIC), "dog")
        assert calls["encode"] == calls["detect"] == 2

    def test_an_event_leaves_the_session_before_it(self, studio: Studio, selected: Session):
        before = selected.instances.to_dict()
        for event in (
            lambda: studio.press(selected, "remove point", *EDGE),
            lambda: studio.relabel(selected, "hound"),
            lambda: studio.delete(selected),
            lambda: studio.segment(selected, "orange"),
        ):
            assert event() is not selected
            assert selected.instances.to_dict() == before
            assert isinstance(selected.kept, StageCache)


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

    def test_every_pixel(self, nested: Instances):
        areas = np.array([coco_mask.area(rle) for rle in nested.rles])
        for y, x in np.ndindex(40, 60):
            here = np.flatnonzero(nested.masks[:, y, x])
            expected = None if len(here) == 0 else int(here[areas[here].argmin()])
            assert instance_at(nested, x + 0.5, y + 0.5) == expected

    def test_among_none(self):
        assert instance_at(Instances.empty((), (40, 60)), 1.0, 1.0) is None

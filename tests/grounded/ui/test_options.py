from dataclasses import asdict
from typing import Any

import pytest

from grounded import config as configs
from grounded.config import override
from grounded.errors import ConfigError
from grounded.pipeline import Pipeline
from grounded.settings import PipelineConfig
from grounded.ui.options import Options

CHANGES: dict[str, Any] = {
    "box_threshold": 0.45,
    "mode": "text",
    "filtering": True,
    "clip_threshold": 0.2,
    "refine_rounds": 3,
    "fallback": "automatic",
    "fallback_threshold": 0.7,
}


@pytest.mark.parametrize("preset", configs.preset_names())
def test_the_defaults_are_those_of_a_preset(preset: str):
    config = configs.load(preset)
    assert asdict(Options.of(config)) == {
        "box_threshold": config.detector.box_threshold,
        "mode": config.prompting.mode,
        "filtering": config.filtering.enabled,
        "clip_threshold": config.filtering.clip_threshold,
        "refine_rounds": config.refinement.refine_rounds,
        "fallback": config.fallback.source,
        "fallback_threshold": config.fallback.fallback_threshold,
    }


@pytest.mark.parametrize("name", list(CHANGES))
def test_one_control_is_moved(name: str):
    before = Options.of(PipelineConfig())
    after = before.changed(**{name: CHANGES[name]})
    assert getattr(before, name) != CHANGES[name]
    assert asdict(after) == {**asdict(before), name: CHANGES[name]}


def test_none_leaves_a_control_where_it_is():
    options = Options(**CHANGES)
    assert options.changed() == options.changed(**dict.fromkeys(CHANGES)) == options


@pytest.mark.parametrize(("name", "value"), [("filtering", False), ("refine_rounds", 0), ("box_threshold", 0.0)])
def test_zero_is_not_none(name: str, value: Any):
    assert getattr(Options(**CHANGES).changed(**{name: value}), name) == value


def test_no_such_control():
    with pytest.raises(TypeError, match="nonsense"):
        Options(**CHANGES).changed(nonsense=1)


@pytest.fixture(scope="module")
def whole(random_config: PipelineConfig) -> Pipeline:
    return Pipeline.from_config(random_config, load_all=True)


def test_the_defaults_adjust_nothing(whole: Pipeline):
    assert Options.of(whole.config).adjust(whole) == whole


def test_all_but_the_box_threshold_reach_the_pipeline(whole: Pipeline):
    options = Options(**CHANGES)
    adjusted = options.adjust(whole)
    assert Options.of(adjusted.config) == options.changed(box_threshold=whole.config.detector.box_threshold)
    # And nothing else does.
    assert Options.of(whole.config).adjust(adjusted) == whole


def test_other_settings_of_the_sections_stay(random_config: PipelineConfig):
    config = override(random_config, mask_nms_threshold=0.6, fallback={"max_instances": 3, "points_per_side": 5})
    adjusted = Options(**CHANGES).adjust(Pipeline.from_config(config, load_all=True)).config
    assert adjusted.prompting.mask_nms_threshold == 0.6
    assert (adjusted.fallback.max_instances, adjusted.fallback.points_per_side) == (3, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"mode": "both"}, "mode must be one of box, text", id="mode"),
        pytest.param({"clip_threshold": 1.5}, r"clip_threshold must lie in \[0, 1\], got 1.5", id="CLIP threshold"),
        pytest.param({"refine_rounds": -1}, "refine_rounds must lie in", id="rounds"),
        pytest.param({"fallback": "detector"}, "source must be one of none, automatic", id="fallback"),
        pytest.param({"fallback_threshold": -0.1}, "fallback_threshold must lie in", id="fallback threshold"),
    ],
)
def test_wrong(whole: Pipeline, change: dict[str, Any], message: str):
    # Built unchecked, as values from a browser are.
    options = Options.of(whole.config)
    for name, value in change.items():
        object.__setattr__(options, name, value)
    with pytest.raises(ConfigError, match=message):
        options.adjust(whole)


def test_a_part_that_was_not_loaded(random_config: PipelineConfig):
    plain = Pipeline.from_config(random_config)
    with pytest.raises(ConfigError, match="need a region scorer, got none"):
        Options.of(plain.config).changed(filtering=True).adjust(plain)

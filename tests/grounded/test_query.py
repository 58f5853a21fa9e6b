from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from grounded.config import PipelineConfig, load, override, preset_names
from grounded.errors import ConfigError
from grounded.query import QuerySettings, query_parameter

NAMES = [field.name for field in fields(QuerySettings)]
SETTINGS: dict[str, Any] = {
    "box_threshold": 0.45,
    "mode": "text",
    "text_prompt": "dense-clip",
    "filtering": True,
    "clip_threshold": 0.2,
    "zoom": 2.5,
    "refine_rounds": 3,
    "min_mask_region_area": 40,
    "fallback": "automatic",
    "fallback_threshold": 0.7,
}
# Setting -> the section and the field of the configuration.
PLACES = {
    "box_threshold": ("detector", "box_threshold"),
    "mode": ("prompting", "mode"),
    "text_prompt": ("prompting", "text_prompt"),
    "filtering": ("filtering", "enabled"),
    "clip_threshold": ("filtering", "clip_threshold"),
    "zoom": ("refinement", "zoom"),
    "refine_rounds": ("refinement", "refine_rounds"),
    "min_mask_region_area": ("refinement", "min_mask_region_area"),
    "fallback": ("fallback", "source"),
    "fallback_threshold": ("fallback", "fallback_threshold"),
}
each = pytest.mark.parametrize("name", NAMES)


def value_of(config: PipelineConfig, name: str) -> Any:
    section, field = PLACES[name]
    return getattr(getattr(config, section), field)


def test_every_setting_has_a_case():
    assert list(SETTINGS) == list(PLACES) == NAMES


@pytest.mark.parametrize("preset", preset_names())
def test_the_values_of_a_preset(preset: str):
    config = load(preset)
    settings = QuerySettings.from_config(config)
    assert all((value_of(config, name) or 0) == (value or 0) for name, value in asdict(settings).items())
    assert settings.apply(config) == config
    # And none of them is left to another configuration.
    other = override(PipelineConfig(), detector={"kind": config.detector.kind}, **SETTINGS_OF_ANOTHER)
    assert QuerySettings.from_config(settings.apply(other)) == settings


SETTINGS_OF_ANOTHER: dict[str, Any] = {
    "refine_rounds": 1,
    "zoom": 3.0,
    "min_mask_region_area": 7,
    "fallback": {"source": "automatic", "fallback_threshold": 0.1},
    "filtering": {"enabled": True, "clip_threshold": 0.9},
}


@each
def test_a_setting_changes_its_field_and_nothing_else(name: str):
    before = PipelineConfig()
    after = QuerySettings(**{name: SETTINGS[name]}).apply(before)
    assert value_of(before, name) != value_of(after, name) == SETTINGS[name]
    section, field = PLACES[name]
    back = replace(getattr(after, section), **{field: value_of(before, name)})
    assert replace(after, **{section: back}) == before


def test_none_keeps_the_configuration():
    config = QuerySettings(**SETTINGS).apply(load("tiny"))
    assert QuerySettings().apply(config) == config


@pytest.mark.parametrize(("name", "value"), [("filtering", False), ("refine_rounds", 0), ("box_threshold", 0.0)])
def test_zero_is_not_none(name: str, value: Any):
    assert value_of(QuerySettings(**{name: value}).apply(QuerySettings(**SETTINGS).apply(load("tiny"))), name) == value


def test_a_zoom_of_0_is_none():
    assert QuerySettings(zoom=0).apply(override(PipelineConfig(), zoom=2.0)).refinement.zoom is None


def test_other_fields_of_the_sections_stay():
    config = override(load("tiny"), mask_nms_threshold=0.6, fallback={"max_instances": 3, "points_per_side": 5})
    changed = QuerySettings(**SETTINGS).apply(config)
    assert changed.prompting.mask_nms_threshold == 0.6
    assert (changed.fallback.max_instances, changed.fallback.points_per_side) == (3, 5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param({"mode": "both"}, "^mode must be one of box, text", id="mode"),
        pytest.param({"clip_threshold": 1.5}, r"^clip_threshold must lie in \[0, 1\], got 1.5", id="CLIP threshold"),
        pytest.param({"refine_rounds": -1}, "^refine_rounds must lie in", id="rounds"),
        pytest.param({"fallback": "detector"}, "^fallback must be one of none, automatic", id="fallback"),
        pytest.param({"fallback_threshold": -0.1}, "^fallback_threshold must lie in", id="fallback threshold"),
        pytest.param({"box_threshold": "much"}, "^box_threshold must be float .*, got str 'much'", id="text"),
        pytest.param({"filtering": "yes"}, "^filtering must be bool .*, got str 'yes'", id="no bool"),
    ],
)
def test_wrong_values(setting: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        QuerySettings(**setting)


def test_settings_that_do_not_fit_one_another():
    with pytest.raises(ConfigError, match="needs a text_prompt"):
        QuerySettings(mode="text", text_prompt="none").apply(PipelineConfig())


@each
def test_ranges_are_those_of_the_configuration(name: str):
    parameter = query_parameter(name)
    ends = [value for value in (parameter.low, parameter.high) if value is not None]
    for value in [*parameter.choices, *map(parameter.type, ends)]:
        kind = "one-stage" if value == "objects" else "grounding-dino"
        QuerySettings(**{name: value}).apply(override(PipelineConfig(), detector={"kind": kind}))
    section, field = PLACES[name]
    beyond = [parameter.low - 1] if parameter.low is not None else ["other"]
    beyond += [parameter.high + 1] if parameter.high is not None else []
    for value in beyond:
        with pytest.raises(ConfigError):
            override(PipelineConfig(), **{section: {field: value}})


@each
def test_descriptions_are_one_sentence(name: str):
    parameter = query_parameter(name)
    assert parameter.description[0].isupper() and parameter.description.endswith(".")
    assert parameter.description.count(". ") == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("box_threshold", (float, (), 0, 1)),
        ("refine_rounds", (int, (), 0, 8)),
        ("min_mask_region_area", (int, (), 0, None)),
        ("filtering", (bool, (), None, None)),
        ("mode", (str, ("box", "text", "box+text"), None, None)),
    ],
)
def test_parameters(name: str, expected: tuple):
    parameter = query_parameter(name)
    assert (parameter.type, parameter.choices, parameter.low, parameter.high) == expected

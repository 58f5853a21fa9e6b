from dataclasses import replace

import gradio as gr
import pytest

from grounded.config import override
from grounded.errors import ConfigError
from grounded.query import QuerySettings
from grounded.ui.actions import Actions
from grounded.ui.components import CONTROLS, change_events, read_settings, settings_controls


def built(actions: Actions) -> dict[str, gr.components.Component]:
    with gr.Blocks():
        return dict(zip(CONTROLS, settings_controls(actions), strict=True))


def test_controls_have_the_values_of_the_configuration(actions: Actions):
    values = [control.value for control in built(actions).values()]
    assert values == [getattr(actions.defaults, name) for name in CONTROLS]
    assert read_settings(values).apply(actions.config) == actions.config


def test_all_have_labels_and_say_what_they_do(actions: Actions):
    for name, control in built(actions).items():
        assert control.label and control.info and control.elem_id == name.replace("_", "-")


@pytest.mark.parametrize(
    ("text_prompt", "modes", "fallbacks"),
    [
        ("adapter", ["box", "text", "box+text"], ["none", "automatic", "text"]),
        ("none", ["box"], ["none", "automatic"]),
    ],
    ids=["with a text prompt", "without"],
)
def test_only_what_the_models_can_do_is_offered(
    actions: Actions, text_prompt: str, modes: list[str], fallbacks: list[str]
):
    prompting = {"mode": "box", "text_prompt": text_prompt}
    controls = built(replace(actions, config=override(actions.config, prompting=prompting)))
    assert [value for _, value in controls["mode"].choices] == modes
    assert [value for _, value in controls["fallback"].choices] == fallbacks


def test_a_slider_counts_when_it_is_let_go(actions: Actions):
    controls = built(actions)
    events = dict(zip(controls, change_events(list(controls.values())), strict=True))
    assert events["box_threshold"].event_name == "release" and events["mode"].event_name == "input"


def test_numbers_of_a_browser_have_no_decimal_point():
    assert read_settings([1, "box", False, 0, 2.0, "none", 1]) == QuerySettings(
        box_threshold=1.0,
        mode="box",
        filtering=False,
        clip_threshold=0.0,
        refine_rounds=2,
        fallback="none",
        fallback_threshold=1.0,
    )


def test_a_value_out_of_range():
    with pytest.raises(ConfigError, match=r"^clip_threshold must lie in \[0, 1\], got 1.5"):
        read_settings([0.3, "box", False, 1.5, 0, "none", 0.5])

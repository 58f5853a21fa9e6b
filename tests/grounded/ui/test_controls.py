from dataclasses import astuple, fields, replace

import gradio as gr
import pytest

from grounded.ui.controls import controls, moved
from grounded.ui.events import options_at
from grounded.ui.options import Options
from grounded.ui.studio import Studio


def built(studio: Studio) -> dict[str, gr.components.Component]:
    with gr.Blocks():
        return dict(zip((field.name for field in fields(Options)), controls(studio), strict=True))


def test_they_stand_where_the_configuration_says(studio: Studio):
    values = [control.value for control in built(studio).values()]
    assert options_at(values) == studio.defaults
    assert tuple(values) == astuple(studio.defaults)


def test_all_have_labels_and_say_what_they_do(studio: Studio):
    for name, control in built(studio).items():
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
    studio: Studio, text_prompt: str, modes: list[str], fallbacks: list[str]
):
    prompting = {"mode": "box", "text_prompt": text_prompt}
    pipeline = replace(studio.pipeline, config=studio.pipeline.with_config(prompting=prompting).config)
    at = built(replace(studio, pipeline=pipeline, defaults=studio.defaults.changed(mode="box")))
    assert [value for _, value in at["mode"].choices] == modes
    assert [value for _, value in at["fallback"].choices] == fallbacks


def test_a_slider_counts_when_it_is_let_go(studio: Studio):
    at = built(studio)
    events = dict(zip(at, moved(list(at.values())), strict=True))
    assert events["box_threshold"].event_name == "release" and events["mode"].event_name == "input"

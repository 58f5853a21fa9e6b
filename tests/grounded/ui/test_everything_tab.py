"""How the tab is built and wired; what its events do is tested beside `grounded.ui.everything`."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from grounded.settings import FallbackConfig
from grounded.ui.automatic import MAX_POINTS_PER_SIDE
from grounded.ui.everything_tab import everything_tab
from grounded.ui.serving import MODELS
from grounded.ui.studio import Studio


def built(studio: Studio) -> gr.Blocks:
    with gr.Blocks() as demo:
        everything_tab(studio)
    return demo


def by_id(demo: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}


@pytest.fixture(scope="module")
def demo(studio: Studio) -> gr.Blocks:
    return built(studio)


def triggered_by(demo: gr.Blocks, name: str) -> list[Any]:
    number = by_id(demo)[name]._id
    return [event for event in demo.fns.values() if any(target[0] == number for target in event.targets)]


def test_the_search_waits_in_line_with_all_that_use_the_models(demo: gr.Blocks):
    (search,) = triggered_by(demo, "everything-run")
    assert (search.concurrency_id, search.concurrency_limit) == (MODELS, 1)
    assert search.types_generator


@pytest.mark.parametrize("name", ["everything-cancel", "everything-picture"])
def test_it_is_ended_by_cancel_and_by_another_picture(demo: gr.Blocks, name: str):
    (search,) = triggered_by(demo, "everything-run")
    assert [search._id] in [event.cancels for event in triggered_by(demo, name)]


def test_its_events_are_no_endpoints(demo: gr.Blocks):
    assert {event.api_visibility for event in demo.fns.values()} == {"private"}


def test_all_controls_have_labels(demo: gr.Blocks):
    forms = (gr.Slider, gr.Textbox, gr.Image, gr.CheckboxGroup, gr.Dataframe, gr.AnnotatedImage)
    labels = [block.label for block in demo.blocks.values() if isinstance(block, forms)]
    assert len(labels) == 11 and all(labels)


@pytest.mark.parametrize(
    "fallback, shown",
    [
        pytest.param(FallbackConfig(), (16, 0.8, 0.9, 100), id="defaults"),
        pytest.param(FallbackConfig(points_per_side=100), (MAX_POINTS_PER_SIDE, 0.8, 0.9, 100), id="too many points"),
        pytest.param(
            FallbackConfig(pred_iou_thresh=0.3, stability_score_thresh=0.3), (16, 0.6, 0.6, 100), id="too lenient"
        ),
    ],
)
def test_the_settings_are_those_of_the_configuration_where_its_masks_are_worth_showing(
    studio: Studio, fallback: FallbackConfig, shown: tuple[float, ...]
):
    config = replace(studio.pipeline.config, fallback=fallback)
    blocks = by_id(built(replace(studio, pipeline=replace(studio.pipeline, config=config))))
    assert tuple(blocks[f"everything-{name}"].value for name in ("points", "iou", "stability", "area")) == shown

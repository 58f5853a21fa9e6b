"""How the tab is built and wired; what its events do is tested beside `grounded.ui.events`."""

from typing import Any

import gradio as gr
import pytest

from grounded.ui.segment_tab import segment_tab
from grounded.ui.serving import MODELS
from grounded.ui.studio import Studio
from tests.data import ROOT

# What changes the work on a picture.
CHANGES = {"open", "run", "again", "show", "press", "select", "undo", "relabel", "merge", "delete", "choose", "brush"}


def built(studio: Studio) -> gr.Blocks:
    with gr.Blocks() as demo:
        segment_tab(studio)
    return demo


@pytest.fixture(scope="module")
def demo(studio: Studio) -> gr.Blocks:
    return built(studio)


def by_id(demo: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}


def test_all_changes_wait_in_one_line(demo: gr.Blocks):
    wired = [event for event in demo.fns.values() if event.name in CHANGES]
    assert {event.name for event in wired} == CHANGES
    assert {event.concurrency_id for event in wired} == {MODELS}


def test_no_answer_stays_half_shown_and_no_change_unheard(demo: gr.Blocks):
    """What happens while an earlier event is on its way must count as well: "once" would drop it."""
    modes = {event.name: event.trigger_mode for event in demo.fns.values()}
    assert modes["rest"] == modes["again"] == modes["run"] == modes["show"] == modes["select"] == "always_last"
    assert modes["press"] == modes["undo"] == "multiple"


def test_its_events_are_no_endpoints(demo: gr.Blocks):
    assert {event.api_visibility for event in demo.fns.values()} == {"private"}


def test_every_control_has_a_label(demo: gr.Blocks):
    shown = [block for block in demo.blocks.values() if isinstance(block, gr.components.FormComponent)]
    assert len(shown) > 10
    for block in shown:
        assert block.label and block.show_label is not False, block


def test_names_of_elements_are_unique(demo: gr.Blocks):
    names = [block.elem_id for block in demo.blocks.values() if getattr(block, "elem_id", None)]
    assert sorted(names) == sorted(set(names))


def test_pictures_come_by_file_camera_and_clipboard(demo: gr.Blocks):
    assert by_id(demo)["picture"].sources == ["upload", "webcam", "clipboard"]


def test_examples_are_those_of_the_repository(demo: gr.Blocks):
    names = {name.removeprefix("example-") for name in by_id(demo) if name.startswith("example-")}
    assert names and all((ROOT / "examples" / f"{name}.png").is_file() for name in names)

"""The events of the main tab, and how it is built and wired."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageColor

from grounded.errors import ImageError, PromptError
from grounded.ui.actions import Actions
from grounded.ui.components import CONTROLS
from grounded.ui.progress import TimeLimitError
from grounded.ui.segment_tab import (
    PrimaryOutputs,
    SecondaryOutputs,
    SegmentEvents,
    close_brush,
    open_brush,
    primary_outputs,
    secondary_outputs,
    segment_tab,
)
from grounded.ui.serving import MODELS
from grounded.ui.state import AppState, Limits
from grounded.ui.views import GREEN
from tests.data import PICNIC, ROOT
from tests.grounded.counting import counted
from tests.grounded.ui.uploads import upload

DOG, SKY = (480, 260), (60, 30)


@pytest.fixture(scope="module")
def events(actions: Actions) -> SegmentEvents:
    return SegmentEvents(actions)


@pytest.fixture(scope="module")
def found(events: SegmentEvents) -> AppState:
    """The example after a query for two of the things in it."""
    return run(events, opened(events))


def opened(events: SegmentEvents, path: Path = PICNIC) -> AppState:
    return events.open(upload(path)).state


def controls(events: SegmentEvents, **changes: object) -> list[Any]:
    """The values of the controls, some of them changed."""
    settings = replace(events.actions.defaults, **changes)
    return [getattr(settings, name) for name in CONTROLS]


def run(events: SegmentEvents, state: AppState, text: str = "a dog. pizza", **changes: object) -> AppState:
    return events.run(state, text, *controls(events, **changes), progress=quiet).state


def quiet(share: float, desc: str) -> None:
    """Progress that nobody sees."""


def at(x: int, y: int) -> gr.SelectData:
    return gr.SelectData(None, {"index": [x, y], "value": None})


def number(index: int) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": None})


def labels(state: AppState) -> list[str]:
    return state.instances.labels.tolist()


def areas(state: AppState) -> list[int]:
    return state.instances.masks.sum(axis=(1, 2)).tolist()


class TestOpen:
    def test_an_image_begins_anew(self, events: SegmentEvents, found: AppState):
        state, canvas, status = events.open(upload(PICNIC, "my dog.png"))
        assert state.edits is None and state.last_query is None and state.name == "my dog"
        assert canvas is not None and canvas.size == (640, 480)
        assert "Image of 640 × 480 pixels" in status

    def test_no_image(self, events: SegmentEvents):
        state, canvas, status = events.open(None)
        assert state == AppState() or state.image is None
        assert canvas is None and "Add an image" in status

    @pytest.mark.parametrize("upload", [{}, {"path": None}, {"url": "data:image/png;base64,"}], ids=str)
    def test_an_upload_must_be_a_file(self, events: SegmentEvents, upload: dict):
        with pytest.raises(ImageError, match="must be an uploaded file"):
            events.open(upload)

    @pytest.mark.parametrize("place", ["{image}", "{uploads}/../{name}", "http://127.0.0.1/a.png", "/etc/nothere.png"])
    def test_other_files_of_the_server_are_not_opened(self, events: SegmentEvents, upload_folder: Path, place: str):
        image = upload_folder.parent / "secret.png"
        image.write_bytes(PICNIC.read_bytes())
        path = place.format(image=image, uploads=upload_folder, name=image.name)
        with pytest.raises(ImageError, match="must be an uploaded file, got another place"):
            events.open({"path": path, "orig_name": "a.png"})

    def test_a_broken_file(self, events: SegmentEvents, tmp_path: Path):
        (tmp_path / "broken.png").write_text("not an image")
        with pytest.raises(ImageError, match=r"broken\.png"):
            opened(events, tmp_path / "broken.png")

    def test_a_large_image_is_scaled_down_with_a_note(self, actions: Actions):
        small = SegmentEvents(replace(actions, limits=Limits(max_side=320)))
        outputs = small.open(upload(PICNIC))
        assert outputs.canvas is not None and outputs.canvas.size == (320, 240)
        assert "scaled down from 640 x 480 to 320 x 240 pixels" in outputs.status


class TestRun:
    def test_finds_and_tells(self, found: AppState):
        assert sorted(labels(found)) == ["a dog", "pizza"]
        status = primary_outputs(found).status
        assert "2 instances" in status and "Ran: detect" in status

    def test_stages_are_reported(self, events: SegmentEvents):
        reports: list[tuple[float, str]] = []
        events.run(
            opened(events), "a dog", *controls(events), progress=lambda share, desc: reports.append((share, desc))
        )
        assert "looking for boxes" in [text for _, text in reports] and all(0 <= share < 1 for share, _ in reports)

    def test_numbers_of_a_browser_have_no_decimal_point(self, events: SegmentEvents):
        values = [1, "box", False, 0, 0.0, "none", 1]
        outputs = events.run(opened(events), "a dog", *values, progress=quiet)
        assert labels(outputs.state) == [] and "Nothing was found" in outputs.status

    def test_the_text_of_a_user_is_no_html(self, events: SegmentEvents):
        status = primary_outputs(run(events, opened(events), "a <script>dog</script>")).status
        assert "<script>" not in status and "&lt;script&gt;" in status

    @pytest.mark.parametrize("text", ["", " . ", "\n"], ids=repr)
    def test_without_a_phrase(self, events: SegmentEvents, text: str):
        with pytest.raises(PromptError, match="holds no phrase"):
            run(events, opened(events), text)

    def test_without_an_image(self, events: SegmentEvents):
        with pytest.raises(PromptError, match="there is no image yet"):
            run(events, AppState())

    def test_the_time_is_limited(self, actions: Actions):
        hasty = SegmentEvents(replace(actions, limits=Limits(seconds=0.0)))
        with pytest.raises(TimeLimitError):
            run(hasty, opened(hasty))

    def test_a_new_text_does_not_encode_the_image_again(self, events: SegmentEvents, found: AppState):
        with counted(events.actions.pipeline) as calls:
            state = run(events, found, "a butterfly. a balloon")
        assert "encode" not in state.seconds and calls["detect"] == 1 and len(labels(state)) == 2
        assert "Kept from before: encode" in primary_outputs(state).status


class TestRerun:
    """A control was changed."""

    def rerun(self, events: SegmentEvents, state: AppState, text: str = "a dog. pizza", **changes: object) -> tuple:
        return events.rerun(state, text, *controls(events, **changes), progress=quiet)

    def test_nothing_runs_before_a_query(self, events: SegmentEvents):
        assert not isinstance(self.rerun(events, opened(events), box_threshold=0.9), PrimaryOutputs)

    def test_the_same_does_not_run_twice(self, events: SegmentEvents, found: AppState):
        outputs = self.rerun(events, found)
        assert not isinstance(outputs, PrimaryOutputs) and len(outputs) == len(PrimaryOutputs._fields)

    def test_a_threshold_runs_no_model(self, events: SegmentEvents, found: AppState):
        with counted(events.actions.pipeline) as calls:
            outputs = self.rerun(events, found, box_threshold=0.9)
        assert labels(outputs.state) == [] and not calls
        assert labels(events.undo(outputs.state).state) == labels(found)

    def test_an_emptied_text_stands_for_the_last_one(self, events: SegmentEvents, found: AppState):
        outputs = self.rerun(events, found, text=" ", filtering=False)
        assert outputs.state.instances.phrases == ("a dog", "pizza")


class TestCorrect:
    @pytest.fixture(scope="class")
    @staticmethod
    def dog(events: SegmentEvents, found: AppState) -> AppState:
        return events.press(found, "select", "", at(*DOG)).state

    def test_select_by_a_press_or_in_the_list(self, events: SegmentEvents, found: AppState, dog: AppState):
        assert dog.edits is not None
        assert labels(found)[dog.edits.selected] == "a dog"
        same = events.select(found, dog.edits.selected).state
        assert secondary_outputs(same) is not None and same.edits.selected == dog.edits.selected
        assert events.press(dog, "select", "", at(*SKY)).state.edits.selected is None

    def test_points_change_the_mask_and_the_canvas_and_can_be_undone(self, events: SegmentEvents, dog: AppState):
        with counted(events.actions.pipeline) as calls:
            outputs = events.press(dog, "remove point", "", at(411, 235))
        assert calls["encode"] == 0
        row = dog.edits.selected
        assert areas(outputs.state)[row] < areas(dog)[row]
        assert (np.asarray(outputs.canvas) != np.asarray(primary_outputs(dog).canvas)).any()
        assert areas(events.undo(outputs.state).state) == areas(dog)

    def test_a_press_is_in_pixels_of_the_screen(self, actions: Actions, tmp_path: Path):
        with Image.open(PICNIC) as image:
            image.resize((2048, 1536)).save(tmp_path / "large.png")
        large = SegmentEvents(actions)
        state = run(large, opened(large, tmp_path / "large.png"), "a dog")
        state = large.press(state, "select", "", at(480 * 1024 // 640, 260 * 1024 // 640)).state
        state = large.press(state, "add point", "", at(768, 416)).state
        (click,) = state.edits.clicks
        assert (click.x, click.y) == (1537.0, 833.0)

    def test_new_by_click_has_alternatives_to_choose_from(self, events: SegmentEvents, found: AppState):
        state = events.press(found, "new by click", "a balloon", at(100, 250)).state
        assert labels(state)[-1] == "a balloon"
        shown = secondary_outputs(state).alternatives
        assert shown["visible"] and len(shown["value"]) == len(state.edits.alternatives) > 1
        other = events.choose(state, number(len(shown["value"]) - 1)).state
        assert areas(other)[-1] != areas(state)[-1] and areas(other)[:-1] == areas(state)[:-1]

    def test_new_by_box_takes_two_presses(self, events: SegmentEvents, found: AppState):
        first = events.press(found, "new by box", "a butterfly", at(268, 230))
        assert "opposite corner" in first.status and labels(first.state) == labels(found)
        assert labels(events.press(first.state, "new by box", "a butterfly", at(145, 125)).state)[-1] == "a butterfly"

    def test_rename_merge_and_delete(self, events: SegmentEvents, dog: AppState):
        renamed = events.relabel(dog, "a puppy").state
        assert "a puppy" in labels(renamed)
        other = 1 - dog.edits.selected
        assert labels(events.merge(renamed, other).state) == ["a puppy"]
        assert labels(events.delete(renamed).state) == ["pizza"]

    def test_merge_with_nothing(self, events: SegmentEvents, dog: AppState):
        with pytest.raises(PromptError, match="choose in the list"):
            events.merge(dog, None)

    def test_brush(self, events: SegmentEvents, dog: AppState):
        layer = np.zeros((480, 640, 4), np.uint8)
        layer[60:120, 440:520] = (*ImageColor.getrgb(GREEN), 255)
        state = events.brush(dog, {"background": None, "layers": [layer], "composite": None}).state
        row = dog.edits.selected
        assert state.instances.masks[row, 60:120, 440:520].mean() > 0.9

    @pytest.mark.parametrize("drawing", [None, {}, {"layers": []}], ids=str)
    def test_a_brush_that_was_not_used(self, events: SegmentEvents, dog: AppState, drawing: dict | None):
        with pytest.raises(PromptError):
            events.brush(dog, drawing)


class TestSecondaryOutputs:
    def test_without_an_image_nothing_is_offered(self):
        outputs = secondary_outputs(AppState())
        assert outputs.annotated["value"] is None
        assert not any(getattr(outputs, name)["visible"] for name in ("phrases", "table", "alternatives", "downloads"))
        assert not any(getattr(outputs, name)["interactive"] for name in ("undo", "relabel", "delete", "merge"))

    def test_what_was_found_can_be_viewed_and_downloaded(self, found: AppState):
        outputs = secondary_outputs(found)
        assert len(outputs.annotated["value"][1]) == len(outputs.table["value"]) == 2
        assert len(outputs.instance["choices"]) == 2
        assert {label for _, label in outputs.annotated["value"][1]} == set(outputs.annotated["color_map"])
        assert outputs.table["visible"] and outputs.downloads["visible"]
        assert not outputs.delete["interactive"] and outputs.instance["value"] is None

    def test_what_is_selected_can_be_changed(self, events: SegmentEvents, found: AppState):
        outputs = secondary_outputs(events.select(found, 0).state)
        assert outputs.delete["interactive"] and outputs.relabel["interactive"] and outputs.merge["interactive"]
        assert outputs.instance["value"] == 0 and [row for _, row in outputs.other["choices"]] == [1]

    def test_hidden_phrases_stay_hidden(self, events: SegmentEvents, found: AppState):
        state = events.show(found, ["pizza"]).state
        outputs = secondary_outputs(state)
        assert outputs.phrases["value"] == ["pizza"] and len(outputs.phrases["choices"]) == 2
        assert [label.split(" ", 1)[1] for _, label in outputs.annotated["value"][1]] == ["pizza"]
        again = run(events, state, "a dog. pizza. a butterfly")
        assert secondary_outputs(again).phrases["value"] == ["pizza", "a butterfly"]

    def test_the_editor_is_filled_only_while_it_is_open(self, found: AppState):
        assert "background" not in secondary_outputs(found).editor
        state, drawing = open_brush(found)
        assert drawing["background"].size == (640, 480) and drawing["layers"] == []
        assert secondary_outputs(state).editor["background"].size == (640, 480)
        assert "background" not in secondary_outputs(close_brush(state)).editor
        assert open_brush(AppState())[1] is None

    def test_is_in_the_order_of_its_names(self, found: AppState):
        assert len(secondary_outputs(found)) == len(SecondaryOutputs._fields)


def test_a_state_is_a_value(events: SegmentEvents, found: AppState):
    before = areas(found), found.history
    events.delete(events.press(found, "select", "", at(*DOG)).state)
    assert (areas(found), found.history) == before


def test_the_upload_may_vanish_afterwards(events: SegmentEvents, tmp_path: Path):
    shutil.copy(PICNIC, tmp_path / "gone.png")
    state = opened(events, tmp_path / "gone.png")
    (tmp_path / "gone.png").unlink()
    assert sorted(labels(run(events, state))) == ["a dog", "pizza"]


# Events that change the state.
CHANGES = {"open", "run", "rerun", "show", "press", "select", "undo", "relabel", "merge", "delete", "choose", "brush"}


def built(actions: Actions) -> gr.Blocks:
    with gr.Blocks() as demo:
        segment_tab(actions)
    return demo


@pytest.fixture(scope="module")
def demo(actions: Actions) -> gr.Blocks:
    return built(actions)


def by_id(demo: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}


def test_all_changes_wait_in_one_line(demo: gr.Blocks):
    wired = [event for event in demo.fns.values() if event.name in CHANGES]
    assert {event.name for event in wired} == CHANGES
    assert {event.concurrency_id for event in wired} == {MODELS}


def test_no_result_stays_half_shown_and_no_change_is_lost(demo: gr.Blocks):
    """What happens while an earlier event is on its way must count as well: "once" would drop it."""
    modes = {event.name: event.trigger_mode for event in demo.fns.values()}
    latest = ("secondary_outputs", "rerun", "run", "show", "select")
    assert {modes[name] for name in latest} == {"always_last"}
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


def test_images_come_by_file_camera_and_clipboard(demo: gr.Blocks):
    assert by_id(demo)["image"].sources == ["upload", "webcam", "clipboard"]


def test_examples_are_those_of_the_repository(demo: gr.Blocks):
    names = {name.removeprefix("example-") for name in by_id(demo) if name.startswith("example-")}
    assert names and all((ROOT / "examples" / f"{name}.png").is_file() for name in names)

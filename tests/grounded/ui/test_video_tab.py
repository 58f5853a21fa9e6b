"""The events of the Video tab, and how it is built and wired."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from grounded.errors import PromptError, VideoError
from grounded.ui.actions import Actions
from grounded.ui.components import CONTROLS
from grounded.ui.serving import MODELS
from grounded.ui.state import Limits
from grounded.ui.tracking import ClipActions, ClipState, Step
from grounded.ui.video_tab import VideoEvents, VideoOutputs, outputs, show_steps, video_tab
from tests.grounded.ui.conftest import PLACES


@pytest.fixture(scope="module")
def events(actions: Actions) -> VideoEvents:
    return VideoEvents(ClipActions(actions))


@pytest.fixture(scope="module")
def shown(walked: list[Step]) -> list[VideoOutputs]:
    """What the steps of following a dog show."""
    return list(show_steps(iter_steps(walked), 0, len(PLACES)))


def iter_steps(steps: list[Step]) -> Any:
    yield from steps


def text(html: Any) -> str:
    return re.sub("<[^>]+>", " ", html).strip()


def is_skip(update: Any) -> bool:
    return isinstance(update, dict) and update == gr.skip()


def at(x: float, y: float) -> gr.SelectData:
    return gr.SelectData(None, {"index": [int(x), int(y)], "value": None})


def buttons(shown: VideoOutputs) -> dict[str, bool]:
    """Which buttons can be pressed, of those that were changed."""
    updates = {name: getattr(shown, name) for name in ("run", "pause", "go_on", "stop")}
    return {name: update["interactive"] for name, update in updates.items() if not is_skip(update)}


class TestOpen:
    def test_an_upload(self, events: VideoEvents, walk: Path):
        opened = events.open({"path": str(walk), "orig_name": "../my walk.mp4"})
        assert opened.state.name == "my walk" and opened.canvas.size == (320, 240)
        assert f"Clip of {len(PLACES)} frames, 320 × 240 pixels" in text(opened.status)
        assert buttons(opened) == {"run": True, "pause": False, "go_on": False, "stop": False}
        assert not opened.downloads["visible"] and not opened.correct["visible"]

    def test_no_clip(self, events: VideoEvents):
        opened = events.open(None)
        assert opened.canvas is None and "Upload or record" in text(opened.status)

    @pytest.mark.parametrize("upload", [{}, {"path": None}, {"url": "http://127.0.0.1/a.mp4"}], ids=str)
    def test_an_upload_must_be_a_file(self, events: VideoEvents, upload: dict[str, Any]):
        with pytest.raises(VideoError, match="must be an uploaded file"):
            events.open(upload)

    def test_addresses_are_not_fetched(self, events: VideoEvents):
        with pytest.raises(VideoError, match="addresses are not fetched here"):
            events.fetch("https://example.org/clip.mp4")

    def test_where_they_are_no_private_host_is(self, actions: Actions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
        allowed = VideoEvents(ClipActions(replace(actions, limits=Limits(allow_addresses=True))))
        with pytest.raises(VideoError, match="not in the public network"):
            allowed.fetch(" http://127.0.0.1:1/clip.mp4 ")
        for address in ("/etc/passwd", "file:///etc/passwd"):
            with pytest.raises(VideoError):
                allowed.fetch(address)


class TestTrack:
    def test_frames_are_shown_as_they_are_done(self, shown: list[VideoOutputs]):
        assert [text(step.progress).partition(", ")[0] for step in shown] == [
            "Looking for the first objects",
            *(f"{number + 1} of {len(PLACES)} frames" for number in range(len(PLACES))),
            "",
        ]
        assert "1 object, " in text(shown[1].progress)
        assert shown[1].canvas.size == (320, 240)

    def test_buttons(self, shown: list[VideoOutputs]):
        assert buttons(shown[0]) == {"run": False, "pause": True, "go_on": False, "stop": True}
        assert buttons(shown[1]) == {}
        assert buttons(shown[-1]) == {"run": True, "pause": False, "go_on": False, "stop": False}

    def test_at_the_end_all_is_there(self, shown: list[VideoOutputs]):
        end = shown[-1]
        assert "1 track in 4 frames: a dog (1). Never seen: “a robot”." in text(end.status)
        assert (end.number["maximum"], end.number["value"], end.number["interactive"]) == (3, 3, True)
        assert end.downloads["visible"] and end.correct["visible"] and len(end.table["value"]) == 1
        assert end.track["choices"] == [("a dog 1", 1)] and end.track["value"] is None

    def test_it_is_what_the_events_yield(self, events: VideoEvents, crossed: ClipState):
        done = list(events.go_on(crossed))
        assert len(done) == 1 and done[0].state is crossed
        settings = [getattr(events.actions.actions.defaults, name) for name in CONTROLS]
        with pytest.raises(PromptError, match="there is no clip yet"):
            next(events.run(ClipState(), "a dog", *settings))
        with pytest.raises(PromptError, match="nothing is corrected yet"):
            next(events.follow(crossed))

    def test_after_a_failure_no_bar_stays(self, crossed: ClipState):
        def fail() -> Any:
            yield Step(replace(crossed, activity="tracking"))
            raise VideoError("damaged")

        seen = []
        with pytest.raises(VideoError, match="damaged"):
            seen.extend(show_steps_into(seen, fail()))
        assert seen[-1].progress == "" and seen[-1].state.activity == "none" and buttons(seen[-1])["run"]

    def test_where_the_length_is_not_known_there_is_no_share(self, walked: list[Step]):
        told = [text(step.progress) for step in show_steps(iter_steps(walked), 0, None)]
        assert told[1:3] == ["Frame 0 is done, 1 object", "Frame 1 is done, 1 object"]

    def test_pause_and_stop_reach_what_is_going_on(self, events: VideoEvents, crossed: ClipState):
        running = replace(crossed, activity="tracking", is_complete=False)
        paused = events.pause(running)
        assert running.interrupt.wish == "pause" and is_skip(paused.state) and buttons(paused) == {"pause": False}
        assert is_skip(events.stop(running).state) and running.interrupt.wish == "stop"
        stopped = events.stop(replace(crossed, is_complete=False))
        assert stopped.state.is_complete and buttons(stopped) == {"go_on": False, "stop": False}


def show_steps_into(seen: list[VideoOutputs], steps: Any) -> Any:
    for one in show_steps(steps, 0, None):
        seen.append(one)
    return []


class TestLookAndCorrect:
    def test_another_frame(self, events: VideoEvents, crossed: ClipState):
        looked = events.look(crossed, 2.0, None)
        assert is_skip(looked.state) and looked.canvas.size == (64, 48) and len(looked.table["value"]) == 2
        assert (np.asarray(looked.canvas) != np.asarray(events.look(crossed, 2, 1).canvas)).any()

    def test_a_press_picks_a_track_in_the_list(self, events: VideoEvents, crossed: ClipState):
        picked = events.press(crossed, 3, None, "select", at(60, 18))
        assert picked.track["value"] == 2 and picked.number["value"] == 3 and picked.state is crossed
        half = events.press(crossed, 3, 2, "new by box", at(2, 10))
        assert half.track["value"] == 2 and "opposite corner" in text(half.status)
        assert "Correcting a cat 2, frame 3." in text(events.undo(half.state, 3, 2).status)

    def test_not_in_sight(self, events: VideoEvents, crossed: ClipState):
        hidden = events.hide(crossed, 3, 2)
        assert "Follow from here on" in text(hidden.status) and hidden.track["value"] == 2

    def test_text_of_a_user_is_no_html(self, crossed: ClipState):
        status = outputs(replace(crossed, query=("a <script>dog</script>", crossed.query[1]))).status
        assert "<script>" not in status and "&lt;script&gt;" in status


def built(actions: Actions) -> gr.Blocks:
    with gr.Blocks() as demo:
        video_tab(actions)
    return demo


@pytest.fixture(scope="module")
def demo(actions: Actions) -> gr.Blocks:
    return built(actions)


def by_id(demo: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}


def test_without_a_video_model_the_tab_is_one_sentence(actions: Actions):
    demo = built(replace(actions, video=None, video_missing="Reading clips needs PyAV."))
    assert by_id(demo)["video-missing"].value == "Reading clips needs PyAV." and not demo.fns


def test_addresses_can_be_given_only_where_they_are_allowed(actions: Actions, demo: gr.Blocks):
    assert not by_id(demo)["video-address"].visible
    allowed = built(replace(actions, limits=Limits(allow_addresses=True)))
    assert by_id(allowed)["video-address"].visible


def test_changes_wait_in_one_line_and_looks_do_not(demo: gr.Blocks):
    lines = {event.name: event.concurrency_id for event in demo.fns.values() if event.name}
    changes = ("open", "fetch", "run", "go_on", "follow", "press", "hide", "undo")
    assert {lines[name] for name in changes} == {MODELS}
    assert lines["look"] != MODELS and lines["pause"] != MODELS and lines["stop"] != MODELS
    assert not any(event.queue for event in demo.fns.values() if event.name in ("pause", "stop"))


def test_its_events_are_no_endpoints(demo: gr.Blocks):
    assert {event.api_visibility for event in demo.fns.values()} == {"private"}


def test_every_control_has_a_label(demo: gr.Blocks):
    forms = (gr.components.FormComponent, gr.Video, gr.Image, gr.Dataframe)
    controls = [block for block in demo.blocks.values() if isinstance(block, forms)]
    assert len(controls) > 12 and all(block.label for block in controls)

"""The tab that follows what a text names through a clip, shows it frame by frame, and corrects single tracks."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from grounded.data.phrases import listed, parse
from grounded.errors import VideoError
from grounded.ui import video_views as views
from grounded.ui.actions import Actions, Tool
from grounded.ui.addresses import fetch_clip
from grounded.ui.clips import closing_iterator
from grounded.ui.components import (
    ONE_AT_A_TIME,
    QUIET,
    STATE_SECONDS,
    clear_failed_upload,
    read_settings,
    scroll_to_result,
    settings_controls,
)
from grounded.ui.downloads import printable_name
from grounded.ui.errors import show_errors
from grounded.ui.progress import ProgressBar
from grounded.ui.serving import gpu
from grounded.ui.state import Limits
from grounded.ui.tracking import ClipActions, ClipState, Step
from grounded.ui.video_downloads import clip_download_panel
from grounded.ui.views import status_html
from grounded.video.tracks import TrackedFrame

_SECONDS_PER_IMAGE = 0.1  # at most so often a frame is shown while tracking: a browser sees no more
_TOOL_TEXTS: dict[str, Tool] = {
    "Select": "select",
    "+ Add point": "add point",
    "− Remove point": "remove point",
    "Box": "new by box",
}
_CORRECT_HELP = (
    "To correct a track, go to a frame in which it is wrong, select the track, and press where its mask lacks "
    "something (+) or has too much (−), or on two opposite corners of a box around it. Then follow it again from here "
    "on: the other tracks stay as they are."
)


class VideoOutputs(NamedTuple):
    """The components that the events of the tab change, or their values; `gr.skip()` leaves one as it is."""

    state: Any  # ClipState
    progress: Any  # HTML
    status: Any  # HTML
    canvas: Any  # the frame that is shown
    number: Any  # the slider with its number
    table: Any
    track: Any  # the list to pick a track from
    correct: Any  # the group of components that correct
    downloads: Any
    run: Any  # the buttons
    pause: Any
    go_on: Any
    stop: Any


def outputs(state: ClipState, number: int = 0, track_id: int | None = None) -> VideoOutputs:
    """All that is shown of a state: the frame of that number, with this track picked.

    Raises:
        VideoError: the frame cannot be read.
    """
    track_id = track_id if track_id in state.labels else None
    is_idle, last = state.activity == "none", max(state.frames, default=0)
    is_shown = is_idle and bool(state.frames)
    return VideoOutputs(
        state=state,
        progress="",
        status=status_html(views.clip_status(state)),
        canvas=views.frame_image(state, number, track_id),
        number=gr.update(maximum=max(last, 1), value=number, interactive=is_shown and last > 0),
        table=gr.update(value=views.track_table(state, number), visible=bool(state.labels)),
        track=gr.update(choices=views.track_choices(state), value=track_id),
        correct=gr.update(visible=is_shown and bool(state.labels)),
        downloads=gr.update(visible=is_shown),
        run=gr.update(interactive=is_idle),
        pause=gr.update(interactive=state.activity == "tracking"),
        go_on=gr.update(interactive=state.can_go_on),
        stop=gr.update(interactive=not is_idle or state.can_go_on),
    )


def partial_outputs(**given: Any) -> VideoOutputs:
    """Some components; the others stay as they are."""
    return VideoOutputs(**{**dict.fromkeys(VideoOutputs._fields, gr.skip()), **given})


@dataclass(frozen=True)
class VideoEvents:
    """The functions behind the events of the tab. Errors are those of `ClipActions`."""

    actions: ClipActions

    @property
    def limits(self) -> Limits:
        return self.actions.actions.limits

    def open(self, upload: dict[str, Any] | None) -> VideoOutputs:
        """Begin with another clip, an upload as the browser describes it; None for no clip.

        Raises:
            VideoError: it cannot be read as a video, or holds no frame.
        """
        if upload is None:
            return outputs(ClipState())
        if not upload.get("path"):
            raise VideoError("the clip must be an uploaded file, got none")
        path = Path(upload["path"])
        return outputs(self.actions.open(path, printable_name(upload.get("orig_name") or path.name)))

    def fetch(self, address: str) -> VideoOutputs:
        """Begin with the clip that an address leads to.

        Raises:
            VideoError: addresses are not fetched here, or this one cannot be, or is no video.
        """
        path = fetch_clip(address.strip(), self.limits)
        return outputs(self.actions.open(path, path.name))

    def run(self, state: ClipState, text: str, *settings: Any) -> Iterator[VideoOutputs]:
        """Follow what the text names from the first frame on. `settings` are the values of `settings_controls`.

        Yields:
            the frames as they are done, and all that is shown at the end.
        """
        yield from show_steps(self.actions.track(state, text, read_settings(settings)), 0, _count(state))

    def go_on(self, state: ClipState) -> Iterator[VideoOutputs]:
        """Follow the same objects in the frames that are left; yields as `run` does."""
        yield from show_steps(self.actions.go_on(state), len(state.frames), _count(state))

    def follow(self, state: ClipState) -> Iterator[VideoOutputs]:
        """Follow the corrected track again from the frame of its correction on; yields as `run` does."""
        one = state.correction
        number, track_id = (0, None) if one is None else (one.frame, one.track_id)
        yield from show_steps(self.actions.follow(state), number, len(state.frames), number, track_id)

    def pause(self, state: ClipState) -> VideoOutputs:
        """Let what is going on end after its frame."""
        self.actions.pause(state)
        return partial_outputs(pause=gr.update(interactive=False))

    def stop(self, state: ClipState) -> VideoOutputs:
        """Likewise, for good; or end what is paused."""
        stopped = self.actions.stop(state)
        off = gr.update(interactive=False)
        if stopped is state:
            return partial_outputs(pause=off, stop=off)
        return partial_outputs(state=stopped, status=status_html(views.clip_status(stopped)), go_on=off, stop=off)

    def look(self, state: ClipState, number: int | float, track_id: int | None) -> VideoOutputs:
        """Show another frame, or pick another track in the list. The state stays as it is."""
        image = views.frame_image(state, int(number), track_id if track_id in state.labels else None)
        return partial_outputs(canvas=image, table=gr.update(value=views.track_table(state, int(number))))

    def press(
        self, state: ClipState, number: int | float, track_id: int | None, tool: Tool, event: gr.SelectData
    ) -> VideoOutputs:
        """A press on the frame that is shown."""
        x, y = views.screen_to_frame(state, float(event.index[0]), float(event.index[1]))
        state, picked = self.actions.press(state, int(number), track_id, tool, x, y)
        return outputs(state, int(number), picked)

    def hide(self, state: ClipState, number: int | float, track_id: int | None) -> VideoOutputs:
        return outputs(self.actions.hide(state, int(number), track_id), int(number), track_id)

    def undo(self, state: ClipState, number: int | float, track_id: int | None) -> VideoOutputs:
        return outputs(self.actions.undo(state), int(number), track_id)


def _count(state: ClipState) -> int | None:
    return None if state.clip is None else state.clip.info.count


def show_steps(
    steps: Iterator[Step], before: int, total: int | None, number: int | None = None, track_id: int | None = None
) -> Iterator[VideoOutputs]:
    """What is shown of the steps of an action. Closing the generator ends the action.

    Args:
        steps: of the action.
        before: how many frames of the clip were done before it.
        total: how many there are; None where that is not known.
        number: of the frame that is shown at the end; None: the last one.
        track_id: of the track that is picked then.
    """
    bar, shown_at = ProgressBar("frames", before=before), 0.0
    state: ClipState | None = None
    try:
        with closing_iterator(steps):
            for step in steps:
                state = step.state
                if step.frame is not None and step.image is not None:
                    is_due = time.monotonic() - shown_at >= _SECONDS_PER_IMAGE
                    shown_at = time.monotonic() if is_due else shown_at
                    image = views.draw_on_screen(step.image, step.frame) if is_due else gr.skip()
                    yield partial_outputs(state=state, progress=_progress(bar, step.frame, total), canvas=image)
                elif state.activity != "none":
                    yield _begun(state, bar)
                else:
                    yield outputs(state, max(state.frames, default=0) if number is None else number, track_id)
    except Exception:
        if state is not None:  # no bar may stay where nothing is going on; the frames before the failure stay
            yield outputs(replace(state, activity="none"), max(state.frames, default=0))
        raise


def _begun(state: ClipState, bar: ProgressBar) -> VideoOutputs:
    """What changes when an action begins: the buttons, and what is of an earlier result."""
    is_tracking = state.activity == "tracking"
    return partial_outputs(
        state=state,
        status=status_html(_begun_status(state)),
        progress=bar.waiting("Looking for the first objects" if not state.frames else "Remembering the objects"),
        number=gr.update(interactive=False),
        table=gr.update(visible=False) if is_tracking else gr.skip(),
        correct=gr.update(visible=False) if is_tracking else gr.skip(),
        downloads=gr.update(visible=False),
        run=gr.update(interactive=False),
        pause=gr.update(interactive=is_tracking),
        go_on=gr.update(interactive=False),
        stop=gr.update(interactive=True),
    )


def _begun_status(state: ClipState) -> list[str]:
    text = "" if state.query is None else listed(parse(state.query[0]))
    if state.activity == "correcting" and state.correction is not None:
        text = f"{state.labels[state.correction.track_id]} {state.correction.track_id}, as corrected"
    return [f"Following {text}.", *(state.clip.notes if state.clip else ())]


def _progress(bar: ProgressBar, frame: TrackedFrame, total: int | None) -> str:
    count = len(frame.in_sight)
    objects = f"{count} object{'s' * (count != 1)}"
    if total is None or frame.number >= total:  # what a file states is not always so
        return bar.waiting(f"Frame {frame.number} is done, {objects}")
    return bar.at(frame.number + 1, total, objects)


def video_tab(actions: Actions) -> None:
    """Inside a `gr.Tab`: lay out the tab and wire its events; where clips cannot be followed, say why."""
    if actions.video is None:
        gr.Markdown(actions.video_missing, elem_id="video-missing")
        return
    state = gr.State(ClipState(), time_to_live=STATE_SECONDS)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            panel = _query_panel(actions)
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(status_html(views.clip_status(ClipState())), padding=False, elem_id="video-status")
            canvas = gr.Image(
                label="Frame",
                format="jpeg",
                interactive=False,
                buttons=["fullscreen"],
                height="auto",
                elem_id="video-canvas",
                alt_text="The frame with its tracks",
            )
            number = gr.Slider(0, 1, 0, step=1, label="Frame number", interactive=False, elem_id="video-number")
            table = gr.Dataframe(
                headers=list(views.COLUMNS),
                label="Tracks in this frame",
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id="video-table",
            )
            with gr.Column(visible=False, elem_id="video-correct") as correct:
                correction = _correct_panel()
            downloads = clip_download_panel(state, actions.limits)
    changed = VideoOutputs(
        state=state,
        progress=panel.progress,
        status=status,
        canvas=canvas,
        number=number,
        table=table,
        track=correction.track,
        correct=correct,
        downloads=downloads,
        run=panel.run,
        pause=panel.pause,
        go_on=panel.go_on,
        stop=panel.stop,
    )
    _wire(VideoEvents(ClipActions(actions)), changed, panel, correction)


class QueryPanel(NamedTuple):
    """The components with which a clip is brought and followed."""

    clip: Any
    address: Any
    text: Any
    run: Any
    pause: Any
    go_on: Any
    stop: Any
    progress: Any
    controls: list[Any]


def _query_panel(actions: Actions) -> QueryPanel:
    limits = actions.limits
    clip = gr.Video(
        label="Clip",
        sources=["upload", "webcam"],
        include_audio=False,  # a recording needs no microphone; of uploads the sound is kept all the same
        webcam_options=gr.WebcamOptions(mirror=False),
        height=340,
        buttons=[],
        elem_id="video-clip",
    )
    address = gr.Textbox(
        label="Or the address of a clip",
        info="http or https, of the public network; Enter fetches it",
        placeholder="https://example.org/clip.mp4",
        max_lines=1,
        visible=limits.allow_addresses,
        elem_id="video-address",
    )
    text = gr.Textbox(
        label="What to follow",
        info="Phrases, split by full stops, commas or line ends",
        placeholder="a dog. pizza",
        lines=1,  # of one line, Enter runs
        max_lines=6,
        elem_id="video-text",
    )
    with gr.Row(elem_classes="buttons"):
        run = gr.Button("Track", variant="primary", min_width=90, elem_id="video-run")
        pause = gr.Button("Pause", min_width=70, interactive=False, elem_id="video-pause")
        go_on = gr.Button("Go on", min_width=70, interactive=False, elem_id="video-go-on")
        stop = gr.Button("Stop", min_width=70, interactive=False, elem_id="video-stop")
    progress = gr.HTML("", padding=False, elem_id="video-progress")
    gr.Markdown(
        f"Up to {limits.max_clip_frames} frames or {limits.max_clip_seconds:g} s of a clip are followed; frames beyond "
        f"{limits.max_clip_side} pixels a side are scaled down.",
        elem_classes="hint",
    )
    with gr.Accordion("Settings", open=False, elem_id="video-settings"):
        gr.Markdown("Of the frames in which objects are looked for. They count from the next Track on.")
        controls = settings_controls(actions, "video-")
    return QueryPanel(clip, address, text, run, pause, go_on, stop, progress, controls)


class CorrectionPanel(NamedTuple):
    """The components with which a track is corrected."""

    track: Any
    tool: Any
    undo: Any
    hide: Any
    follow: Any


def _correct_panel() -> CorrectionPanel:
    gr.Markdown(_CORRECT_HELP, elem_classes="hint")
    tools = list(_TOOL_TEXTS.items())
    tool = gr.Radio(tools, value="select", label="Press on the frame to", elem_id="video-tool")
    track = gr.Dropdown([], label="Track", info="As an alternative to pressing on it", elem_id="video-track")
    with gr.Row(elem_classes="buttons"):
        undo = gr.Button("Undo", min_width=90, elem_id="video-undo")
        hide = gr.Button("Not in sight here", min_width=130, elem_id="video-hide")
        follow = gr.Button("Follow from here on", variant="primary", min_width=180, elem_id="video-follow")
    return CorrectionPanel(track, tool, undo, hide, follow)


def _wire(events: VideoEvents, changed: VideoOutputs, panel: QueryPanel, correction: CorrectionPanel) -> None:
    state, outputs_ = changed.state, list(changed)
    shown = [state, changed.number, correction.track]

    def wire(triggers: Any, function: Callable[..., Any], inputs: list[Any], **options: Any) -> Any:
        return gr.on(triggers, show_errors(function), inputs, outputs_, **{**QUIET, **ONE_AT_A_TIME, **options})

    query = [state, panel.text, *panel.controls]
    tracked = wire([panel.run.click, panel.text.submit], gpu(events.run, duration=120), query)
    tracked.success(None, js=scroll_to_result("video-status"), **QUIET)
    wire(panel.go_on.click, gpu(events.go_on, duration=120), [state])
    wire(correction.follow.click, gpu(events.follow, duration=120), [state])
    # These do not wait for what they end. Nothing is cancelled: that loses the frame that is being done.
    at_once = {"queue": False, "concurrency_id": None, "concurrency_limit": "default"}
    wire(panel.pause.click, events.pause, [state], **at_once)
    wire(panel.stop.click, events.stop, [state], **at_once)
    wire([panel.clip.change, panel.address.submit], events.pause, [state], **at_once)
    opened = wire(panel.clip.change, events.open, [panel.clip], preprocess=False)
    clear_failed_upload(opened, panel.clip)
    wire(panel.address.submit, events.fetch, [panel.address])
    # To look at frames needs no model, and does not wait for those who use one.
    look = {"trigger_mode": "always_last", "concurrency_id": "frames", "concurrency_limit": 4}
    wire([changed.number.input, correction.track.input], events.look, shown, **look)
    press_inputs = [*shown, correction.tool]
    wire(changed.canvas.select, gpu(events.press), press_inputs, trigger_mode="multiple")
    wire(correction.undo.click, events.undo, shown, trigger_mode="multiple")
    wire(correction.hide.click, events.hide, shown)

"""The main tab: an image and a text in, labelled masks out, to look at, correct and download.

Every event returns `PrimaryOutputs` at once; the slower `SecondaryOutputs` are filled in a moment later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder, is_in_or_equal

from grounded.errors import ImageError, PromptError
from grounded.ui import views
from grounded.ui.actions import TOOLS, Actions, Tool
from grounded.ui.components import (
    ONE_AT_A_TIME,
    QUIET,
    STATE_SECONDS,
    ExampleTexts,
    change_events,
    clear_failed_upload,
    example_buttons,
    image_input,
    read_settings,
    scroll_to_result,
    settings_controls,
)
from grounded.ui.downloads import download_panel
from grounded.ui.errors import show_errors
from grounded.ui.progress import StageProgress
from grounded.ui.serving import MODELS, gpu
from grounded.ui.state import AppState

_EXAMPLE_TEXTS = ExampleTexts(
    photographs={"cat.jpg": "a cat", "astronaut.jpg": "a person. a horse", "hopper.jpg": "a person. glasses"},
    drawings={
        "picnic.png": "a dog. pizza. a butterfly",
        "shelf.png": "a clock. a guitar. a cactus",
        "street.png": "a blue car. a bus. a bicycle",
    },
)
_TOOL_TEXTS: dict[Tool, str] = {
    "select": "Select",
    "add point": "+ Add point",
    "remove point": "− Remove point",
    "new by click": "New by click",
    "new by box": "New by box",
}
_CORRECT_HELP = (
    "Select an instance, then press where its mask lacks something (+) or has too much (−). "
    "For a new instance write its phrase, then press on it, or on two opposite corners of a box around it."
)


class PrimaryOutputs(NamedTuple):
    """The components that every event changes at once, or their values."""

    state: Any  # AppState
    canvas: Any  # the image to press on; None where there is none
    status: Any  # HTML


class SecondaryOutputs(NamedTuple):
    """The components that follow a moment later, or their updates."""

    annotated: Any
    phrases: Any
    table: Any
    downloads: Any
    instance: Any
    other: Any
    alternatives: Any
    undo: Any
    relabel: Any
    delete: Any
    merge: Any
    editor: Any


@dataclass(frozen=True)
class SegmentEvents:
    """The functions behind the events of the tab. Where one raises, nothing changes; errors are those of `Actions`."""

    actions: Actions

    def open(self, upload: dict[str, Any] | None) -> PrimaryOutputs:
        """Begin with another image, an upload as the browser describes it; None for no image.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        return primary_outputs(open_upload(self.actions, upload))

    def run(
        self,
        state: AppState,
        text: str,
        *settings: Any,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> PrimaryOutputs:
        """Find what the text names. `settings` are the values of `settings_controls`."""
        query = read_settings(settings)
        stopwatch = StageProgress(self.actions.limits.seconds, lambda share, stage: progress(share, desc=stage))
        found = self.actions.segment(state, text, query, stopwatch)
        return primary_outputs(replace(found, last_query=(text, query)))

    def rerun(
        self,
        state: AppState,
        text: str,
        *settings: Any,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Any:
        """`run` after a control was changed: only after a first query, and not with the same settings again."""
        if state.last_query is None or state.last_query[1] == read_settings(settings):
            return tuple(gr.skip() for _ in PrimaryOutputs._fields)
        return self.run(state, text if text.strip() else state.last_query[0], *settings, progress=progress)

    def show(self, state: AppState, phrases: list[str]) -> PrimaryOutputs:
        """Show the instances of these phrases only."""
        return primary_outputs(state.showing(phrases))

    def press(self, state: AppState, tool: Tool, phrase: str, event: gr.SelectData) -> PrimaryOutputs:
        """A press on the canvas."""
        x, y = views.screen_to_image(state.require_image(), float(event.index[0]), float(event.index[1]))
        return primary_outputs(self.actions.press(state, tool, x, y, phrase))

    def select(self, state: AppState, index: int | None) -> PrimaryOutputs:
        """Pick an instance in the list."""
        return primary_outputs(self.actions.select(state, index))

    def undo(self, state: AppState) -> PrimaryOutputs:
        return primary_outputs(self.actions.undo(state))

    def relabel(self, state: AppState, phrase: str) -> PrimaryOutputs:
        return primary_outputs(self.actions.relabel(state, phrase))

    def merge(self, state: AppState, other: int | None) -> PrimaryOutputs:
        """Merge the selected instance with another one.

        Raises:
            PromptError: no other one is chosen.
        """
        if other is None:
            raise PromptError("choose in the list which instance to merge the selected one with")
        return primary_outputs(self.actions.merge(state, other))

    def delete(self, state: AppState) -> PrimaryOutputs:
        return primary_outputs(self.actions.delete(state))

    def choose(self, state: AppState, event: gr.SelectData) -> PrimaryOutputs:
        """Take an alternative mask, the one that was pressed in the gallery."""
        return primary_outputs(self.actions.choose(state, event.index))

    def brush(self, state: AppState, drawing: dict[str, Any] | None) -> PrimaryOutputs:
        """Apply the strokes that were painted over the image, layers as RGBA arrays."""
        layers = [np.asarray(layer) for layer in (drawing or {}).get("layers") or []]
        brush, eraser = views.read_strokes(layers, state.require_image().size)
        return primary_outputs(self.actions.stroke(state, brush, eraser))


def open_upload(actions: Actions, upload: dict[str, Any] | None) -> AppState:
    """A new state with an upload, as the browser describes it before anything has read it; None for no image.

    Gradio checks the paths of files only where a component reads them, so what a client may open is checked here.

    Raises:
        ImageError: it was not uploaded, cannot be read, or is too large.
    """
    if upload is None:
        return AppState()
    if not upload.get("path"):
        raise ImageError("the image must be an uploaded file, got none")
    if not is_in_or_equal(upload["path"], get_upload_folder()):
        raise ImageError("the image must be an uploaded file, got another place")
    return actions.open(upload["path"], Path(upload.get("orig_name") or upload["path"]).stem)


def primary_outputs(state: AppState) -> PrimaryOutputs:
    """The values that are shown at once."""
    canvas = None if state.image is None else views.canvas_image(state)
    return PrimaryOutputs(state, canvas, views.status_html([*views.status_lines(state), views.seconds_line(state)]))


def secondary_outputs(state: AppState) -> SecondaryOutputs:
    """The updates that follow a moment later."""
    found = state.instances
    selected = state.edits.selected if state.edits else None
    choices = views.instance_choices(found)
    others = [] if selected is None else [choice for choice in choices if choice[1] != selected]
    alternatives = views.alternative_images(state)
    annotated = gr.update(value=None)
    if state.image is not None:
        annotated = gr.update(value=views.annotated_image(state), color_map=views.label_colours(found))
    return SecondaryOutputs(
        annotated=annotated,
        phrases=gr.update(
            choices=views.phrase_choices(found),
            value=[phrase for phrase in found.phrases if phrase not in state.hidden],
            visible=bool(found.phrases),
        ),
        table=gr.update(value=views.instance_table(found), visible=len(found) > 0),
        downloads=gr.update(visible=len(found) > 0),
        instance=gr.update(choices=choices, value=selected, interactive=len(found) > 0),
        other=gr.update(choices=others, value=None, interactive=bool(others)),
        alternatives=gr.update(value=alternatives, visible=len(alternatives) > 1, selected_index=None),
        undo=gr.update(interactive=bool(state.history)),
        relabel=gr.update(interactive=selected is not None),
        delete=gr.update(interactive=selected is not None),
        merge=gr.update(interactive=bool(others)),
        editor=_blank_drawing(state) if state.painting else gr.skip(),
    )


def open_brush(state: AppState) -> tuple[AppState, Any]:
    """Open the brush: the editor gets the canvas to paint on."""
    return replace(state, painting=True), _blank_drawing(state)


def close_brush(state: AppState) -> AppState:
    return replace(state, painting=False)


def _blank_drawing(state: AppState) -> dict[str, Any] | None:
    """An empty drawing over the canvas, for `gr.ImageEditor`."""
    if state.image is None:
        return None
    return {"background": views.canvas_image(state), "layers": [], "composite": None}


@dataclass(frozen=True)
class CorrectPanel:
    """The components with which masks are corrected."""

    tool: Any
    canvas: Any
    phrase: Any
    instance: Any
    undo: Any
    alternatives: Any
    relabel: Any
    delete: Any
    other: Any
    merge: Any
    brush: Any  # the accordion around the editor
    editor: Any
    apply: Any


def correct_panel() -> CorrectPanel:
    """Inside a layout: lay out a canvas to press on, and what can be done with an instance."""
    gr.Markdown(_CORRECT_HELP, elem_classes="hint")
    tools = [(_TOOL_TEXTS[tool], tool) for tool in TOOLS]
    tool = gr.Radio(tools, value=TOOLS[0], label="Press on the image to", elem_id="tool")
    with gr.Row():
        phrase = gr.Textbox(
            label="Phrase", placeholder="a dog", info="Of a new instance, or to rename the selected", elem_id="phrase"
        )
        instance = gr.Dropdown(
            [], label="Selected instance", info="As an alternative to pressing on it", elem_id="instance"
        )
    canvas = gr.Image(
        label="Image to press on",
        format="jpeg",  # encoded in a millisecond; a lossless file would take longer than the mask
        interactive=False,
        buttons=[],
        height="auto",
        elem_id="canvas",
        alt_text="The image with the selected instance clear and the others faint",
    )
    alternatives = gr.Gallery(
        label="What the press may mean: choose one",
        columns=3,
        height=260,
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=False,
        elem_id="alternatives",
    )
    with gr.Row():
        undo = gr.Button("Undo", size="md", min_width=90, interactive=False, elem_id="undo")
        relabel = gr.Button("Rename", size="md", min_width=90, interactive=False, elem_id="relabel")
        delete = gr.Button("Delete", size="md", min_width=90, interactive=False, elem_id="delete")
    with gr.Row(elem_classes="level"):
        other = gr.Dropdown([], label="Merge the selected instance with", interactive=False, elem_id="other")
        merge = gr.Button("Merge", size="md", min_width=90, scale=0, interactive=False, elem_id="merge")
    with gr.Accordion("Paint or erase", open=False, elem_id="brush") as brush:
        gr.Markdown("Green adds to the selected instance, red removes from it.", elem_classes="hint")
        colours = [views.GREEN, views.RED]
        editor = gr.ImageEditor(
            label="Paint over the selected instance",
            type="numpy",
            image_mode="RGBA",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=16, colors=colours, default_color=views.GREEN, color_mode="fixed"),
            eraser=gr.Eraser(default_size=16),
            buttons=[],
            format="jpeg",
            height=560,
            elem_id="editor",
        )
        apply = gr.Button("Apply the strokes", variant="primary", elem_id="apply")
    return CorrectPanel(
        tool=tool,
        canvas=canvas,
        phrase=phrase,
        instance=instance,
        undo=undo,
        alternatives=alternatives,
        relabel=relabel,
        delete=delete,
        other=other,
        merge=merge,
        brush=brush,
        editor=editor,
        apply=apply,
    )


def segment_tab(actions: Actions) -> None:
    """Inside a `gr.Tab`: lay out the tab and wire its events."""
    state = gr.State(AppState(), time_to_live=STATE_SECONDS)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = image_input("image")
            text = gr.Textbox(
                label="What to find",
                info="Phrases, split by full stops, commas or line ends",
                placeholder="a dog. pizza",
                lines=1,  # of one line, Enter runs
                max_lines=6,
                elem_id="text",
            )
            run = gr.Button("Run", variant="primary", elem_id="run")
            example_buttons(image, text, _EXAMPLE_TEXTS.for_config(actions.config))
            with gr.Accordion("Settings", open=False, elem_id="settings"):
                gr.Markdown("A change runs at once; only the stages that depend on it run again.", elem_classes="hint")
                controls = settings_controls(actions)
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(primary_outputs(AppState()).status, padding=False, elem_id="status")
            with gr.Tabs():
                with gr.Tab("Result", elem_id="result-tab"):
                    annotated = gr.AnnotatedImage(
                        label="Instances", height="auto", buttons=["fullscreen"], elem_id="annotated"
                    )
                    phrases = gr.CheckboxGroup([], label="Show", visible=False, elem_id="phrases")
                with gr.Tab("Correct", elem_id="correct-tab"):
                    panel = correct_panel()
            table = gr.Dataframe(
                headers=list(views.COLUMNS),
                label="Instances",
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id="table",
            )
            downloads = download_panel(state)

    events = SegmentEvents(actions)
    primary = PrimaryOutputs(state=state, canvas=panel.canvas, status=status)
    secondary = SecondaryOutputs(
        annotated=annotated,
        phrases=phrases,
        table=table,
        downloads=downloads,
        instance=panel.instance,
        other=panel.other,
        alternatives=panel.alternatives,
        undo=panel.undo,
        relabel=panel.relabel,
        delete=panel.delete,
        merge=panel.merge,
        editor=panel.editor,
    )

    wire = _event_wiring(primary, secondary)
    opened, _ = wire(image.change, events.open, [image], preprocess=False)
    clear_failed_upload(opened, image)
    # If something changes again while a query is running, the latest change runs after it.
    query = {"show_progress": "full", "show_progress_on": [annotated, panel.canvas], "trigger_mode": "always_last"}
    _, found = wire([run.click, text.submit], gpu(events.run), [state, text, *controls], **query)
    found.success(None, js=scroll_to_result("status"), **QUIET)
    wire(change_events(controls), gpu(events.rerun), [state, text, *controls], **query)
    wire(phrases.input, events.show, [state, phrases], trigger_mode="always_last")
    _wire_corrections(wire, events, state, panel)


def _event_wiring(primary: PrimaryOutputs, secondary: SecondaryOutputs) -> Callable[..., tuple[Any, Any]]:
    """A function that wires one of the events: at once it changes `primary`, and a moment later `secondary`."""

    def wire(triggers: Any, function: Any, inputs: Sequence[Any], **options: Any) -> tuple[Any, Any]:
        """Returns what can be continued from: the event, and that everything is filled in."""
        options = {**QUIET, **ONE_AT_A_TIME, **options}
        event = gr.on(triggers, show_errors(function), list(inputs), list(primary), **options)
        # A result that comes while an earlier one is being filled in must be filled in as well, after it.
        filled = event.success(
            show_errors(secondary_outputs), primary.state, list(secondary), trigger_mode="always_last", **QUIET
        )
        return event, filled

    return wire


def _wire_corrections(
    wire: Callable[..., tuple[Any, Any]], events: SegmentEvents, state: gr.State, panel: CorrectPanel
) -> None:
    # Nobody waits for one press before the next.
    wire(panel.canvas.select, gpu(events.press), [state, panel.tool, panel.phrase], trigger_mode="multiple")
    wire(panel.instance.input, events.select, [state, panel.instance], trigger_mode="always_last")
    wire(panel.undo.click, events.undo, [state], trigger_mode="multiple")
    wire(panel.relabel.click, events.relabel, [state, panel.phrase])
    wire(panel.merge.click, events.merge, [state, panel.other])
    wire(panel.delete.click, events.delete, [state])
    wire(panel.alternatives.select, events.choose, [state])
    wire(panel.apply.click, gpu(events.brush), [state, panel.editor])
    panel.brush.expand(open_brush, state, [state, panel.editor], concurrency_id=MODELS, **QUIET)
    panel.brush.collapse(close_brush, state, state, concurrency_id=MODELS, **QUIET)

"""The main tab: a picture and a text in, labelled masks out, to be looked at, corrected and taken away."""

from typing import Any

import gradio as gr

from grounded.ui import events as page_events
from grounded.ui.controls import controls, moved
from grounded.ui.correct_panel import CorrectPanel, correct_panel
from grounded.ui.download_panel import download_panel
from grounded.ui.events import Events, Rest
from grounded.ui.examples import examples
from grounded.ui.inputs import (
    ONE_BY_ONE,
    QUIET,
    STATE_SECONDS,
    picture_input,
    show_where_columns_stack,
    take_away_what_failed,
)
from grounded.ui.messages import spoken
from grounded.ui.page import Page
from grounded.ui.serving import MODELS, gpu
from grounded.ui.studio import Studio
from grounded.ui.views import COLUMNS

_EXAMPLE_TEXTS = {
    "picnic": "a dog. pizza. a butterfly",
    "shelf": "a clock. a guitar. a cactus",
    "street": "a blue car. a bus. a bicycle",
}


def segment_tab(studio: Studio) -> None:
    """Inside a `gr.Tab`: lay out the tab and wire its events."""
    events = Events(studio)
    page = gr.State(Page(), time_to_live=STATE_SECONDS)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = picture_input("picture")
            text = gr.Textbox(
                label="What to find",
                info="Phrases, split by full stops, commas or line ends",
                placeholder="a dog. pizza",
                lines=1,  # of one line, Enter runs
                max_lines=6,
                elem_id="text",
            )
            run = gr.Button("Run", variant="primary", elem_id="run")
            examples(picture, text, _EXAMPLE_TEXTS)
            with gr.Accordion("Settings", open=False, elem_id="settings"):
                gr.Markdown("A change asks again at once; only the stages that depend on it run.", elem_classes="hint")
                settings = controls(studio)
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(page_events.front(Page()).status, padding=False, elem_id="status")
            with gr.Tabs():
                with gr.Tab("Result", elem_id="result-tab"):
                    annotated = gr.AnnotatedImage(
                        label="Instances", height="auto", buttons=["fullscreen"], elem_id="annotated"
                    )
                    phrases = gr.CheckboxGroup([], label="Show", visible=False, elem_id="phrases")
                with gr.Tab("Correct", elem_id="correct-tab"):
                    panel = correct_panel()
            table = gr.Dataframe(
                headers=list(COLUMNS),
                label="Instances",
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id="table",
            )
            downloads = download_panel(page)
    later = Rest(
        annotated,
        phrases,
        table,
        panel.instance,
        panel.other,
        panel.alternatives,
        panel.undo,
        panel.relabel,
        panel.delete,
        panel.merge,
        downloads,
        panel.editor,
    )
    wiring = _Wiring(page, panel, status, later)
    opened, _ = wiring.on(picture.change, events.open, [picture], preprocess=False)
    take_away_what_failed(opened, picture)
    # What is changed again while an answer is on its way is asked for once that is there.
    asked = {"show_progress": "full", "show_progress_on": [annotated, panel.canvas], "trigger_mode": "always_last"}
    _, answered = wiring.on([run.click, text.submit], gpu(events.run), [page, text, *settings], **asked)
    answered.success(None, js=show_where_columns_stack("status"), **QUIET)
    wiring.on(moved(settings), gpu(events.again), [page, text, *settings], **asked)
    wiring.on(phrases.input, events.show, [page, phrases], trigger_mode="always_last")
    _correct(wiring, events)


class _Wiring:
    """Events that answer with a `Front`, and fill in the `Rest` a moment later."""

    def __init__(self, page: Any, panel: CorrectPanel, status: Any, later: Rest) -> None:
        self.page, self.panel, self.later = page, panel, later
        self._front = [page, panel.canvas, status]

    def on(self, triggers: Any, function: Any, inputs: list[Any], **options: Any) -> Any:
        """Wire one of `Events`. Returns two to go on from: its answer, and that all is filled in."""
        event = gr.on(triggers, spoken(function), inputs, self._front, **{**QUIET, **ONE_BY_ONE, **options})
        # An answer that comes while an earlier one is being filled in must be filled in as well, after it.
        filled = event.success(
            spoken(page_events.rest), self.page, list(self.later), trigger_mode="always_last", **QUIET
        )
        return event, filled


def _correct(wiring: _Wiring, events: Events) -> None:
    """Wire the events of the panel for corrections."""
    page, panel = wiring.page, wiring.panel
    # Nobody waits for one press before the next.
    wiring.on(panel.canvas.select, gpu(events.press), [page, panel.tool, panel.phrase], trigger_mode="multiple")
    wiring.on(panel.instance.input, events.select, [page, panel.instance], trigger_mode="always_last")
    wiring.on(panel.undo.click, events.undo, [page], trigger_mode="multiple")
    wiring.on(panel.relabel.click, events.relabel, [page, panel.phrase])
    wiring.on(panel.merge.click, events.merge, [page, panel.other])
    wiring.on(panel.delete.click, events.delete, [page])
    wiring.on(panel.alternatives.select, events.choose, [page])
    wiring.on(panel.apply.click, gpu(events.brush), [page, panel.editor])
    panel.brush.expand(page_events.paint, page, [page, panel.editor], concurrency_id=MODELS, **QUIET)
    panel.brush.collapse(page_events.put_away, page, page, concurrency_id=MODELS, **QUIET)

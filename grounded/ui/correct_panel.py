"""The part of the main tab where masks are corrected: a canvas to press on, and what can be done with an instance."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from grounded.ui.strokes import GREEN, RED
from grounded.ui.studio import TOOLS, Tool

_NAMES: dict[Tool, str] = {
    "select": "Select",
    "add point": "+ Add point",
    "remove point": "− Remove point",
    "new by click": "New by click",
    "new by box": "New by box",
}
_HELP = (
    "Select an instance, then press where its mask lacks something (+) or has too much (−). "
    "For a new instance write its phrase, then press on it, or on two opposite corners of a box around it."
)


@dataclass(frozen=True)
class CorrectPanel:
    """Its components."""

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
    brush: Any  # the accordion of the editor
    editor: Any
    apply: Any


def correct_panel() -> CorrectPanel:
    """Inside a layout: lay the components out."""
    gr.Markdown(_HELP, elem_classes="hint")
    tool = gr.Radio(
        [(_NAMES[tool], tool) for tool in TOOLS], value=TOOLS[0], label="Press on the picture to", elem_id="tool"
    )
    with gr.Row():
        phrase = gr.Textbox(
            label="Phrase", placeholder="a dog", info="Of a new instance, or to rename the selected", elem_id="phrase"
        )
        instance = gr.Dropdown(
            [], label="Selected instance", info="As an alternative to pressing on it", elem_id="instance"
        )
    canvas = gr.Image(
        label="Picture to press on",
        format="jpeg",  # encoded in a millisecond; a lossless file would take longer than the mask
        interactive=False,
        buttons=[],
        height="auto",
        elem_id="canvas",
        alt_text="The picture with the selected instance clear and the others faint",
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
        editor = gr.ImageEditor(
            label="Paint over the selected instance",
            type="numpy",
            image_mode="RGBA",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=16, colors=[GREEN, RED], default_color=GREEN, color_mode="fixed"),
            eraser=gr.Eraser(default_size=16),
            buttons=[],
            format="jpeg",
            height=560,
            elem_id="editor",
        )
        apply = gr.Button("Apply the strokes", variant="primary", elem_id="apply")
    return CorrectPanel(
        tool, canvas, phrase, instance, undo, alternatives, relabel, delete, other, merge, brush, editor, apply
    )

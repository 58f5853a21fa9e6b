"""What the tabs have in common: their inputs, their buttons, and how their events behave."""

from typing import Any

import gradio as gr

from grounded.ui.serving import MODELS

STATE_SECONDS = 4 * 3600.0  # how long a tab that was left open is remembered
# Events of the page alone: no endpoints of the API, and no veil over what they change.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# All that changes what a user has waits in one line: two events at once would each miss what the other did.
ONE_BY_ONE: dict[str, Any] = {"concurrency_id": MODELS, "concurrency_limit": 1}


def picture_input(elem_id: str) -> gr.Image:
    """Inside a layout: where a picture is uploaded, pasted or taken."""
    return gr.Image(
        label="Picture",
        type="filepath",
        image_mode=None,
        sources=["upload", "webcam", "clipboard"],
        height=300,
        buttons=[],
        elem_id=elem_id,
        alt_text="The picture as it was uploaded",
    )


def run_and_cancel(label: str, prefix: str) -> tuple[gr.Button, gr.Button]:
    """Inside a layout: a button that starts something long, and one that ends it."""
    with gr.Row():
        start = gr.Button(label, variant="primary", min_width=140, elem_id=f"{prefix}run")
        cancel = gr.Button("Cancel", min_width=100, scale=0, elem_id=f"{prefix}cancel")
    return start, cancel


def rested() -> Any:
    """The button that started something, once that has ended."""
    return gr.update(interactive=True)


def show_where_columns_stack(elem_id: str) -> str:
    """A script for narrow pages: scrolls to a result, which lies there below what can be seen."""
    return f"""() => {{
      innerWidth < 800 && document.getElementById("{elem_id}").scrollIntoView({{behavior: "smooth"}})
    }}"""


def take_away_what_failed(opened: Any, picture: Any) -> None:
    """After an event that opens a picture: one that cannot be opened would go on being shown, as broken."""
    opened.failure(lambda: None, None, picture, **QUIET)

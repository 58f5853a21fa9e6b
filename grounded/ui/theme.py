"""How the app looks: `launch` takes it."""

from pathlib import Path
from typing import Any

import gradio as gr

_CSS = Path(__file__).with_name("style.css")
# Gradio tells of a slider that is let go by a pointer; by the keyboard it is let go with each step.
_HEAD = """<script>
document.addEventListener("change", ({target}) => {
  if (target.matches("input[type=range]")) target.dispatchEvent(new PointerEvent("pointerup", {bubbles: true}));
});
</script>"""


def look() -> dict[str, Any]:
    """The theme, style sheet and head for `launch`. Fonts are those of the system, and not fetched from elsewhere."""
    system = ("system-ui", "sans-serif")
    theme = gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=system,
        font_mono=("ui-monospace", "monospace"),
    ).set(
        # The defaults of these are too faint to read.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_border_color="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover_dark="#991b1b",
    )
    return {"theme": theme, "css": _CSS.read_text(encoding="utf-8"), "head": _HEAD}

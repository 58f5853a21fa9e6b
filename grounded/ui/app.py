"""The app as a whole: its tabs, its endpoints, and its appearance."""

from pathlib import Path
from typing import Any

import gradio as gr

from grounded.ui.actions import Actions
from grounded.ui.api import add_endpoints
from grounded.ui.batch_tab import batch_tab
from grounded.ui.everything_tab import everything_tab
from grounded.ui.segment_tab import segment_tab
from grounded.ui.video_tab import video_tab
from segany.hub import split_revision

_CSS = Path(__file__).with_name("style.css")
# Gradio reports that a slider was let go by a pointer; with the keyboard each step lets it go.
_HEAD = """<script>
document.addEventListener("change", ({target}) => {
  if (target.matches("input[type=range]")) target.dispatchEvent(new PointerEvent("pointerup", {bubbles: true}));
});
</script>"""


def build_demo(actions: Actions) -> gr.Blocks:
    """The app over loaded models; `launch` takes its `appearance`."""
    with gr.Blocks(title="Grounded SegAny", analytics_enabled=False) as demo:
        gr.Markdown(header(actions), elem_id="header")
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Segment", id="segment"):
                segment_tab(actions)
            with gr.Tab("Everything", id="everything"):
                everything_tab(actions)
            with gr.Tab("Several images", id="batch"):
                batch_tab(actions)
            with gr.Tab("Video", id="video"):
                video_tab(actions)
        add_endpoints(actions)
    return demo


# What the bundled networks know, by the checkpoint of the segmenter.
_BUNDLED = {
    "bundled:photo": "they know about 140 everyday things, best people, pets, farm animals, vehicles and furniture",
    "bundled:tiny": "they know drawn scenes only, not photographs",
}


def header(actions: Actions) -> str:
    """The title, the models and the limits of uploads, as Markdown."""
    limits, models = actions.limits, actions.config.models
    names = ", ".join(f"{stage} `{split_revision(name)[0]}`" for stage, name in models.items() if name)
    text = f"Models: {names}."
    if known := _BUNDLED.get(str(models["segmenter"])):
        text = f"These are the small models that come with the package: {known}."
    return (
        "# Grounded SegAny\n"
        "Say what to find in an image, and get a labelled mask of every instance. \n"
        f"{text} Files up to {limits.max_file_mb} MB; images beyond {limits.max_side} pixels a side are scaled down."
    )


def appearance() -> dict[str, Any]:
    """Theme, style sheet and head for `launch`. Fonts are those of the system, and not fetched from elsewhere."""
    theme = gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=("system-ui", "sans-serif"),
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

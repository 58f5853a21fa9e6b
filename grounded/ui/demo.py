"""The app as a whole."""

import gradio as gr

from grounded.ui.endpoints import add_endpoints
from grounded.ui.everything_tab import everything_tab
from grounded.ui.segment_tab import segment_tab
from grounded.ui.several_tab import several_tab
from grounded.ui.studio import Studio


def build_demo(studio: Studio) -> gr.Blocks:
    """The app over models that are loaded; `grounded.ui.theme.look` is how it should look."""
    with gr.Blocks(title="Grounded SegAny", analytics_enabled=False) as demo:
        gr.Markdown(header(studio), elem_id="header")
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Segment", id="segment"):
                segment_tab(studio)
            with gr.Tab("Everything", id="everything"):
                everything_tab(studio)
            with gr.Tab("Several pictures", id="several"):
                several_tab(studio)
        add_endpoints(studio)
    return demo


def header(studio: Studio) -> str:
    """The title, and as Markdown what the models know and what may be uploaded."""
    limits, models = studio.limits, studio.pipeline.models
    named = ", ".join(f"{stage} `{checkpoint}`" for stage, checkpoint in models.items() if checkpoint)
    what = f"Models: {named}."
    if any(str(checkpoint).startswith("bundled:") for checkpoint in models.values()):
        what = "**tiny**, the models that come with the package: they know drawn scenes only, not photographs."
    return (
        "# Grounded SegAny\n"
        "Say what to find in a picture, and get a labelled mask of every instance. \n"
        f"{what} Files up to {limits.max_file_mb} MB; pictures beyond {limits.max_side} pixels a side are scaled down."
    )

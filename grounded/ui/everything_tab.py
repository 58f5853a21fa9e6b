"""The tab that finds masks of everything: a grid of points prompts the picture, and CLIP may name what is found."""

from functools import partial
from typing import Any

import gradio as gr

from grounded.ui import everything
from grounded.ui.automatic import MAX_POINTS_PER_SIDE, for_people
from grounded.ui.download_panel import download_panel
from grounded.ui.everything import Shown
from grounded.ui.examples import examples
from grounded.ui.inputs import (
    ONE_BY_ONE,
    QUIET,
    STATE_SECONDS,
    picture_input,
    rested,
    run_and_cancel,
    show_where_columns_stack,
    take_away_what_failed,
)
from grounded.ui.messages import spoken
from grounded.ui.page import Page
from grounded.ui.serving import gpu
from grounded.ui.studio import Studio

_MAX_REGION_AREA = 5000  # pixels
_EXAMPLE_WORDS = {
    "picnic": "dog. pizza. butterfly. tree",
    "shelf": "clock. guitar. cactus. book",
    "street": "car. bus. bicycle. tree. house",
}


def everything_tab(studio: Studio) -> None:
    """Inside a `gr.Tab`: lay out the tab and wire its events."""
    page = gr.State(Page(), time_to_live=STATE_SECONDS)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = picture_input("everything-picture")
            names = gr.Textbox(
                label="Names to choose from",
                info="Optional: CLIP gives a mask the one that fits it best, if any does",
                placeholder="dog. pizza. tree",
                lines=2,
                max_lines=6,
                elem_id="everything-names",
            )
            start, cancel = run_and_cancel("Find everything", "everything-")
            progress = gr.HTML("", padding=False, elem_id="everything-progress")
            examples(picture, names, _EXAMPLE_WORDS, "everything-")
            with gr.Accordion("Settings", open=False, elem_id="everything-settings"):
                settings = _settings(studio)
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(everything.status(Page()), padding=False, elem_id="everything-status")
            annotated = gr.AnnotatedImage(
                label="Masks", height="auto", buttons=["fullscreen"], elem_id="everything-annotated"
            )
            phrases = gr.CheckboxGroup([], label="Show", visible=False, elem_id="everything-phrases")
            rows = gr.Dataframe(
                headers=list(everything.COLUMNS),
                label="Masks",
                interactive=False,
                visible=False,
                buttons=["copy"],
                max_height=400,
                elem_id="everything-table",
            )
            downloads = download_panel(page, "everything-")
    outputs = list(Shown(page, progress, status, annotated, phrases, rows, downloads, start))
    search = start.click(
        spoken(gpu(partial(everything.run, studio), duration=120)),
        [page, names, *settings],
        outputs,
        show_progress="minimal",
        show_progress_on=[progress],
        api_visibility="private",
        **ONE_BY_ONE,
    )
    # After Cancel a press would count for nothing until the server has let go.
    search.then(rested, None, start, queue=False, **QUIET)
    search.success(None, js=show_where_columns_stack("everything-status"), **QUIET)
    opened = picture.change(
        spoken(partial(everything.open_picture, studio)), picture, outputs, preprocess=False, cancels=[search], **QUIET
    )
    take_away_what_failed(opened, picture)
    cancel.click(everything.stopped, None, progress, queue=False, cancels=[search], **QUIET)
    phrases.input(spoken(everything.show), [page, phrases], outputs, trigger_mode="always_last", **QUIET)


def _settings(studio: Studio) -> list[Any]:
    """One control for each setting of `run`, in its order, at what is worth showing."""
    whole = for_people(studio.pipeline.config)
    config, least_area = whole.fallback, whole.refinement.min_mask_region_area
    return [
        gr.Slider(
            1,
            MAX_POINTS_PER_SIDE,
            min(config.points_per_side, MAX_POINTS_PER_SIDE),
            step=1,
            label="Points per side",
            info="Of the grid that is prompted; the time grows with its square",
            elem_id="everything-points",
        ),
        gr.Slider(
            0,
            1,
            config.pred_iou_thresh,
            step=0.01,
            label="Predicted IoU threshold",
            info="Masks of which the segmenter thinks less are dropped",
            elem_id="everything-iou",
        ),
        gr.Slider(
            0,
            1,
            config.stability_score_thresh,
            step=0.01,
            label="Stability threshold",
            info="Masks that change more with the cut through their logits are dropped",
            elem_id="everything-stability",
        ),
        gr.Slider(
            0,
            _MAX_REGION_AREA,
            min(least_area, _MAX_REGION_AREA),
            step=10,
            label="Minimum region area",
            info="Holes and islands of fewer pixels are removed from the masks",
            elem_id="everything-area",
        ),
        gr.Slider(
            0,
            2,
            0,
            step=1,
            label="Crop layers",
            info="Looks at 4, then 16 more parts of the picture for small things; much slower",
            elem_id="everything-layers",
        ),
        gr.Slider(
            0,
            1,
            0.3,
            step=0.01,
            label="Naming threshold",
            info="CLIP score below which a mask stays unnamed",
            elem_id="everything-naming",
        ),
    ]

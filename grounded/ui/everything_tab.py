"""The tab that finds masks of everything: a grid of points prompts the image, and CLIP may name the masks."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from grounded.data.instances import Instances
from grounded.interactive.everything import UNNAMED
from grounded.ui import views
from grounded.ui.actions import MAX_POINTS_PER_SIDE, Actions, interactive_defaults
from grounded.ui.components import (
    ONE_AT_A_TIME,
    QUIET,
    STATE_SECONDS,
    ExampleTexts,
    clear_failed_upload,
    enable_button,
    example_buttons,
    image_input,
    run_and_cancel_buttons,
    scroll_to_result,
)
from grounded.ui.downloads import download_panel
from grounded.ui.errors import show_errors
from grounded.ui.progress import Deadline, ProgressBar, ReportProgress, message_html, run_with_progress
from grounded.ui.segment_tab import open_upload
from grounded.ui.serving import gpu
from grounded.ui.state import AppState, EditState
from segany.utils.rle import rle_area

MAX_SHOWN = 100  # masks in the image: each is an image of its own for the browser
COLUMNS = ("#", "name", "CLIP", "predicted IoU", "area, px")
_MAX_REGION_AREA = 5000  # pixels
_EXAMPLE_WORDS = ExampleTexts(
    photographs={
        "cat.jpg": "cat. dog. wall",
        "astronaut.jpg": "person. helmet. flag. rocket",
        "hopper.jpg": "person. flag. glasses",
    },
    drawings={
        "picnic.png": "dog. pizza. butterfly. tree",
        "shelf.png": "clock. guitar. cactus. book",
        "street.png": "car. bus. bicycle. tree. house",
    },
)


class EverythingOutputs(NamedTuple):
    """The components that the events of the tab change, or their values; `gr.skip()` leaves one as it is."""

    state: Any  # AppState
    progress: Any  # HTML
    status: Any  # HTML
    annotated: Any
    phrases: Any
    table: Any
    downloads: Any
    run: Any  # the button, disabled while a search is running


def open_image(actions: Actions, upload: dict[str, Any] | None) -> EverythingOutputs:
    """Begin with another image, an upload as the browser describes it; None for no image.

    Raises:
        ImageError: it cannot be read, or is too large.
    """
    return outputs(open_upload(actions, upload))


def run_search(
    actions: Actions,
    state: AppState,
    names: str,
    points_per_side: int | float,
    pred_iou_thresh: int | float,
    stability_score_thresh: int | float,
    min_mask_region_area: int | float,
    crop_n_layers: int | float,
    naming_threshold: int | float,
) -> Iterator[EverythingOutputs]:
    """Find masks of everything, and name them where `names` is not empty. Closing the generator ends the search.

    Yields:
        the progress, and at the end the masks.

    Raises:
        PromptError: there is no image, or no phrase in `names`.
        TimeLimitError: the time is up.
    """
    state.require_image()  # an error now, before the bar appears
    bar, deadline = ProgressBar("points"), Deadline(actions.limits.seconds)
    yield _progress_only(bar.waiting("Encoding the image"), run=gr.update(interactive=False))

    def search(report: ReportProgress) -> AppState:
        def check_and_report(done: int, total: int) -> None:
            deadline.check()
            report(done, total)

        return actions.everything(
            state,
            names.strip(),
            progress=check_and_report,
            naming_threshold=float(naming_threshold),
            points_per_side=int(points_per_side),
            pred_iou_thresh=float(pred_iou_thresh),
            stability_score_thresh=float(stability_score_thresh),
            min_mask_region_area=int(min_mask_region_area),
            crop_n_layers=int(crop_n_layers),
            crop_n_points_downscale_factor=2,  # crops are small: they need no grid as fine as the image's
        )

    try:
        found = yield from _show_progress(run_with_progress(search), bar)
        yield outputs(replace(found, hidden=frozenset()))._replace(run=enable_button())
    except Exception:
        yield _progress_only("", run=enable_button())  # no bar may stay where nothing is going on
        raise


def _show_progress(
    search: Generator[tuple[int, int], None, AppState], bar: ProgressBar
) -> Generator[EverythingOutputs, None, AppState]:
    with closing(search):
        while True:
            try:
                done, total = next(search)
            except StopIteration as end:
                return end.value
            yield _progress_only(bar.at(done, total) if done < total else bar.waiting("Drawing the masks"))


def _progress_only(progress: str, **others: Any) -> EverythingOutputs:
    return EverythingOutputs(**{**dict.fromkeys(EverythingOutputs._fields, gr.skip()), "progress": progress, **others})


def show_phrases(state: AppState, phrases: list[str]) -> EverythingOutputs:
    """Show the masks of these names only."""
    return outputs(state.showing(phrases))


def outputs(state: AppState) -> EverythingOutputs:
    """All that is shown of a state."""
    found = state.instances
    labels = set(found.labels.tolist())
    choices = [choice for choice in views.phrase_choices(found) if choice[1] in labels]
    annotated = gr.update(value=None)
    if state.image is not None:
        colours = views.distinct_colours(len(found))
        color_map = {_label(found, row): colour for row, colour in enumerate(colours)}
        annotated = gr.update(value=largest_masks(state), color_map=color_map)
    return EverythingOutputs(
        state=state,
        progress="",
        status=status_html(state),
        annotated=annotated,
        phrases=gr.update(
            choices=choices,
            value=[phrase for _, phrase in choices if phrase not in state.hidden],
            visible=len(choices) > 1,
        ),
        table=gr.update(value=mask_table(found), visible=len(found) > 0),
        downloads=gr.update(visible=len(found) > 0),
        run=gr.skip(),
    )


def mask_table(instances: Instances) -> list[list[str | int | float | None]]:
    """One row for each mask, by `COLUMNS`."""
    columns = [views.COLUMNS.index(name) for name in ("#", "phrase", "CLIP", "predicted IoU", "area, px")]
    return [[row[column] for column in columns] for row in views.instance_table(instances)]


def largest_masks(state: AppState) -> tuple[Any, list[tuple[np.ndarray, str]]]:
    """The image, and the largest masks that are not hidden as tints in [0, 1] with labels, small ones on top."""
    found = state.instances
    by_size = np.argsort(-rle_area(found.rles), kind="stable").tolist()
    rows = [row for row in by_size if found.labels[row] not in state.hidden][:MAX_SHOWN]
    image, tints = views.annotated_image(replace(state, edits=EditState(found[rows])))
    return image, [(tint, _label(found, row)) for (tint, _), row in zip(tints, rows, strict=True)]


def _label(instances: Instances, row: int) -> str:
    name = str(instances.labels[row])
    return str(row + 1) if name == UNNAMED else f"{row + 1} {name}"  # most are unnamed, and many fill a screen


def status_html(state: AppState) -> str:
    """What was found and what to do next, as HTML."""
    if state.image is None:
        return views.status_html(["Add an image or pick an example, and press Find everything."])
    if state.edits is None:
        return views.status_html(["Press Find everything."])
    lines = [views.found_line(state.instances, "mask", UNNAMED)]
    if len(state.instances) == 0:
        lines.append("Lower the thresholds, or set more points.")
    count = len(views.visible_instances(state))
    if count > MAX_SHOWN:
        lines.append(f"The image shows the {MAX_SHOWN} largest masks; the downloads have all {count}.")
    return views.status_html([*lines, *views.status_lines(state)[1:], views.seconds_line(state)])


def everything_tab(actions: Actions) -> None:
    """Inside a `gr.Tab`: lay out the tab and wire its events."""
    state = gr.State(AppState(), time_to_live=STATE_SECONDS)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = image_input("everything-image")
            names = gr.Textbox(
                label="Names to choose from",
                info="Optional: CLIP gives a mask the one that fits it best, if any does",
                placeholder="dog. pizza. tree",
                lines=2,
                max_lines=6,
                elem_id="everything-names",
            )
            run, cancel = run_and_cancel_buttons("Find everything", "everything-")
            progress = gr.HTML("", padding=False, elem_id="everything-progress")
            example_buttons(image, names, _EXAMPLE_WORDS.for_config(actions.config), "everything-")
            with gr.Accordion("Settings", open=False, elem_id="everything-settings"):
                controls = _search_controls(actions)
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(status_html(AppState()), padding=False, elem_id="everything-status")
            annotated = gr.AnnotatedImage(
                label="Masks", height="auto", buttons=["fullscreen"], elem_id="everything-annotated"
            )
            phrases = gr.CheckboxGroup([], label="Show", visible=False, elem_id="everything-phrases")
            table = gr.Dataframe(
                headers=list(COLUMNS),
                label="Masks",
                interactive=False,
                visible=False,
                buttons=["copy"],
                max_height=400,
                elem_id="everything-table",
            )
            downloads = download_panel(state, "everything-")
    changed = list(
        EverythingOutputs(
            state=state,
            progress=progress,
            status=status,
            annotated=annotated,
            phrases=phrases,
            table=table,
            downloads=downloads,
            run=run,
        )
    )
    search = run.click(
        show_errors(gpu(partial(run_search, actions), duration=120)),
        [state, names, *controls],
        changed,
        show_progress="minimal",
        show_progress_on=[progress],
        api_visibility="private",
        **ONE_AT_A_TIME,
    )
    # After Cancel a press would be ignored until the server has let go.
    search.then(enable_button, None, run, queue=False, **QUIET)
    search.success(None, js=scroll_to_result("everything-status"), **QUIET)
    opened = image.change(
        show_errors(partial(open_image, actions)), image, changed, preprocess=False, cancels=[search], **QUIET
    )
    clear_failed_upload(opened, image)
    cancel.click(lambda: message_html("Cancelled."), None, progress, queue=False, cancels=[search], **QUIET)
    phrases.input(show_errors(show_phrases), [state, phrases], changed, trigger_mode="always_last", **QUIET)


def _search_controls(actions: Actions) -> list[Any]:
    """One control for each setting of `run_search`, in its order, at values that find masks worth showing."""
    config = interactive_defaults(actions.config)
    fallback, least_area = config.fallback, config.refinement.min_mask_region_area
    return [
        gr.Slider(
            1,
            MAX_POINTS_PER_SIDE,
            min(fallback.points_per_side, MAX_POINTS_PER_SIDE),
            step=1,
            label="Points per side",
            info="Of the grid that is prompted; the time grows with its square",
            elem_id="everything-points",
        ),
        gr.Slider(
            0,
            1,
            fallback.pred_iou_thresh,
            step=0.01,
            label="Predicted IoU threshold",
            info="Masks of a lower predicted IoU are dropped",
            elem_id="everything-iou",
        ),
        gr.Slider(
            0,
            1,
            fallback.stability_score_thresh,
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
            info="Searches 4, then 16 more parts of the image for small things; much slower",
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

"""The tab that labels several images by one text, and offers all results in a ZIP."""

import html
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from grounded.data.instances import Instances
from grounded.data.phrases import listed, parse
from grounded.errors import ImageError, PromptError
from grounded.output.draw import draw
from grounded.pipeline import Pipeline, Text
from grounded.ui.actions import Actions
from grounded.ui.components import (
    ONE_AT_A_TIME,
    QUIET,
    STATE_SECONDS,
    enable_button,
    read_settings,
    run_and_cancel_buttons,
    scroll_to_result,
    settings_controls,
)
from grounded.ui.downloads import mask_pngs, open_zip, printable_name, safe_stem
from grounded.ui.errors import log_and_describe, show_errors
from grounded.ui.progress import Deadline, ProgressBar, message_html
from grounded.ui.serving import gpu
from grounded.ui.state import Limits, open_within
from grounded.ui.views import SCREEN_SIDE
from grounded.utils.files import image_bytes, json_bytes, write_atomically

ARCHIVE = "labels.zip"  # in the folder of the run


@dataclass(frozen=True)
class BatchStep:
    """One more image of a batch is done: its overlay, or an error message."""

    done: int  # images so far, this one included
    total: int
    name: str  # of the image's file
    overlay: Path | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()  # lines for the user, such as that the image was scaled down
    instances: int = 0  # how many were found


def label_images(
    pipeline: Pipeline,
    paths: Sequence[str | PathLike[str]],
    text: Text,
    folder: Path,
    limits: Limits,
    **options: Any,
) -> Generator[BatchStep, None, Path]:
    """Find what a text names in each image, and write a ZIP of all results at the end.

    The ZIP holds `annotations.json`, a COCO data set of all images that succeeded; `overlays/` and `masks/`, named
    after the images; and `failures.txt` if images failed. Names that several images share are numbered. Masks and
    boxes are in pixels of an image as it was segmented: if it was scaled down, "images" has a note on it.

    Images are opened one after the other, and nothing of them is held but their annotations. The ZIP takes its place
    when the last one is done; a generator that is closed before leaves none. Overlays stay in `folder` as they are.

    Args:
        pipeline: under the settings of the user.
        paths: of the images.
        text: as in `Pipeline.segment`.
        folder: an empty one, for the ZIP and `overlays/`.
        limits: of single images, of their number, and of the time for all of them. Images whose turn has not come when
            the time is up fail.
        options: more arguments of `Pipeline.segment`, such as `box_threshold`.

    Yields:
        one value for each image, in their order.

    Returns:
        the path of the ZIP, `folder / ARCHIVE`.

    Raises:
        PromptError: no image, more of them than the limits allow, or no phrase in the text.
        OutputError: a file cannot be written.
    """
    if not 0 < len(paths) <= limits.max_images:
        raise PromptError(f"choose from 1 to {limits.max_images} images, got {len(paths)}")
    phrases, deadline = parse(text), Deadline(limits.seconds)
    dataset = Instances.empty(phrases, (1, 1)).to_coco() | {"images": []}
    failures: list[str] = []
    names, stems = set[str](), set[str]()
    with open_zip(folder / ARCHIVE) as write:
        for done, path in enumerate(map(Path, paths), start=1):
            step = BatchStep(done, len(paths), printable_name(path.name))
            try:
                deadline.check()
                source = open_within(path, limits)
                found = pipeline.segment(source, phrases, stopwatch=deadline.split(), **options)
                overlay_png = image_bytes(draw(source, found))
            except Exception as error:  # whatever is wrong with one image must not cost the others
                step = replace(step, error=log_and_describe(error))
                failures.append(f"{' '.join(step.name.split())}: {step.error}\n")
            else:
                stem = _unique(safe_stem(step.name), stems)
                overlay = folder / "overlays" / f"{stem}.png"
                write_atomically(overlay, overlay_png)
                write(f"overlays/{overlay.name}", overlay_png)
                for file_name, data in mask_pngs(found):
                    write(f"masks/{stem}/{file_name}", data)
                _add_to_coco(dataset, found, _unique(step.name, names), source.notes)
                step = replace(step, overlay=overlay, notes=(*source.notes, *found.notes), instances=len(found))
            yield step
        write("annotations.json", json_bytes(dataset))
        if failures:
            write("failures.txt", "".join(failures).encode())
    return folder / ARCHIVE


def _add_to_coco(dataset: dict[str, Any], found: Instances, file_name: str, notes: Sequence[str]) -> None:
    """Add an image to a COCO data set of the same categories, under the next free ids."""
    images, annotations = dataset["images"], dataset["annotations"]
    added = found.to_coco(len(images) + 1, first_annotation_id=len(annotations) + 1, file_name=file_name)
    images += [image | ({"notes": list(notes)} if notes else {}) for image in added["images"]]
    annotations += added["annotations"]


def _unique(name: str, taken: set[str]) -> str:
    """The name, numbered before its ending if it is in `taken`; adds it there."""
    stem, ending = os.path.splitext(name)
    free, number = name, 2
    # Names that differ in upper and lower case alone are the same on some file systems.
    while free.casefold() in taken:
        free, number = f"{stem}-{number}{ending}", number + 1
    taken.add(free.casefold())
    return free


class BatchOutputs(NamedTuple):
    """The components that the events of the tab change, or their values; `gr.skip()` leaves one as it is."""

    folder: Any  # the user's own: a path, "" for none
    progress: Any  # HTML
    gallery: Any
    notices: Any  # HTML
    archive: Any
    run: Any  # the button, disabled while a run is going on


def run_batch(
    actions: Actions,
    folder: str,
    uploads: list[dict[str, Any]] | dict[str, Any] | None,
    text: str,
    *settings: Any,
) -> Iterator[BatchOutputs]:
    """Label uploads, as the browser describes them, under the values of `settings_controls`.

    Files of an earlier run in the user's folder are removed first. Closing the generator ends the run, and keeps the
    images that are shown.

    Yields:
        the progress, with the overlays and failures so far; at the end the path of the ZIP.

    Raises:
        PromptError: no image, more of them than the limits allow, or no phrase in the text.
        ConfigError: the settings do not fit one another.
        OutputError: a file cannot be written.
    """
    # Everything that can be wrong with the query is checked before files of an earlier run are removed.
    paths = upload_paths(uploads, actions.limits.max_images)
    phrases = parse(text)
    pipeline, threshold = actions.with_settings(read_settings(settings))
    remove_folder(folder)
    upload_folder = Path(get_upload_folder())
    upload_folder.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(dir=upload_folder, prefix="batch-")
    bar = ProgressBar("images")
    steps = label_images(pipeline, paths, text, Path(folder), actions.limits, box_threshold=threshold)
    yield BatchOutputs(
        folder=folder,
        progress=bar.at(0, len(paths)),
        gallery=[],
        notices="",
        archive=gr.update(visible=False),
        run=gr.update(interactive=False),
    )
    try:
        failed, archive = yield from _show_steps(steps, bar, folder)
        done = f"Done: {len(paths) - failed} of {len(paths)} images labelled. Phrases: {listed(phrases)}."
        archive_update = gr.update(value=str(archive), visible=True)
        yield _progress_only(message_html(done), archive=archive_update, run=enable_button())
    except Exception:
        yield _progress_only("", run=enable_button())  # no bar may stay where nothing is going on
        raise


def _show_steps(
    steps: Generator[BatchStep, None, Path], bar: ProgressBar, folder: str
) -> Generator[BatchOutputs, None, tuple[int, Path]]:
    """Yields the outputs after each image; returns how many failed, and the path of the ZIP."""
    gallery: list[tuple[str, str]] = []
    lines: list[str] = []
    failed = 0
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return failed, end.value
            if step.overlay is not None:
                gallery.append((_screen_copy(step.overlay, Path(folder)), f"{step.instances} in {step.name}"))
            failed += step.error is not None
            lines += notice_lines(step)
            notices = f'<h2 style="font-size: 1rem">Failures and notes</h2><ul role="log">{"".join(lines)}</ul>'
            progress = bar.at(step.done, step.total) if step.done < step.total else bar.waiting("Packing the ZIP")
            yield _progress_only(progress, gallery=list(gallery), notices=notices if lines else "")


def _progress_only(progress: str, **others: Any) -> BatchOutputs:
    return BatchOutputs(**{**dict.fromkeys(BatchOutputs._fields, gr.skip()), "progress": progress, **others})


def _screen_copy(overlay: Path, folder: Path) -> str:
    """A small copy of an overlay for the gallery. The overlay itself is removed: the ZIP has it at full size."""
    copy = folder / "shown" / f"{overlay.stem}.jpg"
    copy.parent.mkdir(exist_ok=True)
    with Image.open(overlay) as image:
        image.thumbnail((SCREEN_SIDE, SCREEN_SIDE))
        image.convert("RGB").save(copy, quality=85)
    overlay.unlink()
    return str(copy)


def notice_lines(step: BatchStep) -> list[str]:
    """The error and the notes of an image, as HTML list items."""
    error = [] if step.error is None else [f"failed: {step.error}"]
    return [f"<li><strong>{html.escape(step.name)}</strong> {html.escape(line)}</li>" for line in (*error, *step.notes)]


def upload_paths(uploads: list[dict[str, Any]] | dict[str, Any] | None, max_images: int) -> list[str]:
    """The paths of uploads, as the browser describes them.

    Raises:
        PromptError: there are none, or more than `max_images`.
        ImageError: not uploaded files.
    """
    files = uploads if isinstance(uploads, list) else [uploads] if uploads else []
    if not files:
        raise PromptError("there are no images yet: add some")
    if len(files) > max_images:
        raise PromptError(f"at most {max_images} images at once, got {len(files)}: remove some, or label them in parts")
    if not all(isinstance(file, dict) and file.get("path") for file in files):
        raise ImageError("the images must be uploaded files")
    return [file["path"] for file in files]


def remove_folder(folder: str) -> None:
    """Remove a user's folder, if there is one."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def cancel_message() -> str:
    """The progress line after a user has cancelled."""
    return message_html("Cancelled. The images that were done are shown, but there is no ZIP of them.")


def batch_tab(actions: Actions) -> None:
    """Inside a `gr.Tab`: lay out the tab and wire its events."""
    folder = gr.State("", time_to_live=STATE_SECONDS, delete_callback=remove_folder)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            uploads = gr.File(
                label=f"Images, at most {actions.limits.max_images}",
                file_count="multiple",
                file_types=["image"],
                height=220,
                elem_id="batch-images",
            )
            text = gr.Textbox(
                label="What to find in all of them",
                info="Phrases, split by full stops, commas or line ends",
                placeholder="a dog. pizza",
                lines=2,
                max_lines=6,
                elem_id="batch-text",
            )
            run, cancel = run_and_cancel_buttons("Label all", "batch-")
            hint = message_html("Add images, say what to find, and press Label all.")
            progress = gr.HTML(hint, padding=False, elem_id="batch-progress")
            with gr.Accordion("Settings", open=False, elem_id="batch-settings"):
                controls = settings_controls(actions, "batch-")
        with gr.Column(scale=3, min_width=320):
            archive = gr.DownloadButton(
                "Download the ZIP: COCO JSON, masks and overlays",
                variant="primary",
                visible=False,
                elem_id="batch-archive",
            )
            gallery = gr.Gallery(
                label="Overlays",
                columns=2,
                height="auto",
                object_fit="contain",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="batch-gallery",
            )
            notices = gr.HTML("", padding=False, elem_id="batch-notices")
    changed = BatchOutputs(folder=folder, progress=progress, gallery=gallery, notices=notices, archive=archive, run=run)
    labelling = run.click(
        show_errors(gpu(partial(run_batch, actions), duration=120)),
        [folder, uploads, text, *controls],
        list(changed),
        preprocess=False,  # a file that is no image must not keep the others from being labelled
        show_progress="minimal",
        show_progress_on=[progress],
        api_visibility="private",
        **ONE_AT_A_TIME,
    )
    # After Cancel a press would be ignored until the server has let go.
    labelling.then(enable_button, None, run, queue=False, **QUIET)
    labelling.success(None, js=scroll_to_result("batch-gallery"), **QUIET)
    cancel.click(cancel_message, None, progress, queue=False, cancels=[labelling], **QUIET)

"""The tab that labels several pictures by one text, and hands out all answers in a ZIP."""

import html
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from grounded.data.phrases import parse
from grounded.errors import ImageError, PromptError
from grounded.ui.controls import controls
from grounded.ui.events import options_at
from grounded.ui.inputs import ONE_BY_ONE, QUIET, STATE_SECONDS, rested, run_and_cancel, show_where_columns_stack
from grounded.ui.messages import spoken
from grounded.ui.progress import Line, words
from grounded.ui.serving import gpu
from grounded.ui.several import Progress, label_pictures
from grounded.ui.studio import Studio

_SHOWN_SIDE = 1024  # pixels of the longer side in the gallery; the ZIP has the overlays at full size


class Shown(NamedTuple):
    """What the events answer with: values or updates of components; `gr.skip()` for what stays as it is."""

    folder: Any  # the user's own: a path, "" for none
    progress: Any  # HTML
    gallery: Any
    notices: Any  # HTML
    archive: Any
    start: Any  # the button, which rests while a run goes on


def run(
    studio: Studio,
    folder: str,
    uploads: list[dict[str, Any]] | dict[str, Any] | None,
    text: str,
    *settings: Any,
) -> Iterator[Shown]:
    """Label uploads, as the browser tells of them, under the position of the controls.

    What an earlier run left in the user's folder is removed first. Closing the generator ends the run, and leaves the
    pictures that are shown.

    Yields:
        how far it is, with the overlays and failures so far; at the end the path of the ZIP.

    Raises:
        PromptError: no picture, more of them than the limits allow, or no phrase in the text.
        ConfigError: the options do not fit one another.
        OutputError: a file cannot be written.
    """
    paths = checked(uploads, studio.limits.max_pictures)
    parse(text)  # told before anything of an earlier run is removed, as all that is wrong with the question
    options, line = options_at(settings), Line("pictures")
    pipeline = options.adjust(studio.pipeline)
    remove(folder)
    folder = _new_folder()
    steps = label_pictures(pipeline, paths, text, Path(folder), studio.limits, box_threshold=options.box_threshold)
    yield Shown(folder, line.at(0, len(paths)), [], "", gr.update(visible=False), gr.update(interactive=False))
    try:
        failed, archive = yield from _told(steps, line, folder)
        done = f"Done: {len(paths) - failed} of {len(paths)} pictures labelled."
        yield _going_on(words(done), archive=gr.update(value=str(archive), visible=True), start=rested())
    except Exception:
        yield _going_on("", start=rested())  # a bar must not stand where nothing goes on
        raise


def stopped() -> str:
    """The progress line after a user has cancelled."""
    return words("Cancelled. What was done until then is shown, but there is no ZIP of it.")


def remove(folder: str) -> None:
    """Remove a user's folder, if there is one."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def notices(step: Progress) -> list[str]:
    """What a user should know of a picture, as HTML lines."""
    failed = [] if step.error is None else [f"failed: {step.error}"]
    return [
        f"<li><strong>{html.escape(step.name)}</strong> {html.escape(what)}</li>" for what in (*failed, *step.notes)
    ]


def checked(uploads: list[dict[str, Any]] | dict[str, Any] | None, most: int) -> list[str]:
    """The paths of uploads, as the browser tells of them.

    Raises:
        PromptError: there are none, or more than `most`.
        ImageError: not uploaded files.
    """
    files = uploads if isinstance(uploads, list) else [uploads] if uploads else []
    if not files:
        raise PromptError("there are no pictures yet: add some")
    if len(files) > most:
        raise PromptError(f"at most {most} pictures at once, got {len(files)}: remove some, or label them in parts")
    if not all(isinstance(file, dict) and file.get("path") for file in files):
        raise ImageError("the pictures must be uploaded files")
    return [file["path"] for file in files]


def _told(steps: Generator[Progress, None, Path], line: Line, folder: str) -> Generator[Shown, None, tuple[int, Path]]:
    """What is shown after each picture; returns how many failed, and the path of the ZIP."""
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
                gallery.append((_for_the_screen(step.overlay, Path(folder)), f"{step.instances} in {step.name}"))
            failed += step.error is not None
            lines += notices(step)
            told = (
                f'<h2 style="font-size: 1rem">Failures and notes</h2><ul role="log">{"".join(lines)}</ul>'
                if lines
                else ""
            )
            done = line.at(step.done, step.total) if step.done < step.total else line.waiting("Packing the ZIP")
            yield _going_on(done, gallery=list(gallery), notices=told)


def _for_the_screen(overlay: Path, folder: Path) -> str:
    """A small copy of an overlay, which is removed: at full size it is in the ZIP."""
    shown = folder / "shown" / f"{overlay.stem}.jpg"
    shown.parent.mkdir(exist_ok=True)
    with Image.open(overlay) as picture:
        picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        picture.convert("RGB").save(shown, quality=85)
    overlay.unlink()
    return str(shown)


def _new_folder() -> str:
    """A new folder among those that the server empties."""
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(dir=uploads, prefix="several-")


def _going_on(progress: str, **shown: Any) -> Shown:
    return Shown(**{**dict.fromkeys(Shown._fields, gr.skip()), "progress": progress, **shown})


def several_tab(studio: Studio) -> None:
    """Inside a `gr.Tab`: lay out the tab and wire its events."""
    folder = gr.State("", time_to_live=STATE_SECONDS, delete_callback=remove)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            uploads = gr.File(
                label=f"Pictures, at most {studio.limits.max_pictures}",
                file_count="multiple",
                file_types=["image"],
                height=220,
                elem_id="several-pictures",
            )
            text = gr.Textbox(
                label="What to find in all of them",
                info="Phrases, split by full stops, commas or line ends",
                placeholder="a dog. pizza",
                lines=2,
                max_lines=6,
                elem_id="several-text",
            )
            start, cancel = run_and_cancel("Label all", "several-")
            progress = gr.HTML(
                words("Add pictures, say what to find, and press Label all."), padding=False, elem_id="several-progress"
            )
            with gr.Accordion("Settings", open=False, elem_id="several-settings"):
                settings = controls(studio, "several-")
        with gr.Column(scale=3, min_width=320):
            archive = gr.DownloadButton(
                "Download the ZIP: COCO JSON, masks and overlays",
                variant="primary",
                visible=False,
                elem_id="several-archive",
            )
            gallery = gr.Gallery(
                label="Overlays",
                columns=2,
                height="auto",
                object_fit="contain",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="several-gallery",
            )
            notes = gr.HTML("", padding=False, elem_id="several-notices")
    labelling = start.click(
        spoken(gpu(partial(run, studio), duration=120)),
        [folder, uploads, text, *settings],
        list(Shown(folder, progress, gallery, notes, archive, start)),
        preprocess=False,  # a file that is no picture must not keep the others from being labelled
        show_progress="minimal",
        show_progress_on=[progress],
        api_visibility="private",
        **ONE_BY_ONE,
    )
    # After Cancel a press would count for nothing until the server has let go.
    labelling.then(rested, None, start, queue=False, **QUIET)
    labelling.success(None, js=show_where_columns_stack("several-gallery"), **QUIET)
    cancel.click(stopped, None, progress, queue=False, cancels=[labelling], **QUIET)

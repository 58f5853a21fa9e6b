"""What a user downloads of one clip: annotated video, masks, boxes and records, and the buttons for it."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from grounded.errors import PromptError
from grounded.ui.clips import closing_iterator
from grounded.ui.components import QUIET
from grounded.ui.downloads import FETCH, open_zip, safe_stem
from grounded.ui.errors import show_errors
from grounded.ui.progress import Deadline
from grounded.ui.state import Limits
from grounded.ui.tracking import ClipState
from grounded.utils.files import open_atomically, output_errors
from grounded.video.clip import ClipInfo
from grounded.video.output.annotate import annotated_clip
from grounded.video.output.coco_video import coco_video_file
from grounded.video.output.mask_folder import mask_folder
from grounded.video.output.mot import mot_file
from grounded.video.output.write import Output, Write, with_images, write_outputs
from grounded.video.tracks import TrackedFrame


@contextmanager
def mask_zip(path: Path) -> Iterator[Write]:
    """Write a ZIP of what `mask_folder` writes.

    Raises:
        OutputError: as `mask_folder`.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        masks = Path(folder) / "masks"
        with mask_folder(masks) as write:
            yield write
        with open_zip(path) as add:
            for file in sorted(masks.iterdir()):
                add(file.name, file.read_bytes())


@contextmanager
def record_file(path: Path) -> Iterator[Write]:
    """Write one line of JSON for each frame, which `TrackedFrame.from_dict` reads.

    Raises:
        OutputError: the file cannot be written.
    """
    with open_atomically(path) as file:

        def write(frame: TrackedFrame, image: Image.Image) -> None:
            with output_errors(path):
                file.write(json.dumps(frame.to_dict(), ensure_ascii=False).encode() + b"\n")

        yield write


# Part of the id of a button -> its text, the end of the file's name, and what opens the output.
VIDEO_DOWNLOADS: dict[str, tuple[str, str, Callable[[Path, ClipInfo], Output]]] = {
    "video": ("Annotated MP4", "-tracks.mp4", annotated_clip),
    "masks": ("Masks, DAVIS", "-masks.zip", lambda path, info: mask_zip(path)),
    "mot": ("MOT", "-mot.txt", lambda path, info: mot_file(path)),
    "coco": ("COCO video", "-coco-video.json", coco_video_file),
    "records": ("Records", "-records.jsonl", lambda path, info: record_file(path)),
}


def write_clip_download(state: ClipState, kind: str, limits: Limits) -> str:
    """Write one of `VIDEO_DOWNLOADS` into a new folder among those that the server empties; returns the file's path.

    Raises:
        PromptError: there is no clip, or nothing was followed yet.
        VideoError: a frame cannot be read.
        OutputError: it cannot be written.
        TimeLimitError: the time is up.
    """
    clip = state.require_clip()
    if not state.frames:
        raise PromptError("there is nothing to download: nothing was followed yet")
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    _, ending, opened = VIDEO_DOWNLOADS[kind]
    path = Path(tempfile.mkdtemp(dir=uploads)) / f"{safe_stem(state.name)}{ending}"
    deadline, frames = Deadline(limits.seconds), (state.frames[number] for number in sorted(state.frames))
    with closing_iterator(write_outputs(with_images(clip, frames), [opened(path, clip.info)])) as written:
        for _ in written:
            deadline.check()
    return str(path)


def clip_download_panel(state: gr.State, limits: Limits) -> gr.Column:
    """Inside a layout: lay out and wire the buttons for a `ClipState`; returns their column, not visible yet.

    A file is written when its button is pressed.
    """
    with gr.Column(visible=False, elem_id="video-downloads") as panel:
        gr.Markdown("Download all frames", elem_classes="caption")
        with gr.Row(elem_classes="buttons"):
            buttons = {
                kind: gr.Button(text, size="md", min_width=120, elem_id=f"video-download-{kind}")
                for kind, (text, _, _) in VIDEO_DOWNLOADS.items()
            }
        file = gr.DownloadButton(visible=False, elem_id="video-downloaded")
    for kind, button in buttons.items():
        write = show_errors(partial(write_clip_download, kind=kind, limits=limits))
        written = button.click(write, state, file, show_progress_on=button, **{**QUIET, "show_progress": "minimal"})
        written.success(None, file, None, js=FETCH, **QUIET)
    return panel

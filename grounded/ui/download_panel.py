"""Buttons that take away what is shown: written when they are pressed, and not before."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import PromptError
from grounded.ui import downloads, views
from grounded.ui.messages import spoken
from grounded.ui.page import Page

Write = Callable[[SourceImage, Instances, Path, str], Path]

KINDS: dict[str, tuple[str, Write]] = {
    "overlay": ("Overlay", downloads.overlay),
    "cutouts": ("Cut-outs", downloads.cutouts_zip),
    "masks": ("Masks", downloads.masks_zip),
    "coco": ("COCO JSON", downloads.coco_json),
    "labelme": ("LabelMe JSON", downloads.labelme_json),
}
# A download button fetches what was there before it was pressed; a link to what is there now does not.
_FETCH = """(file) => {
  const link = Object.assign(document.createElement("a"), {href: file.url, download: file.orig_name});
  document.body.append(link);
  link.click();
  link.remove();
}"""


def download_panel(page: Any, prefix: str = "") -> Any:
    """Inside a layout: lay out and wire the buttons for the state `page`; returns their layout, not visible yet.

    `prefix` keeps their ids apart from those of another tab.
    """
    with gr.Column(visible=False, elem_id=f"{prefix}downloads") as panel:
        gr.Markdown("Download what is shown", elem_classes="caption")
        with gr.Row(elem_classes="buttons"):
            buttons = {
                kind: gr.Button(name, size="md", min_width=120, elem_id=f"{prefix}download-{kind}")
                for kind, (name, _) in KINDS.items()
            }
        file = gr.DownloadButton(visible=False, elem_id=f"{prefix}downloaded")
    for kind, button in buttons.items():
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        written = button.click(spoken(_writer(kind)), page, file, show_progress_on=button, **quiet)
        written.success(None, file, None, js=_FETCH, **quiet)
    return panel


def written(page: Page, kind: str) -> str:
    """Write one of `KINDS` into a new folder among those that the server empties; returns the file's path.

    Raises:
        PromptError: there is no picture, or no instance is shown.
        OutputError: it cannot be written.
    """
    session = page.session
    shown = views.shown(session.instances, page.hidden)
    if len(shown) == 0:
        raise PromptError("there is nothing to download: no instance is shown")
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    _, write = KINDS[kind]
    return str(write(session.opened, shown, Path(tempfile.mkdtemp(dir=uploads)), session.name))


def _writer(kind: str) -> Callable[[Page], str]:
    return lambda page: written(page, kind)

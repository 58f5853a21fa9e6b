"""What a user downloads of one image, overlay, cut-outs, masks and annotations, and the buttons for it.

Every `write_*` function writes one file into `folder`, complete or not at all, over one of the same name, and returns
its path. Files are named after `name`, that of the image as the user knows it, without characters that could do harm.

All of them raise
    ImageError: the image is not of the size that the instances are of.
    OutputError: the file cannot be written.
"""

import os
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ImageError, PromptError
from grounded.labelling.formats import labelme
from grounded.output.cutouts import cutouts
from grounded.output.draw import draw
from grounded.output.polygons import TOLERANCE
from grounded.output.write import mask_name
from grounded.ui.components import QUIET
from grounded.ui.errors import show_errors
from grounded.ui.state import AppState
from grounded.ui.views import visible_instances
from grounded.utils.files import image_bytes, json_bytes, output_errors, write_atomically
from segany.utils.rle import decode_rle

# Besides letters, marks and digits, these are safe in a name for every file system, ZIP and URL.
_SAFE = " .,()+-_"
_MAX_BYTES = 80  # of a stem, which leaves room for what is put before and after it
# Windows accepts no files of these names, with any ending.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
# A download button fetches the file that it had before it was pressed; a link fetches the one that it has now.
FETCH = """(file) => {
  const link = Object.assign(document.createElement("a"), {href: file.url, download: file.orig_name});
  document.body.append(link);
  link.click();
  link.remove();
}"""


def write_overlay(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write the image with the instances drawn over it, as a PNG."""
    return _write(folder / f"{safe_stem(name)}-overlay.png", image_bytes(draw(source, instances)))


def write_cutouts(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write a ZIP with one transparent PNG per instance, cut to its box and named by rank and phrase."""
    _check_size(source, instances)
    path = folder / f"{safe_stem(name)}-cutouts.zip"
    with open_zip(path) as write:
        for rank, instance in enumerate(instances):  # one by one: all of them may take far more than the image
            write(mask_name(rank, str(instance.labels[0])), image_bytes(cutouts(source, instance)[0]))
    return path


def write_masks(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write a ZIP with one PNG per instance, of the size of the image, 255 inside and 0 outside."""
    _check_size(source, instances)
    path = folder / f"{safe_stem(name)}-masks.zip"
    with open_zip(path) as write:
        for file_name, data in mask_pngs(instances):
            write(file_name, data)
    return path


def write_coco(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write a COCO data set of one image, with run-length encoded masks; see `Instances.to_coco`."""
    _check_size(source, instances)
    data = instances.to_coco(file_name=_image_file_name(source, name))
    return _write(folder / f"{safe_stem(name)}-coco.json", json_bytes(data))


def write_labelme(
    source: SourceImage,
    instances: Instances,
    folder: Path,
    name: str,
    embedded: bool = True,
    tolerance: float = TOLERANCE,
) -> Path:
    """Write an annotation file of LabelMe 5 and 6: the polygons of each instance, which share its number as group.

    LabelMe has no holes: a ring goes into each hole and back by the same way, see `polygons.join_holes`. An instance
    without pixels has no shape. "description" holds the score.

    Args:
        source: the image.
        instances: of that image.
        folder: where to write.
        name: of the image.
        embedded: put the image into the file. Without it LabelMe looks for it beside the file, and refuses one of
            another size, such as the original of an image that was scaled down.
        tolerance: of the polygons, in pixels; see `polygons.mask_to_polygons`.
    """
    _check_size(source, instances)
    data = labelme.annotation_file(
        _image_file_name(source, name),
        instances.image_size,
        labelme.polygon_shapes(instances, tolerance=tolerance),
        image_bytes(source.pixels) if embedded else None,
    )
    # LabelMe finds the annotations of an image by its name.
    return _write(folder / f"{safe_stem(name)}.json", json_bytes(data))


Write = Callable[[SourceImage, Instances, Path, str], Path]
# Part of the id of a button -> its text and its function.
DOWNLOADS: dict[str, tuple[str, Write]] = {
    "overlay": ("Overlay", write_overlay),
    "cutouts": ("Cut-outs", write_cutouts),
    "masks": ("Masks", write_masks),
    "coco": ("COCO JSON", write_coco),
    "labelme": ("LabelMe JSON", write_labelme),
}


def download_panel(state: gr.State, prefix: str = "") -> gr.Column:
    """Inside a layout: lay out and wire the buttons for an `AppState`; returns their column, not visible yet.

    A file is written when its button is pressed. `prefix` keeps the ids apart from those of another tab.
    """
    with gr.Column(visible=False, elem_id=f"{prefix}downloads") as panel:
        gr.Markdown("Download what is shown", elem_classes="caption")
        with gr.Row(elem_classes="buttons"):
            buttons = {
                kind: gr.Button(text, size="md", min_width=120, elem_id=f"{prefix}download-{kind}")
                for kind, (text, _) in DOWNLOADS.items()
            }
        file = gr.DownloadButton(visible=False, elem_id=f"{prefix}downloaded")
    for kind, button in buttons.items():
        written = button.click(
            show_errors(partial(write_download, kind=kind)), state, file, show_progress_on=button, **QUIET
        )
        written.success(None, file, None, js=FETCH, **QUIET)
    return panel


def write_download(state: AppState, kind: str) -> str:
    """Write one of `DOWNLOADS` into a new folder among those that the server empties; returns the file's path.

    Raises:
        PromptError: there is no image, or no instance is shown.
        OutputError: it cannot be written.
    """
    visible = visible_instances(state)
    if len(visible) == 0:
        raise PromptError("there is nothing to download: no instance is shown")
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    _, write = DOWNLOADS[kind]
    return str(write(state.require_image(), visible, Path(tempfile.mkdtemp(dir=uploads)), state.name))


def mask_pngs(instances: Instances) -> Iterator[tuple[str, bytes]]:
    """For each instance a file name by rank and phrase, and a PNG of the image's size, 255 inside and 0 outside."""
    for rank, (rle, label) in enumerate(zip(instances.rles, instances.labels, strict=True)):
        mask = decode_rle([rle])[0].numpy().astype(np.uint8) * 255
        yield mask_name(rank, str(label)), image_bytes(Image.fromarray(mask))


def safe_stem(name: str) -> str:
    """Return an image's name without its ending and without harmful characters: "a/b: c.jpg" -> "a-b- c"."""
    stem, ending = os.path.splitext(name)
    text = unicodedata.normalize("NFC", stem if _is_image_suffix(ending) else name)
    safe = "".join(c if c in _SAFE or unicodedata.category(c)[0] in "LMN" else "-" for c in text)
    short = safe.strip(" .-").encode()[:_MAX_BYTES].decode(errors="ignore").strip(" .-")
    if short.partition(".")[0].lower() in _DEVICES:
        return f"image-{short}"
    return short or "image"


def printable_name(name: str) -> str:
    """Return the name of a file without folders, and "?" for bytes in it that are no text."""
    return os.path.basename(name).encode(errors="replace").decode()


@contextmanager
def open_zip(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """A new ZIP that replaces an older one at the end of the `with` statement.

    Yields `write(name, data)`, which holds nothing in memory; files named .png are stored, all others deflated. If the
    body of the `with` statement fails, also by an interrupt, nothing of the new ZIP stays.

    Raises:
        OutputError: the file cannot be written or put in its place.
    """
    with ExitStack() as cleanup:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Files in there have the mode that a plain open() gives, unlike a temporary file.
            folder = cleanup.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix="."))
            temporary = Path(folder) / "zip"
            archive = zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED)
        cleanup.callback(_close_quietly, archive)

        def write(name: str, data: bytes) -> None:
            with output_errors(path):
                archive.writestr(name, data, zipfile.ZIP_STORED if name.endswith(".png") else None)

        yield write
        with output_errors(path):
            archive.close()
            os.replace(temporary, path)


def _close_quietly(archive: zipfile.ZipFile) -> None:
    with suppress(OSError):  # of a full disk, which was raised by the write already
        archive.close()


def _write(path: Path, data: bytes) -> Path:
    write_atomically(path, data)
    return path


def _image_file_name(source: SourceImage, name: str) -> str:
    """The name of the image in annotations: with the ending of its file, which `name` may lack."""
    text = printable_name(name) or "image"
    suffix = source.path.suffix if source.path else ""
    return text if _is_image_suffix(os.path.splitext(text)[1]) else text + (suffix or ".png")


def _check_size(source: SourceImage, instances: Instances) -> None:
    if source.size != instances.image_size:
        raise ImageError(f"the image must be of (height, width) {instances.image_size}, got {source.size}")


def _is_image_suffix(suffix: str) -> bool:
    return suffix.lower() in Image.registered_extensions()

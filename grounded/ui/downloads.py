"""What a user takes away of one picture: an overlay, cut-outs, masks, and annotations for other programs.

Every function writes one file into `folder`, complete or not at all, over one of the same name, and returns its path.
Files are named after `name`, that of the picture as the user knows it, of which only harmless characters are kept.

All raise
    ImageError: the picture is not of the size that the instances are of.
    OutputError: the file cannot be written.
"""

import os
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ImageError
from grounded.labelling.formats import labelme_write as labelme
from grounded.output.cutouts import cutouts
from grounded.output.draw import draw
from grounded.output.polygons import TOLERANCE
from grounded.output.write import mask_name, png_bytes
from grounded.utils.files import explained, json_bytes, write_atomically
from segany.utils.rle import decode_rle

# What else than letters, marks and digits may stand in a name: no file system, ZIP or address minds it.
_HARMLESS = " .,()+-_"
_LONGEST = 80  # bytes, which leaves room for what is put before and after it
# Windows takes no such files, whatever their ending.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def overlay(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write the picture with the instances drawn over it, as a PNG."""
    return _written(folder / f"{file_stem(name)}-overlay.png", png_bytes(draw(source, instances)))


def cutouts_zip(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write a ZIP with one transparent PNG per instance, cut to its box and named by rank and phrase."""
    _check_size(source, instances)
    path = folder / f"{file_stem(name)}-cutouts.zip"
    with zip_written(path) as write:
        for rank, instance in enumerate(instances):  # one by one: all of them may take far more than the picture
            write(mask_name(rank, str(instance.labels[0])), png_bytes(cutouts(source, instance)[0]))
    return path


def masks_zip(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write a ZIP with one PNG per instance, of the size of the picture, 255 inside and 0 outside."""
    _check_size(source, instances)
    path = folder / f"{file_stem(name)}-masks.zip"
    with zip_written(path) as write:
        for mask, data in mask_files(instances):
            write(mask, data)
    return path


def coco_json(source: SourceImage, instances: Instances, folder: Path, name: str) -> Path:
    """Write a COCO data set of one picture, with run-length encoded masks; see `Instances.to_coco`."""
    _check_size(source, instances)
    data = instances.to_coco(file_name=_file_name(source, name))
    return _written(folder / f"{file_stem(name)}-coco.json", json_bytes(data))


def labelme_json(
    source: SourceImage,
    instances: Instances,
    folder: Path,
    name: str,
    embedded: bool = True,
    tolerance: float = TOLERANCE,
) -> Path:
    """Write an annotation file of LabelMe 5 and 6: the polygons of each instance, which share its number as group.

    LabelMe knows no holes: a ring goes into each hole and back by the same way, see `polygons.joined`. An instance
    without pixels has no shape. "description" holds the score.

    Args:
        source: the picture.
        instances: of that picture.
        folder: where to write.
        name: of the picture.
        embedded: put the picture into the file. Without, LabelMe looks for it beside the file, and refuses one of
            another size, such as the original of a picture that was scaled down.
        tolerance: of the polygons, in pixels; see `polygons.mask_to_polygons`.
    """
    _check_size(source, instances)
    data = labelme.annotation(
        _file_name(source, name),
        instances.image_size,
        labelme.polygons(instances, tolerance=tolerance),
        png_bytes(source.pixels) if embedded else None,
    )
    # LabelMe finds the annotations of a picture by its name.
    return _written(folder / f"{file_stem(name)}.json", json_bytes(data))


def mask_files(instances: Instances) -> Iterator[tuple[str, bytes]]:
    """For each instance a file name by rank and phrase, and a PNG of the image's size, 255 inside and 0 outside."""
    for rank, (rle, label) in enumerate(zip(instances.rles, instances.labels, strict=True)):
        mask = decode_rle([rle])[0].numpy().astype(np.uint8) * 255
        yield mask_name(rank, str(label)), png_bytes(Image.fromarray(mask))


def file_stem(name: str) -> str:
    """Return what is harmless of a picture's name, without its ending: "a/b: c.jpg" -> "a-b- c"."""
    stem, ending = os.path.splitext(name)
    plain = unicodedata.normalize("NFC", stem if _is_of_pictures(ending) else name)
    kept = "".join(c if c in _HARMLESS or unicodedata.category(c)[0] in "LMN" else "-" for c in plain)
    short = kept.strip(" .-").encode()[:_LONGEST].decode(errors="ignore").strip(" .-")
    if short.partition(".")[0].lower() in _DEVICES:
        return f"picture-{short}"
    return short or "picture"


def printable(name: str) -> str:
    """Return the name of a file without folders, and "?" for bytes in it that are no text."""
    return os.path.basename(name).encode(errors="replace").decode()


@contextmanager
def zip_written(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """A ZIP that takes its place at the end, over an older one.

    Yields `write(name, data)`, which holds nothing in memory; what is named .png is stored, all else deflated. Where
    the body of the `with` statement fails, also by an interrupt, nothing of it stays.

    Raises:
        OutputError: the file cannot be written or put in its place.
    """
    with ExitStack() as undo:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Files in there have the mode that a plain open() gives, unlike a temporary file.
            folder = undo.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix="."))
            temporary = Path(folder) / "zip"
            archive = zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED)
        undo.callback(_let_go, archive)

        def write(name: str, data: bytes) -> None:
            with explained(path):
                archive.writestr(name, data, zipfile.ZIP_STORED if name.endswith(".png") else None)

        yield write
        with explained(path):
            archive.close()
            os.replace(temporary, path)


def _let_go(archive: zipfile.ZipFile) -> None:
    with suppress(OSError):  # a full disk, of which is told elsewhere
        archive.close()


def _written(path: Path, data: bytes) -> Path:
    write_atomically(path, data)
    return path


def _file_name(source: SourceImage, name: str) -> str:
    """What a picture is called in annotations: with the ending of its file, which `name` may lack."""
    text = printable(name) or "picture"
    ending = source.path.suffix if source.path else ""
    return text if _is_of_pictures(os.path.splitext(text)[1]) else text + (ending or ".png")


def _check_size(source: SourceImage, instances: Instances) -> None:
    if source.size != instances.image_size:
        raise ImageError(f"the image must be of (height, width) {instances.image_size}, got {source.size}")


def _is_of_pictures(ending: str) -> bool:
    return ending.lower() in Image.registered_extensions()

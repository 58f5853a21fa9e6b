"""Several pictures, one text: each is labelled by itself, and all are taken away together."""

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.errors import PromptError
from grounded.output.draw import draw
from grounded.output.write import png_bytes
from grounded.pipeline import Pipeline, Text
from grounded.ui.deadline import Deadline
from grounded.ui.downloads import file_stem, mask_files, printable, zip_written
from grounded.ui.limits import Limits, fit
from grounded.ui.messages import reported
from grounded.utils.files import json_bytes, write_atomically

ARCHIVE = "labels.zip"  # in the folder that is given


@dataclass(frozen=True)
class Progress:
    """One more picture is done: its overlay, or in plain words why it has none."""

    done: int  # pictures so far, this one too
    total: int
    name: str  # of the picture's file
    overlay: Path | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()  # lines for the user, such as that the picture was scaled down
    instances: int = 0  # how many were found


def label_pictures(
    pipeline: Pipeline,
    paths: Sequence[str | PathLike[str]],
    text: Text,
    folder: Path,
    limits: Limits,
    **settings: Any,
) -> Generator[Progress, None, Path]:
    """Find what a text names in each picture, and write a ZIP of all answers at the end.

    The ZIP holds `annotations.json`, a COCO data set of all pictures that succeeded; `overlays/` and `masks/`, named
    after the pictures; and `failures.txt` where pictures failed. Names that several pictures share are numbered. Masks
    and boxes are in pixels of a picture as it was segmented: where it was scaled down, "images" has a note on it.

    Pictures are opened one after the other, and nothing is held of them but their annotations. The ZIP takes its place
    when the last one is done; a generator that is closed before leaves none. Overlays stay in `folder` as they are.

    Args:
        pipeline: as adjusted.
        paths: of the pictures.
        text: as in `Pipeline.segment`.
        folder: an empty one, for the ZIP and `overlays/`.
        limits: of single pictures, of their number, and of the time for all of them. Pictures whose turn has not come
            when the time is up fail.
        settings: more arguments of `Pipeline.segment`, such as `box_threshold`.

    Yields:
        one value for each picture, in their order.

    Returns:
        the path of the ZIP, `folder / ARCHIVE`.

    Raises:
        PromptError: no picture, more of them than the limits allow, or no phrase in the text.
        OutputError: a file cannot be written.
    """
    if not 0 < len(paths) <= limits.max_pictures:
        raise PromptError(f"choose from 1 to {limits.max_pictures} pictures, got {len(paths)}")
    phrases, deadline = parse(text), Deadline(limits.seconds)
    dataset = Instances.empty(phrases, (1, 1)).to_coco() | {"images": []}
    failures: list[str] = []
    names, stems = set[str](), set[str]()
    with zip_written(folder / ARCHIVE) as write:
        for done, path in enumerate(map(Path, paths), start=1):
            step = Progress(done, len(paths), printable(path.name))
            try:
                deadline.check()
                source = fit(path, limits)
                found = pipeline.segment(source, phrases, deadline.lap(), **settings)
                drawn = png_bytes(draw(source, found))
            except Exception as error:  # whatever is wrong with one picture must not cost the others
                step = replace(step, error=reported(error))
                failures.append(f"{' '.join(step.name.split())}: {step.error}\n")
            else:
                stem = _unique(file_stem(step.name), stems)
                overlay = folder / "overlays" / f"{stem}.png"
                write_atomically(overlay, drawn)
                write(f"overlays/{overlay.name}", drawn)
                for mask, data in mask_files(found):
                    write(f"masks/{stem}/{mask}", data)
                _extend(dataset, found, _unique(step.name, names), source.notes)
                step = replace(step, overlay=overlay, notes=source.notes, instances=len(found))
            yield step
        write("annotations.json", json_bytes(dataset))
        if failures:
            write("failures.txt", "".join(failures).encode())
    return folder / ARCHIVE


def _extend(dataset: dict[str, Any], found: Instances, file_name: str, notes: Sequence[str]) -> None:
    """Add a picture to a COCO data set of the same categories, under the next free ids."""
    images, annotations = dataset["images"], dataset["annotations"]
    one = found.to_coco(len(images) + 1, first_annotation_id=len(annotations) + 1, file_name=file_name)
    images += [image | ({"notes": list(notes)} if notes else {}) for image in one["images"]]
    annotations += one["annotations"]


def _unique(name: str, taken: set[str]) -> str:
    """The name, numbered before its ending where it is taken already; now it is."""
    stem, ending = os.path.splitext(name)
    free, number = name, 2
    # Names that differ in upper and lower case alone are the same on some file systems.
    while free.casefold() in taken:
        free, number = f"{stem}-{number}{ending}", number + 1
    taken.add(free.casefold())
    return free

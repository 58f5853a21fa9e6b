"""CVAT for images 1.1: one XML file, with masks, which say parts and holes.

    annotations.xml   to be uploaded as annotations of a task on the same pictures
    labels.json       to be pasted as raw labels when the task is made
    images/           with copies of the pictures

A mask is the box around its pixels, and run lengths in that box, row by row, the first of them of background. Masks lie
upon one another by `z_order`, the best score on top. CVAT shows pictures upright, as the annotations have them.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from grounded.data.instances import Instances
from grounded.labelling.formats import pictures
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.formats.xml import element, plain
from grounded.labelling.records import Record
from grounded.utils.files import explained
from grounded.utils.folders import opened, write_file
from segany.utils.rle import RLE, decode_rle

_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'


def write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write `annotations.xml`; see `grounded.labelling.formats.exporting.Write`."""
    lost: Counter[str] = Counter()
    names, numbers = pictures.Names(lost), numbered(classes)
    write_file(folder / "labels.json", _labels_json(classes))
    count, body = 0, folder / ".images.xml"
    with opened(body) as write_line:
        for record in records:
            instances = with_pixels(of_classes(record, numbers), lost)
            name = record.image.file
            if images is not None:
                name = names.name(record.image)
                pictures.save(folder / "images" / name, record.image, images, lost)
            lost["scores, for which there is no place"] += int(np.isfinite(instances.scores).sum())
            write_line(f"{_image(count, name, instances)}\n".encode())
            count += 1
    # How many pictures there are stands before them.
    path = folder / "annotations.xml"
    with opened(path) as write_part:
        write_part(f"{_HEAD}  {_meta(classes, count)}\n".encode())
    with explained(path):
        with body.open("rb") as images_file, path.open("ab") as file:
            shutil.copyfileobj(images_file, file)
            file.write(b"</annotations>\n")
        body.unlink()
    return lost


def masks(instances: Instances) -> Iterator[str]:
    """Yield the <mask> of each instance that has pixels."""
    # The first rank lies at the bottom: nan, then from low scores to high ones, and of equal ones the last.
    best_first = np.argsort(-instances.scores, kind="stable")
    heights = np.argsort(best_first[::-1])
    for row, rle in enumerate(instances.rles):
        left, top, width, height, runs = _runs(rle)
        if not runs:
            continue
        yield element(
            "mask",
            label=instances.labels[row],
            source="auto",
            occluded=0,
            rle=", ".join(map(str, runs)),
            left=left,
            top=top,
            width=width,
            height=height,
            z_order=int(heights[row]),
        )


def _image(number: int, name: str, instances: Instances) -> str:
    height, width = instances.image_size
    shapes = "".join(f"\n    {mask}" for mask in masks(instances))
    return "  " + element("image", f"{shapes}\n  " if shapes else "", id=number, name=name, width=width, height=height)


def _runs(rle: RLE) -> tuple[int, int, int, int, list[int]]:
    """Left, top, width and height of the box around a mask in pixels, and its run lengths; none for an empty mask."""
    mask = decode_rle([rle])[0].numpy()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0, []
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = part.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return left, top, part.shape[1], part.shape[0], np.diff(changes, prepend=0, append=flat.size).tolist()


def _meta(classes: Sequence[str], count: int) -> str:
    named = [element("label", f"<name>{escape(plain(label))}</name><type>any</type><attributes/>") for label in classes]
    task = f"<name>grounded</name><size>{count}</size><mode>annotation</mode><labels>{''.join(named)}</labels>"
    return f"<meta><task>{task}</task></meta>"


def _labels_json(classes: Sequence[str]) -> bytes:
    labels = [{"name": label, "type": "any", "attributes": []} for label in classes]
    return json.dumps(labels, ensure_ascii=False, indent=1).encode() + b"\n"

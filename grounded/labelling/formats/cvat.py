"""CVAT for images 1.1: one XML file, with masks, which keep parts and holes.

    annotations.xml   to be uploaded as annotations of a task on the same images
    labels.json       to be pasted as raw labels when the task is made
    images/           with copies of the images

A mask is the box around its pixels, and run lengths in that box, row by row, the first of them of background. Masks lie
upon one another by `z_order`, the best score on top. CVAT shows images upright, as the annotations have them.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

import numpy as np

from grounded.data.instances import Instances
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.xml import xml_element, xml_text
from grounded.labelling.records import Record
from grounded.utils.files import open_new, output_errors, write_new
from segany.utils.rle import RLE, decode_rle

_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'


class CvatExporter(Exporter):
    """Writes `annotations.xml`, whose head states the number of images: it is put before them at the end."""

    def begin(self) -> None:
        labels = [{"name": label, "type": "any", "attributes": []} for label in self.classes]
        data = json.dumps(labels, ensure_ascii=False, indent=1).encode() + b"\n"
        write_new(self.folder / "labels.json", data)
        self._body = self.folder / ".images.xml"
        self._write_body = self.open_files.enter_context(open_new(self._body))
        self._count = 0

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        height, width = instances.image_size
        shapes = "".join(f"\n    {mask}" for mask in mask_elements(instances))
        content = f"{shapes}\n  " if shapes else ""
        image = xml_element("image", content, id=self._count, name=file, width=width, height=height)
        self._write_body(f"  {image}\n".encode())
        self._count += 1
        self.lost["scores, for which there is no place"] += int(np.isfinite(instances.scores).sum())

    def end(self) -> None:
        self.open_files.close()
        path = self.folder / "annotations.xml"
        write_new(path, f"{_HEAD}  {_meta(self.classes, self._count)}\n".encode())
        with output_errors(path):
            with self._body.open("rb") as images, path.open("ab") as file:
                shutil.copyfileobj(images, file)
                file.write(b"</annotations>\n")
            self._body.unlink()


def mask_elements(instances: Instances) -> Iterator[str]:
    """Yield the <mask> of each instance, all of which have pixels."""
    # The first rank lies at the bottom: nan, then from low scores to high ones, and of equal ones the last.
    best_first = np.argsort(-instances.scores, kind="stable")
    heights = np.argsort(best_first[::-1])
    for row, rle in enumerate(instances.rles):
        left, top, width, height, runs = _runs_in_box(rle)
        yield xml_element(
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


def _runs_in_box(rle: RLE) -> tuple[int, int, int, int, list[int]]:
    """Return left, top, width and height of the box around a mask that is not empty, and its run lengths by rows."""
    mask = decode_rle([rle])[0].numpy()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = part.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return left, top, part.shape[1], part.shape[0], np.diff(changes, prepend=0, append=flat.size).tolist()


def _meta(classes: Sequence[str], count: int) -> str:
    names = (f"<name>{escape(xml_text(label))}</name><type>any</type><attributes/>" for label in classes)
    labels = "".join(xml_element("label", name) for name in names)
    task = f"<name>grounded</name><size>{count}</size><mode>annotation</mode><labels>{labels}</labels>"
    return f"<meta><task>{task}</task></meta>"

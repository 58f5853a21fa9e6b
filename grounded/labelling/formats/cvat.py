"""CVAT for images 1.1: one XML file. Written are masks, which keep parts and holes.

    annotations.xml   to be uploaded as annotations of a task on the same images
    labels.json       to be pasted as raw labels when the task is made
    images/           with copies of the images

A mask is the box around its pixels, and run lengths in that box, row by row, the first of them of background. Masks lie
upon one another by `z_order`, the best score on top. CVAT shows images upright, as the annotations have them.

Read are masks, polygons, boxes and ellipses as areas; shapes of one label that share a `group_id` are one instance, as
in CVAT's own COCO export. Lines, points, cuboids, skeletons and tags of whole images are left out.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import Float64

from grounded.data.instances import Instances
from grounded.errors import MaskError, ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    FindSize,
    LeftOut,
    Notes,
    read_label,
)
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.image_sizes import stated_size
from grounded.labelling.formats.outlines import ellipse_ring, part_to_rle, rectangle_ring, ring_to_rle
from grounded.labelling.formats.xml import read_elements, xml_element, xml_text
from grounded.labelling.records import Record
from grounded.utils.files import open_new, output_errors, write_new
from segany.utils.rle import RLE, decode_rle, rle_area, rle_union

NO_AREA = "lines, points, cuboids, skeletons and tags, left out"
NO_PIXEL = "shapes without a pixel, left out"

_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'

_WITHOUT_AREA = {"polyline", "points", "cuboid", "skeleton", "tag"}
_FAR = 1_000_000  # pixels; a mask that reaches farther is damage


# ---- Writing ----


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


# ---- Reading ----


@dataclass(frozen=True)
class CvatReader(AnnotationReader):
    """An XML file, of which one image at a time is in memory."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "CvatReader":
        root = next(read_elements(path, ()), None)
        if root is None or root.tag != "annotations":
            raise ResultError(f"{path} is not CVAT's: expected <annotations>, got {_tag(root)}")
        return cls(path)

    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for element in read_elements(self.path, ("labels", "image")):
            names = element.iterfind("label/name") if element.tag == "labels" else ()
            for label in (*(name.text for name in names), *(shape.get("label") for shape in element)):
                with suppress(ResultError):
                    found[read_label(label)] = None
        return tuple(found)

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        for element in read_elements(self.path, ("image", "track")):
            if element.tag == "track":
                raise ResultError(f"{self.path} is of a video: export it as 'CVAT for images 1.1'")
            if element.tag == "image":
                name = (element.get("name") or f"image {element.get('id', '')}").replace("\\", "/")
                try:
                    size = stated_size(element.get("height"), element.get("width"))
                    size = size or (find_size([name]) if find_size else None)
                    if size is None:
                        raise ResultError("the image must have a width and a height")
                    yield _read_image(element, name, size, LeftOut(notes, name))
                except ResultError as error:
                    yield AnnotatedImage(names=(name,), error=str(error))


def _read_image(image: ET.Element, name: str, image_size: tuple[int, int], left_out: LeftOut) -> AnnotatedImage:
    groups: dict[tuple[str, str], list[RLE]] = {}
    for number, shape in enumerate(image, start=1):
        what = f"shape {number} {(shape.get('label') or '')[:40]!r}"
        if shape.tag in _WITHOUT_AREA:
            left_out.add(NO_AREA, what)
            continue
        try:
            label = read_label(shape.get("label"))
            rle = _draw(shape, image_size)
        except (ResultError, MaskError) as error:
            left_out.add(DAMAGED, what, error)
            continue
        group = shape.get("group_id") or "0"  # 0 is no group
        groups.setdefault((label, f"alone {number}" if group == "0" else group), []).append(rle)
    annotations = []
    for (label, _), rles in groups.items():
        rle = rles[0] if len(rles) == 1 else rle_union(rles)
        if rle_area([rle])[0]:
            annotations.append(Annotation(label=label, rle=rle))
        else:
            left_out.add(NO_PIXEL, repr(label[:40]))
    return AnnotatedImage(names=(name,), image_size=image_size, annotations=tuple(annotations), left_out=left_out.count)


def _draw(shape: ET.Element, image_size: tuple[int, int]) -> RLE:
    """Return the pixels of a shape. Raises ResultError or MaskError where it is damaged or of an unknown kind."""
    if shape.tag == "mask":
        return _paste(shape, image_size)
    if shape.tag == "polygon":
        corners = [_numbers(pair.split(",")) for pair in (shape.get("points") or "").split(";")]
        return ring_to_rle(np.concatenate(corners), image_size)
    if shape.tag == "ellipse":
        cx, cy, rx, ry, degrees = _attributes(shape, "cx", "cy", "rx", "ry", "rotation")
        return ring_to_rle(ellipse_ring((cx, cy), (rx, ry), degrees), image_size)
    if shape.tag == "box":
        x0, y0, x1, y1, degrees = _attributes(shape, "xtl", "ytl", "xbr", "ybr", "rotation")
        # Boxes are turned around their centre.
        half = np.array([x1 - x0, y1 - y0]) / 2
        centre = np.array([x0, y0]) + half
        return ring_to_rle(
            rectangle_ring((0.0, 0.0), (2 * half), degrees) + centre - _turned(half, degrees), image_size
        )
    raise ResultError(f"unknown kind {shape.tag[:40]!r}")


def _turned(offset: Float64[np.ndarray, "2"], degrees: float) -> Float64[np.ndarray, "2"]:
    """Return an offset (x, y) turned clockwise."""
    return rectangle_ring((0.0, 0.0), offset, degrees)[2]


def _paste(shape: ET.Element, image_size: tuple[int, int]) -> RLE:
    """Return a mask that is stored as run lengths in a box, row by row; what lies outside the image is cut off."""
    left, top, width, height = (int(number) for number in _attributes(shape, "left", "top", "width", "height"))
    if min(width, height) < 1 or max(abs(left), abs(top)) > _FAR or stated_size(height, width) is None:
        raise ResultError(f"a mask cannot be {width} x {height} pixels at {left}, {top}")
    runs = _numbers((shape.get("rle") or "").split(","))
    if (runs < 0).any() or (runs != np.trunc(runs)).any() or runs.sum() != width * height:
        raise ResultError(f"run lengths must add up to width x height = {width * height}, got {runs.sum():g}")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64)).reshape(height, width)
    return part_to_rle(part, (left, top), image_size)


def _attributes(shape: ET.Element, *names: str) -> list[float]:
    """Return attributes as numbers; no rotation is one by 0 degrees."""
    return _numbers([shape.get(name) or ("0" if name == "rotation" else "") for name in names]).tolist()


def _numbers(texts: Sequence[str]) -> Float64[np.ndarray, "_"]:
    """Return finite numbers. Raises ResultError where one is not."""
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError as error:
        raise ResultError(f"expected numbers, got {','.join(texts)[:60]!r}") from error
    if not (np.abs(numbers) < 2**53).all():
        raise ResultError(f"numbers must be finite, got {','.join(texts)[:60]!r}")
    return numbers


def _tag(element: ET.Element | None) -> str:
    return "nothing" if element is None else f"<{element.tag[:40]}>"

"""LabelMe 5 and 6: one JSON file per image.

    a/b.json     of the image a/b.jpg, in folders as the images are
    a/b.jpg      with copies of the images

Written are polygons, or masks, which LabelMe shows and relabels but cannot edit. LabelMe looks for an image beside its
annotations, so that without copies the files belong among the images. It shows images upright, as the annotations have
them. Parts of an instance are shapes of one `group_id`, its number; `description` holds the score. LabelMe keeps
fields of other programs: "instance" in a shape, "image_name" and "exported" in a file are there for the import.

Read are shapes of all kinds, those of X-AnyLabeling too: shapes of one label that share a `group_id` are one instance,
as LabelMe's own tools have it. Polygons, rectangles, turned or not, quadrilaterals, circles and masks are areas; lines
and points are left out, and so is a shape that is damaged. Areas are drawn by pixel centres, as they look on the
screen; LabelMe's own exports add the pixels that an outline touches.
"""

import base64
import io
import json
import math
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64

from grounded.data.image import MAX_PIXELS
from grounded.data.instances import Instances
from grounded.errors import MaskError, ResultError
from grounded.labelling.formats.annotations import (
    DAMAGED,
    AnnotatedImage,
    Annotation,
    FindSize,
    LeftOut,
    exported_marks,
    mark,
    marks,
    read_label,
)
from grounded.labelling.formats.exporter import Exporter, within_folder
from grounded.labelling.formats.image_sizes import size_of_first, stated_size, upright_size
from grounded.labelling.formats.json_folder import JsonFolderReader
from grounded.labelling.formats.outlines import ellipse_ring, outlines, part_to_rle, rectangle_ring, ring_to_rle
from grounded.labelling.formats.png import decode_mask, encode_png
from grounded.labelling.records import Record
from grounded.output.polygons import TOLERANCE
from grounded.utils.files import write_new
from segany.utils.rle import RLE, decode_rle, rle_area, rle_union

VERSION = "5.5.0"  # of LabelMe, whose format this is; later versions read it as it is
NO_AREA = "lines and points, left out"
NO_PIXEL = "shapes without a pixel, left out"
FOREIGN = "JSON files that are not LabelMe's, passed over"
_WITHOUT_AREA = {"point", "points", "line", "linestrip"}
_RINGS = {"polygon", "oriented_rectangle", "rotation", "quadrilateral"}  # the last two are X-AnyLabeling's

Shape: TypeAlias = Mapping[str, Any]
_Area: TypeAlias = tuple[RLE, str | None]  # of a shape, and by what the export identified its instance


# ---- Writing ----


class _ShapeExporter(Exporter):
    """Writes a file for each image, one without shapes where it has no instances."""

    has_file_per_image = True
    image_folder = ""  # copies lie beside the files

    @abstractmethod
    def shapes(self, instances: Instances) -> Iterator[Shape]:
        """Yield the shapes of all instances."""

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        image_path = PurePosixPath(within_folder(file)).name
        data = annotation_file(image_path, instances.image_size, self.shapes(instances))
        data |= {"image_name": record.image.file, "exported": marks(instances)}
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
        write_new(self.folder / f"{stem}.json", text.encode())


class LabelMeExporter(_ShapeExporter):
    """Writes polygons."""

    def shapes(self, instances: Instances) -> Iterator[Shape]:
        return polygon_shapes(instances, self.lost)


class LabelMeMaskExporter(_ShapeExporter):
    """Writes masks."""

    def shapes(self, instances: Instances) -> Iterator[Shape]:
        return mask_shapes(instances)


def annotation_file(
    image_path: str, image_size: tuple[int, int], shapes: Iterable[Shape], image_data: bytes | None = None
) -> dict[str, Any]:
    """Return an annotation file, fit for JSON.

    Args:
        image_path: of the image, from the folder of the file.
        image_size: (height, width) in pixels. LabelMe refuses an image of another size.
        shapes: see `polygon_shapes` and `mask_shapes`.
        image_data: file of the image to embed; without it LabelMe reads `image_path`.
    """
    height, width = image_size
    return {
        "version": VERSION,
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image_path,
        "imageData": None if image_data is None else base64.b64encode(image_data).decode("ascii"),
        "imageHeight": height,
        "imageWidth": width,
    }


def polygon_shapes(
    instances: Instances, lost: Counter[str] | None = None, tolerance: float = TOLERANCE
) -> Iterator[Shape]:
    """Yield the polygons of each instance, one for each part; an instance without pixels has none.

    Args:
        instances: of one image.
        lost: holes are counted here, which a ring goes into and back by the same way.
        tolerance: in pixels, see `polygons.mask_to_polygons`.
    """
    for row, rle in enumerate(instances.rles):
        for ring in outlines(rle, lost, tolerance):
            yield _shape(instances, row, "polygon", ring.round(4).tolist())


def mask_shapes(instances: Instances) -> Iterator[Shape]:
    """Yield each instance that has pixels as a mask: a PNG of the box from its first to its last pixel."""
    for row, rle in enumerate(instances.rles):
        mask = decode_rle([rle])[0].numpy()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
        part = mask[top : bottom + 1, left : right + 1].astype(np.uint8) * 255
        shape = _shape(instances, row, "mask", [[float(left), float(top)], [float(right), float(bottom)]])
        yield {**shape, "mask": base64.b64encode(encode_png(part)).decode("ascii")}


def _shape(instances: Instances, row: int, kind: str, points: list[list[float]]) -> Shape:
    label, score = str(instances.labels[row]), instances.scores[row]
    return {
        "label": label,
        "points": points,
        "group_id": row,
        "description": f"score {score:.3f}" if math.isfinite(score) else "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        "instance": mark(instances.rles[row], label),
    }


# ---- Reading ----


class LabelMeReader(JsonFolderReader):
    """Files of LabelMe and X-AnyLabeling."""

    kind = "LabelMe file"
    needs = "there are no shapes"
    foreign = FOREIGN

    @staticmethod
    def is_own(data: Any) -> bool:
        return isinstance(data, dict) and isinstance(data.get("shapes"), list) and "imagePath" in data

    @staticmethod
    def entries(data: Mapping[str, Any]) -> list[Any]:
        return list(data["shapes"])

    @staticmethod
    def read_entry_label(entry: Any) -> str:
        return read_label(_fields(entry).get("label"))

    @staticmethod
    def image_names(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
        """Names as the export gave it, and as the file has it, seen from the root."""
        stated = str(data["imagePath"] or "").replace("\\", "/")
        beside = os.path.normpath(os.path.join(path.parent.as_posix(), stated)).replace(os.sep, "/")
        names = (data.get("image_name"), beside if stated else None, stated)
        return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))

    @staticmethod
    def read_image(
        data: Mapping[str, Any], names: tuple[str, ...], path: Path, find_size: FindSize | None, left_out: LeftOut
    ) -> AnnotatedImage:
        return _read_image(data, names, _image_size(data, names, path, find_size), left_out)


def _fields(shape: Any) -> Shape:
    return shape if isinstance(shape, Mapping) else {}


def _image_size(
    data: Mapping[str, Any], names: Sequence[str], path: Path, find_size: FindSize | None
) -> tuple[int, int]:
    """Return (height, width) as the file states them; failing that, those of the image: in the file, or beside it."""
    size = stated_size(data.get("imageHeight"), data.get("imageWidth"))
    size = size or (find_size(names) if find_size else None) or _embedded_size(data.get("imageData"))
    stated = PurePosixPath(str(data["imagePath"] or "").replace("\\", "/"))
    beside = (path.parent / stated, path.parent / stated.name)
    size = size or size_of_first(path for path in beside if "\0" not in str(path))
    if size is None:
        raise ResultError("the image must have a width and a height, or lie beside its annotations")
    return size


def _embedded_size(image_data: Any) -> tuple[int, int] | None:
    """Return (height, width) of the image in a file of annotations."""
    if not isinstance(image_data, str):
        return None
    try:
        return upright_size(io.BytesIO(base64.b64decode(image_data)))
    except ValueError:  # not base64
        return None


def _read_image(
    data: Mapping[str, Any], names: tuple[str, ...], image_size: tuple[int, int], left_out: LeftOut
) -> AnnotatedImage:
    groups: dict[tuple[str, str], list[_Area]] = {}
    for number, entry in enumerate(data["shapes"], start=1):
        shape = _fields(entry)
        what = f"shape {number}" + (f" {shape['label'][:40]!r}" if isinstance(shape.get("label"), str) else "")
        if str(shape.get("shape_type")) in _WITHOUT_AREA:
            left_out.add(NO_AREA, what)
            continue
        try:
            label = read_label(shape.get("label"))
            rle = _draw(shape, image_size)
        except (ResultError, MaskError) as error:
            left_out.add(DAMAGED, what, error)
            continue
        group = shape.get("group_id")
        instance = shape.get("instance") if isinstance(shape.get("instance"), str) else None
        groups.setdefault((label, f"alone {number}" if group is None else str(group)), []).append((rle, instance))
    annotations = []
    for (label, _), areas in groups.items():
        rle = areas[0][0] if len(areas) == 1 else rle_union([rle for rle, _ in areas])
        if not rle_area([rle])[0]:
            left_out.add(NO_PIXEL, repr(label[:40]))
            continue
        mark = next((instance for _, instance in areas if instance), None)
        annotations.append(Annotation(label=label, rle=rle, mark=mark))
    return AnnotatedImage(
        names=names,
        image_size=image_size,
        annotations=tuple(annotations),
        exported=exported_marks(data),
        left_out=left_out.count,
    )


def _draw(shape: Shape, image_size: tuple[int, int]) -> RLE:
    """Return the pixels of a shape. Raises ResultError or MaskError where it is damaged or of an unknown kind."""
    kind = str(shape.get("shape_type") or "polygon")
    if kind in _RINGS:
        return ring_to_rle(shape.get("points"), image_size)
    if kind not in ("rectangle", "circle", "mask"):
        raise ResultError(f"unknown kind {kind[:40]!r}")
    points = _points(shape.get("points"))
    if kind == "rectangle" and len(points) == 4:  # X-AnyLabeling's
        return ring_to_rle(points, image_size)
    if len(points) != 2:
        raise ResultError(f"a {kind} must have two points, got {len(points)}")
    if kind == "mask":
        return _paste(shape.get("mask"), points, image_size)
    (x0, y0), (x1, y1) = points.tolist()
    if kind == "rectangle":
        return ring_to_rle(rectangle_ring((x0, y0), (x1 - x0, y1 - y0)), image_size)
    radius = math.hypot(x1 - x0, y1 - y0)
    return ring_to_rle(ellipse_ring((x0, y0), (radius, radius)), image_size)


def _points(values: Any) -> Float64[np.ndarray, "k 2"]:
    """Return points as (x, y) in pixels. Raises ResultError where they are not finite numbers."""
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.full((1, 2), np.nan)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < MAX_PIXELS).all():
        raise ResultError(f"points must be pairs of finite numbers, got {str(values)[:60]}")
    return points


def _paste(png: Any, points: Float64[np.ndarray, "2 2"], image_size: tuple[int, int]) -> RLE:
    """Return a mask that is stored as the part from the first of two pixels to the last, cut at the image's border."""
    if not isinstance(png, str):
        raise ResultError(f"a mask must be a PNG file in base64, got {type(png).__name__}")
    try:
        part = decode_mask(base64.b64decode(png))
    except ValueError as error:  # ResultError is one, and so is what is not base64
        raise ResultError(f"its mask cannot be read: {error}") from error
    (left, top), (right, bottom) = points.astype(int).tolist()
    height, width = part.shape
    if (height, width) != (bottom + 1 - top, right + 1 - left):
        raise ResultError(f"a mask of {width} x {height} pixels does not fit between its points {points.tolist()}")
    return part_to_rle(part, (left, top), image_size)

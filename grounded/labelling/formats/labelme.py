"""LabelMe 5 and 6: one JSON file per image.

    a/b.json     of the image a/b.jpg, in folders as the images are
    a/b.jpg      with copies of the images

Written are polygons, or masks, which LabelMe shows and relabels but cannot edit. LabelMe looks for an image beside its
annotations, so that without copies the files belong among the images. It shows images upright, as the annotations have
them. Parts of an instance are shapes of one `group_id`, its number; `description` holds the score. LabelMe keeps
fields of other programs: "instance" in a shape, "picture" and "exported" in a file are there for the import.

Read are shapes of all kinds: shapes of one label that share a `group_id` are one instance, as LabelMe's own tools have
it. Polygons, rectangles, circles and masks are areas; lines and points are left out. Areas are drawn by pixel centres,
as they look on the screen; LabelMe's own exports add the pixels that an outline touches.
"""

import base64
import io
import json
import math
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import (
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    Notes,
    exported_marks,
    mark,
    marks,
    read_json,
)
from grounded.labelling.formats.exporter import Exporter, within_folder
from grounded.labelling.formats.outlines import ellipse_ring, outlines, polygon_ring, rectangle_ring
from grounded.labelling.formats.png import encode_png
from grounded.labelling.records import Record
from grounded.output.polygons import TOLERANCE, Polygon, polygons_to_mask
from grounded.utils.files import write_new
from segany.utils.rle import decode_rle, encode_rle

VERSION = "5.5.0"  # of LabelMe, whose format this is; later versions read it as it is
NO_AREA = "lines and points, left out"
NO_PIXEL = "shapes without a pixel, left out"
FOREIGN = "JSON files that are not LabelMe's, passed over"
_WITHOUT_AREA = {"point", "points", "line", "linestrip"}

Shape: TypeAlias = Mapping[str, Any]


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
        data |= {"picture": record.image.file, "exported": marks(instances)}
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


@dataclass(frozen=True)
class LabelMeReader(AnnotationReader):
    """Files within a folder, each read when its turn comes."""

    root: Path
    paths: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> "LabelMeReader":
        """Open one file, or all within a folder and its folders. Raises ResultError where there is none."""
        if not path.is_dir():
            if not _is_labelme(read_json(path)):
                raise ResultError(f"{path} is not a LabelMe file: there are no shapes")
            return cls(path.parent, (path,))
        files = tuple(sorted(path.rglob("*.json")))
        if not files:
            raise ResultError(f"{path} holds no LabelMe file: there is no *.json")
        return cls(path, files)

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for path in self.paths:
            try:
                data = read_json(path)
            except ResultError:
                continue  # `images` reports it
            if _is_labelme(data):
                found |= dict.fromkeys(str(shape.get("label")) for shape in data["shapes"] if _has_area(shape))
        return tuple(found)

    def images(self, notes: Notes) -> Iterator[AnnotatedImage]:
        for path in self.paths:
            relative = path.relative_to(self.root)
            names: tuple[str, ...] = (relative.as_posix(),)
            try:
                data = read_json(path)
                if not _is_labelme(data):
                    notes.add(FOREIGN, path.name)
                    continue
                names = _image_names(data, relative)
                yield _read_image(data, names, notes)
            except ResultError as error:
                yield AnnotatedImage(names=names, error=str(error))


def _is_labelme(data: Any) -> bool:
    """Whether the contents of a JSON file are LabelMe's."""
    return isinstance(data, dict) and isinstance(data.get("shapes"), list) and "imagePath" in data


def _image_names(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the image's name as the export gave it, and as the file has it, seen from the root."""
    stated = str(data["imagePath"] or "").replace("\\", "/")
    beside = os.path.normpath(os.path.join(path.parent.as_posix(), stated)).replace(os.sep, "/")
    names = (data.get("picture"), beside, stated)
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def _read_image(data: Mapping[str, Any], names: tuple[str, ...], notes: Notes) -> AnnotatedImage:
    try:
        size = int(data["imageHeight"]), int(data["imageWidth"])
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError("the image must have a width and a height") from error
    groups: dict[tuple[str, str], list[Shape]] = {}
    for number, shape in enumerate(data["shapes"]):
        if not isinstance(shape, Mapping) or not isinstance(shape.get("label"), str):
            raise ResultError("a shape must have a label")
        if not _has_area(shape):
            notes.add(NO_AREA, names[0])
            continue
        group = shape.get("group_id")
        groups.setdefault((shape["label"], f"alone {number}" if group is None else str(group)), []).append(shape)
    annotations = []
    for (label, _), shapes in groups.items():
        mask = np.zeros(size, dtype=bool)
        for shape in shapes:
            mask |= _draw(shape, size)
        if not mask.any():
            notes.add(NO_PIXEL, names[0])
            continue
        (rle,) = encode_rle(mask[None])
        own_marks = (shape["instance"] for shape in shapes if isinstance(shape.get("instance"), str))
        annotations.append(Annotation(label=label, rle=rle, mark=next(own_marks, None)))
    return AnnotatedImage(names=names, image_size=size, annotations=tuple(annotations), exported=exported_marks(data))


def _has_area(shape: Shape) -> bool:
    return shape.get("shape_type") not in _WITHOUT_AREA


def _draw(shape: Shape, image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a shape. Raises ResultError where it is damaged or of an unknown kind."""
    kind = shape.get("shape_type") or "polygon"
    try:
        points = np.asarray(shape["points"], dtype=np.float64)
        if kind == "mask":
            return _paste(shape["mask"], points, image_size)
        if kind in ("polygon", "oriented_rectangle"):
            ring = polygon_ring(points)
        elif kind == "rectangle":
            (x0, y0), (x1, y1) = points
            ring = rectangle_ring((x0, y0), (x1 - x0, y1 - y0))
        elif kind == "circle":
            centre, rim = points
            radius = float(np.linalg.norm(rim - centre))
            ring = ellipse_ring((centre[0], centre[1]), (radius, radius))
        else:
            raise ResultError(f"unknown kind {kind!r}")
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:  # not base64 is a ValueError
        raise ResultError(f"a shape of {shape['label']!r} cannot be read: {error}") from error
    return polygons_to_mask([Polygon(ring)], image_size)


def _paste(png: str, points: Float64[np.ndarray, "2 2"], image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return a mask that is stored as the part from the first of two pixels to the last."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        part = np.asarray(image.convert("I") if image.mode == "1" else image) > 0
    (left, top), (right, bottom) = points.astype(int)
    mask = np.zeros(image_size, dtype=bool)
    is_inside = 0 <= left <= right < image_size[1] and 0 <= top <= bottom < image_size[0]
    if not is_inside or part.shape != (bottom + 1 - top, right + 1 - left):
        raise ResultError(f"a mask of {part.shape} does not fit {points.tolist()} in an image of {image_size}")
    mask[top : bottom + 1, left : right + 1] = part
    return mask

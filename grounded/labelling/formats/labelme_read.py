"""LabelMe: a JSON file per picture.

Shapes of one label that share a `group_id` are one instance, as LabelMe's own tools have it. Polygons, rectangles,
circles and masks are areas; lines and points are left out. Areas are drawn by pixel centres, as they look on the
screen; LabelMe's own exports add the pixels that an outline touches.
"""

import base64
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats import drawing
from grounded.labelling.formats.importing import Annotated, Annotation, Notes, exported, read_json
from grounded.output.polygons import Polygon, polygons_to_mask

NO_AREA = "lines and points, left out"
NO_PIXEL = "shapes without a pixel, left out"
_WITHOUT_AREA = {"point", "points", "line", "linestrip"}

Shape = Mapping[str, Any]


@dataclass(frozen=True)
class LabelMeFiles:
    """Files within a folder, each read when its turn comes."""

    root: Path
    paths: tuple[Path, ...]

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for path in self.paths:
            try:
                data = read_json(path)
            except ResultError:
                continue  # `pictures` tells of it
            if is_labelme(data):
                found |= dict.fromkeys(str(shape.get("label")) for shape in data["shapes"] if _has_area(shape))
        return tuple(found)

    def pictures(self, notes: Notes) -> Iterator[Annotated]:
        for path in self.paths:
            try:
                data = read_json(path)
            except ResultError as error:
                yield Annotated(names=(path.relative_to(self.root).as_posix(),), error=str(error))
                continue
            if not is_labelme(data):
                notes.add("JSON files that are not LabelMe's, passed over", path.name)
                continue
            names = _names(data, path.relative_to(self.root))
            try:
                yield _picture(data, names, notes)
            except ResultError as error:
                yield Annotated(names=names, error=str(error))


def open_file(path: Path) -> LabelMeFiles:
    """Open one file, or all within a folder and its folders. Raises ResultError where there is none."""
    if not path.is_dir():
        if not is_labelme(read_json(path)):
            raise ResultError(f"{path} is not a LabelMe file: there are no shapes")
        return LabelMeFiles(path.parent, (path,))
    files = tuple(sorted(path.rglob("*.json")))
    if not files:
        raise ResultError(f"{path} holds no LabelMe file: there is no *.json")
    return LabelMeFiles(path, files)


def is_labelme(data: Any) -> bool:
    """Whether the contents of a JSON file are LabelMe's."""
    return isinstance(data, dict) and isinstance(data.get("shapes"), list) and "imagePath" in data


def _names(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The picture's name as the export gave it, and as the file has it, seen from the root."""
    stated = str(data["imagePath"] or "").replace("\\", "/")
    beside = os.path.normpath(os.path.join(path.parent.as_posix(), stated)).replace(os.sep, "/")
    names = (data.get("picture"), beside, stated)
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def _picture(data: Mapping[str, Any], names: tuple[str, ...], notes: Notes) -> Annotated:
    try:
        size = int(data["imageHeight"]), int(data["imageWidth"])
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError("the picture must have a width and a height") from error
    groups: dict[tuple[str, str], list[Shape]] = {}
    for number, shape in enumerate(data["shapes"]):
        if not isinstance(shape, Mapping) or not isinstance(shape.get("label"), str):
            raise ResultError("a shape must have a label")
        if not _has_area(shape):
            notes.add(NO_AREA, names[0])
            continue
        group = shape.get("group_id")
        groups.setdefault((shape["label"], f"alone {number}" if group is None else str(group)), []).append(shape)
    found = []
    for (label, _), shapes in groups.items():
        mask = np.zeros(size, dtype=bool)
        for shape in shapes:
            mask |= _mask(shape, size)
        if not mask.any():
            notes.add(NO_PIXEL, names[0])
            continue
        marks = [shape["instance"] for shape in shapes if isinstance(shape.get("instance"), str)]
        found.append(Annotation(label=label, rle=drawing.of_mask(mask), mark=marks[0] if marks else None))
    return Annotated(names=names, image_size=size, annotations=tuple(found), exported=exported(data))


def _has_area(shape: Shape) -> bool:
    return shape.get("shape_type") not in _WITHOUT_AREA


def _mask(shape: Shape, image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    kind = shape.get("shape_type") or "polygon"
    try:
        points = np.asarray(shape["points"], dtype=np.float64)
        if kind == "mask":
            return _pasted(shape["mask"], points, image_size)
        if kind in ("polygon", "oriented_rectangle"):
            ring = drawing.ring(points)
        elif kind == "rectangle":
            (x0, y0), (x1, y1) = points
            ring = drawing.rectangle((x0, y0), (x1 - x0, y1 - y0))
        elif kind == "circle":
            centre, rim = points
            radius = float(np.linalg.norm(rim - centre))
            ring = drawing.ellipse((centre[0], centre[1]), (radius, radius))
        else:
            raise ResultError(f"unknown kind {kind!r}")
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:  # not base64 is a ValueError
        raise ResultError(f"a shape of {shape['label']!r} cannot be read: {error}") from error
    return polygons_to_mask([Polygon(ring)], image_size)


def _pasted(png: str, points: np.ndarray, image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask that is stored as the part between the first of two pixels and the last."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        part = np.asarray(picture.convert("I") if picture.mode == "1" else picture) > 0
    (left, top), (right, bottom) = points.astype(int)
    mask = np.zeros(image_size, dtype=bool)
    is_inside = 0 <= left <= right < image_size[1] and 0 <= top <= bottom < image_size[0]
    if not is_inside or part.shape != (bottom + 1 - top, right + 1 - left):
        raise ResultError(f"a mask of {part.shape} does not fit {points.tolist()} in a picture of {image_size}")
    mask[top : bottom + 1, left : right + 1] = part
    return mask

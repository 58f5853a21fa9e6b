"""Label Studio's JSON export: a list of tasks, with what people annotated in "annotations".

Of several annotations of a task the one updated last counts; predictions, which nobody has looked at, do not. Brushed
masks, polygons, rectangles and ellipses are areas; all else is left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from pycocotools import mask as coco_mask

from grounded.errors import ResultError
from grounded.labelling.formats import drawing, label_studio_rle, marks
from grounded.labelling.formats.image_names import without_front
from grounded.labelling.formats.importing import Annotated, Annotation, Notes, exported, read_json
from grounded.output.polygons import Polygon, Ring, polygons_to_mask

NOT_ANNOTATED = "tasks that nobody has annotated, passed over"
SEVERAL = "tasks that were annotated more than once, of which the latest counts"
NO_AREA = "results that are no area, left out"
NO_PIXEL = "results without a pixel, left out"
MORE_LABELS = "results of several labels, of which the first counts"
_EXPORTED = re.compile(rf"([0-9a-f]{{{marks.LENGTH}}})(?:\.\d+)?")

Result = dict[str, Any]


@dataclass(frozen=True)
class LabelStudioFile:
    """A file of tasks in memory."""

    tasks: tuple[Mapping[str, Any], ...]

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for task in self.tasks:
            for result in _results(_latest(task) or {}):
                found |= dict.fromkeys(_labels(result)[:1])
        return tuple(found)

    def pictures(self, notes: Notes) -> Iterator[Annotated]:
        for task in self.tasks:
            names = _names(task)
            annotation = _latest(task)
            if annotation is None:
                notes.add(NOT_ANNOTATED, names[0])
                continue
            if len(_annotations(task)) > 1:
                notes.add(SEVERAL, names[0])
            try:
                picture = _picture(_results(annotation), names, notes)
                yield replace(picture, exported=exported(task["data"]))
            except ResultError as error:
                yield Annotated(names=names, error=str(error))


def open_file(path: Path) -> LabelStudioFile:
    """Read a file of tasks. Raises ResultError where it is none."""
    tasks = read_json(path)
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "data" in task for task in tasks):
        raise ResultError(f'{path} is not a JSON export of Label Studio: expected a list of {{"data", "annotations"}}')
    return LabelStudioFile(tuple(tasks))


def _annotations(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = task.get("annotations", task.get("completions")) or []
    return [entry for entry in found if isinstance(entry, dict) and not entry.get("was_cancelled")]


def _latest(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    # Times are of one form and zone, so that they sort as texts; without them the last in the list counts.
    found = sorted(_annotations(task), key=lambda entry: str(entry.get("updated_at") or ""))
    return found[-1] if found else None


def _results(annotation: Mapping[str, Any]) -> list[Result]:
    """The results, each region once: its label may be a result of its own, with the same id."""
    regions: dict[Any, Result] = {}
    for number, result in enumerate(annotation.get("result") or []):
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            continue  # a relation between regions
        region = regions.setdefault(result.get("id", number), {**result, "value": {}})
        region["value"] |= result["value"]
    return list(regions.values())


def _labels(result: Result) -> list[str]:
    """The labels of a region, in "brushlabels", "polygonlabels", "labels" and so on."""
    lists = (value for key, value in result["value"].items() if key.endswith("labels") and isinstance(value, list))
    return [str(label) for labels in lists for label in labels]


def _names(task: Mapping[str, Any]) -> tuple[str, ...]:
    data = task["data"]
    address = data.get("image") or next((value for value in data.values() if isinstance(value, str)), "")
    url = urlsplit(str(address))
    path = parse_qs(url.query).get("d", [""])[0] or unquote(url.path) or str(address)
    names = (data.get("picture"), path.lstrip("/"), without_front(str(task.get("file_upload") or path)))
    found = tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))
    return found or ("a task without a picture",)


def _picture(results: list[Result], names: tuple[str, ...], notes: Notes) -> Annotated:
    size: tuple[int, int] | None = None
    parts: dict[str, list[Result]] = {}
    for number, result in enumerate(results):
        if not _is_area(result["value"]):
            notes.add(NO_AREA, names[0])
            continue
        labels = _labels(result)
        if not labels:
            raise ResultError(f"region {result.get('id')} must have a label")
        notes.add(MORE_LABELS, names[0], count=len(labels) > 1)
        if size not in (None, _size(result)):
            raise ResultError(f"regions must be of a picture of one size, got {size} and {_size(result)}")
        size = _size(result)
        identity = _EXPORTED.fullmatch(str(result.get("id")))
        # Parts that the export made of one instance are one again, where they still have one label.
        is_part = identity and "." in str(result["id"])
        key = f"{identity[1]} {labels[0]}" if identity and is_part else f"alone {number}"
        parts.setdefault(key, []).append(result)
    found = [_annotation(group, size) for group in parts.values() if size]
    seen = tuple(annotation for annotation in found if coco_mask.area(annotation.rle))
    notes.add(NO_PIXEL, names[0], count=len(found) - len(seen))
    return Annotated(names=names, image_size=size, annotations=seen)


def _annotation(results: list[Result], image_size: tuple[int, int]) -> Annotation:
    mask = np.zeros(image_size, dtype=bool)
    for result in results:
        try:
            value = result["value"]
            if "rle" in value:
                mask |= label_studio_rle.decode(value["rle"], image_size)
            else:
                mask |= polygons_to_mask([Polygon(_ring(value, image_size))], image_size)
        except (KeyError, TypeError, ValueError) as error:  # ResultError is one of the last
            raise ResultError(f"region {result.get('id')} cannot be read: {error}") from error
    identity = _EXPORTED.fullmatch(str(results[0].get("id")))
    mark = identity[1] if identity else None
    return Annotation(label=_labels(results[0])[0], rle=drawing.of_mask(mask), mark=mark)


def _size(result: Result) -> tuple[int, int]:
    if result.get("image_rotation"):
        raise ResultError(f"the picture must be upright, it was turned by {result['image_rotation']} degrees")
    try:
        return int(result["original_height"]), int(result["original_width"])
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(f"region {result.get('id')} must have an original_width and an original_height") from error


def _is_area(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in ("rle", "points", "radiusX")) or {"x", "y", "width", "height"} <= set(value)


def _ring(value: Mapping[str, Any], image_size: tuple[int, int]) -> Ring:
    """The outline of a region, which is given in percent of the picture."""
    height, width = image_size
    across, down, degrees = width / 100, height / 100, float(value.get("rotation") or 0)
    if "points" in value:
        return drawing.ring(np.asarray(value["points"], dtype=np.float64) * [across, down])
    corner = float(value["x"]) * across, float(value["y"]) * down
    if "radiusX" in value:
        return drawing.ellipse(corner, (float(value["radiusX"]) * across, float(value["radiusY"]) * down), degrees)
    return drawing.rectangle(corner, (float(value["width"]) * across, float(value["height"]) * down), degrees)

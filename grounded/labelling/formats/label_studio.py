"""Label Studio: a JSON file of tasks.

    tasks.json         one task per image, with the instances as a prediction to be corrected
    label_config.xml   to be pasted into the project's settings
    images/            with copies of the images

Images are addressed as local files, "/data/local-files/?d=a/b.jpg": the path starts from Label Studio's document root,
to which the images, or the folder `images`, have to be added as local storage.

Coordinates are percentages of the upright image, which is how Label Studio shows it. Brushed masks keep parts and
holes; polygons are one for each part, and a hole is joined to its outline. The id of a result identifies its instance,
and of polygons the part: "0a1b2c3d4e5f.2". "picture" in the data is the name that the image has in the records, and
"exported" the ids of all its instances.

Read is Label Studio's JSON export: a list of such tasks, with people's work in "annotations". Of several annotations of
a task the one updated last counts; predictions, which nobody has checked, do not. Brushed masks, polygons, rectangles
and ellipses are areas; all else is left out.
"""

import json
import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from grounded import __version__
from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.labelling.formats import label_studio_rle
from grounded.labelling.formats.annotations import (
    MARK_LENGTH,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    Notes,
    exported_marks,
    mark,
    marks,
    read_json,
)
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.formats.image_names import without_upload_prefix
from grounded.labelling.formats.outlines import ellipse_ring, outlines, polygon_ring, rectangle_ring
from grounded.labelling.formats.xml import xml_element
from grounded.labelling.records import Record
from grounded.output.polygons import Polygon, Ring, polygons_to_mask
from grounded.utils.files import open_new, write_new
from segany.utils.rle import decode_rle, encode_rle

ADDRESS = "/data/local-files/?d="
SPLIT = "parts of instances that become polygons of their own, alike in the front of their ids"
NOT_ANNOTATED = "tasks that nobody has annotated, passed over"
SEVERAL = "tasks that were annotated more than once, of which the latest counts"
NO_AREA = "results that are no area, left out"
NO_PIXEL = "results without a pixel, left out"
MORE_LABELS = "results of several labels, of which the first counts"
_EXPORTED_ID = re.compile(rf"([0-9a-f]{{{MARK_LENGTH}}})(?:\.\d+)?")

Result: TypeAlias = dict[str, Any]  # a region of an image, or something else that was annotated
Task: TypeAlias = Mapping[str, Any]


# ---- Writing ----


class _TaskExporter(Exporter):
    """Writes `tasks.json` and the labelling interface."""

    control_tag: ClassVar[str]

    @abstractmethod
    def results(self, instances: Instances) -> Iterator[Result]:
        """Yield the results of all instances."""

    def begin(self) -> None:
        write_new(self.folder / "label_config.xml", label_config(self.classes, self.control_tag).encode())
        self._write = self.open_files.enter_context(open_new(self.folder / "tasks.json"))
        self._separator = b"[\n"

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        path = file if self.images is None else f"{self.image_folder}/{file}"
        prediction: dict[str, Any] = {
            "model_version": f"grounded {__version__} {record.config}".strip(),
            "result": list(self.results(instances)),
        }
        known = instances.scores[np.isfinite(instances.scores)]
        if len(known):  # Label Studio sorts tasks by it
            prediction["score"] = round(float(known.mean()), 4)
        data = {"image": ADDRESS + quote(path), "picture": record.image.file, "exported": marks(instances)}
        task = {"data": data, "predictions": [prediction]}
        self._write(self._separator + json.dumps(task, ensure_ascii=False, allow_nan=False).encode())
        self._separator = b",\n"

    def end(self) -> None:
        self._write(b"[]\n" if self._separator == b"[\n" else b"\n]\n")


class LabelStudioExporter(_TaskExporter):
    """Writes brushed masks, without any loss."""

    control_tag = "BrushLabels"

    def results(self, instances: Instances) -> Iterator[Result]:
        for row, rle in enumerate(instances.rles):
            label, data = str(instances.labels[row]), label_studio_rle.encode(decode_rle([rle])[0].numpy())
            value = {"format": "rle", "rle": data, "brushlabels": [label]}
            yield _result(instances, row, mark(rle, label), "brushlabels", value)


class LabelStudioPolygonExporter(_TaskExporter):
    """Writes polygons, one for each part of each instance."""

    control_tag = "PolygonLabels"

    def results(self, instances: Instances) -> Iterator[Result]:
        height, width = instances.image_size
        percent = 100 / np.array([width, height])
        for row, rle in enumerate(instances.rles):
            label, rings = str(instances.labels[row]), outlines(rle, self.lost)
            self.lost[SPLIT] += len(rings) if len(rings) > 1 else 0
            for part, ring in enumerate(rings):
                value = {"points": (ring * percent).tolist(), "closed": True, "polygonlabels": [label]}
                yield _result(instances, row, f"{mark(rle, label)}.{part}", "polygonlabels", value)


def label_config(classes: Sequence[str], control_tag: str) -> str:
    """Return the labelling interface: an image, and a control for the classes, such as "BrushLabels"."""
    labels = "".join(f"\n    {xml_element('Label', value=label)}" for label in classes)
    control = xml_element(control_tag, f"{labels}\n  " if labels else "", name="label", toName="image")
    return f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n  {control}\n</View>\n'


def _result(instances: Instances, row: int, identity: str, kind: str, value: dict[str, Any]) -> Result:
    height, width = instances.image_size
    score = instances.scores[row]
    return {
        "id": identity,
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
        **({"score": round(float(score), 4)} if math.isfinite(score) else {}),
    }


# ---- Reading ----


@dataclass(frozen=True)
class LabelStudioReader(AnnotationReader):
    """A file of tasks in memory."""

    tasks: tuple[Task, ...]

    @classmethod
    def open(cls, path: Path) -> "LabelStudioReader":
        tasks = read_json(path)
        tasks = [tasks] if isinstance(tasks, dict) else tasks
        if not isinstance(tasks, list) or not all(isinstance(task, dict) and "data" in task for task in tasks):
            expected = 'expected a list of {"data", "annotations"}'
            raise ResultError(f"{path} is not a JSON export of Label Studio: {expected}")
        return cls(tuple(tasks))

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for task in self.tasks:
            for annotation in _annotations(task)[-1:]:
                for result in _regions(annotation):
                    found |= dict.fromkeys(_labels(result)[:1])
        return tuple(found)

    def images(self, notes: Notes) -> Iterator[AnnotatedImage]:
        for task in self.tasks:
            names, annotations = _image_names(task), _annotations(task)
            if not annotations:
                notes.add(NOT_ANNOTATED, names[0])
                continue
            if len(annotations) > 1:
                notes.add(SEVERAL, names[0])
            try:
                image = _read_image(_regions(annotations[-1]), names, notes)
                yield replace(image, exported=exported_marks(task["data"]))
            except ResultError as error:
                yield AnnotatedImage(names=names, error=str(error))


def _annotations(task: Task) -> list[Mapping[str, Any]]:
    """Return the annotations of a task that were not cancelled, the latest last."""
    found = task.get("annotations", task.get("completions")) or []
    annotations = [entry for entry in found if isinstance(entry, dict) and not entry.get("was_cancelled")]
    # Times are of one form and zone, so that they sort as texts; without them the last in the list counts.
    return sorted(annotations, key=lambda entry: str(entry.get("updated_at") or ""))


def _regions(annotation: Mapping[str, Any]) -> list[Result]:
    """Return the results, each region once: its label may be a result of its own, with the same id."""
    regions: dict[Any, Result] = {}
    for number, result in enumerate(annotation.get("result") or []):
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            continue  # a relation between regions
        region = regions.setdefault(result.get("id", number), {**result, "value": {}})
        region["value"] |= result["value"]
    return list(regions.values())


def _labels(result: Result) -> list[str]:
    """Return the labels of a region, in "brushlabels", "polygonlabels", "labels" and so on."""
    lists = (value for key, value in result["value"].items() if key.endswith("labels") and isinstance(value, list))
    return [str(label) for labels in lists for label in labels]


def _image_names(task: Task) -> tuple[str, ...]:
    data = task["data"]
    address = data.get("image") or next((value for value in data.values() if isinstance(value, str)), "")
    url = urlsplit(str(address))
    path = parse_qs(url.query).get("d", [""])[0] or unquote(url.path) or str(address)
    names = (data.get("picture"), path.lstrip("/"), without_upload_prefix(str(task.get("file_upload") or path)))
    found = tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))
    return found or ("a task without an image",)


def _read_image(regions: list[Result], names: tuple[str, ...], notes: Notes) -> AnnotatedImage:
    size: tuple[int, int] | None = None
    groups: dict[str, list[Result]] = {}
    for number, region in enumerate(regions):
        if not _is_area(region["value"]):
            notes.add(NO_AREA, names[0])
            continue
        labels = _labels(region)
        if not labels:
            raise ResultError(f"region {region.get('id')} must have a label")
        notes.add(MORE_LABELS, names[0], count=len(labels) > 1)
        if size not in (None, _image_size(region)):
            raise ResultError(f"regions must be of an image of one size, got {size} and {_image_size(region)}")
        size = _image_size(region)
        exported = _EXPORTED_ID.fullmatch(str(region.get("id")))
        # Parts that the export made of one instance are one again, where they still have one label.
        is_part = exported and "." in exported[0]
        key = f"{exported[1]} {labels[0]}" if exported and is_part else f"alone {number}"
        groups.setdefault(key, []).append(region)
    if size is None:
        return AnnotatedImage(names=names)
    masks = [np.logical_or.reduce([_draw(region, size) for region in group]) for group in groups.values()]
    annotations = []
    for group, mask, rle in zip(groups.values(), masks, encode_rle(np.stack(masks)), strict=True):
        if not mask.any():
            notes.add(NO_PIXEL, names[0])
            continue
        exported = _EXPORTED_ID.fullmatch(str(group[0].get("id")))
        annotations.append(Annotation(label=_labels(group[0])[0], rle=rle, mark=exported[1] if exported else None))
    return AnnotatedImage(names=names, image_size=size, annotations=tuple(annotations))


def _image_size(region: Result) -> tuple[int, int]:
    """Return (height, width) of the image of a region. Raises ResultError where it is not stated, or turned."""
    if region.get("image_rotation"):
        raise ResultError(f"the image must be upright, it was turned by {region['image_rotation']} degrees")
    try:
        return int(region["original_height"]), int(region["original_width"])
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(f"region {region.get('id')} must have an original_width and an original_height") from error


def _is_area(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in ("rle", "points", "radiusX")) or {"x", "y", "width", "height"} <= set(value)


def _draw(region: Result, image_size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a region. Raises ResultError where it is damaged."""
    value = region["value"]
    try:
        if "rle" in value:
            return label_studio_rle.decode(value["rle"], image_size)
        return polygons_to_mask([Polygon(_ring(value, image_size))], image_size)
    except (KeyError, TypeError, ValueError) as error:  # ResultError is one of the last
        raise ResultError(f"region {region.get('id')} cannot be read: {error}") from error


def _ring(value: Mapping[str, Any], image_size: tuple[int, int]) -> Ring:
    """Return the outline of a region in pixels, from percentages of the image."""
    height, width = image_size
    x_scale, y_scale, degrees = width / 100, height / 100, float(value.get("rotation") or 0)
    if "points" in value:
        return polygon_ring(np.asarray(value["points"], dtype=np.float64) * [x_scale, y_scale])
    corner = float(value["x"]) * x_scale, float(value["y"]) * y_scale
    if "radiusX" in value:
        return ellipse_ring(corner, (float(value["radiusX"]) * x_scale, float(value["radiusY"]) * y_scale), degrees)
    return rectangle_ring(corner, (float(value["width"]) * x_scale, float(value["height"]) * y_scale), degrees)

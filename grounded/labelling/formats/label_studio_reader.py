"""Reads Label Studio's JSON export: tasks as `label_studio` writes them, with people's work in "annotations".

Of several annotations of a task the one updated last counts; predictions, which nobody has checked, do not. Brushed
masks, bitmasks, polygons, rectangles and ellipses are areas; all else is left out. Of tasks with several images each
gets the regions whose `to_name`, and in lists `item_index`, mean it.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from jaxtyping import Bool, Float64

from grounded.errors import MaskError, ResultError
from grounded.labelling.formats import label_studio_rle
from grounded.labelling.formats.annotations import (
    DAMAGED,
    MARK_LENGTH,
    WITHOUT_SIZES,
    AnnotatedImage,
    Annotation,
    AnnotationReader,
    FindSize,
    LeftOut,
    Notes,
    exported_marks,
    read_json,
    read_label,
)
from grounded.labelling.formats.image_names import without_upload_prefix
from grounded.labelling.formats.image_sizes import stated_size
from grounded.labelling.formats.outlines import ellipse_ring, rectangle_ring, ring_to_rle
from grounded.labelling.formats.png import decode_mask
from grounded.labelling.sources.items import is_image
from segany.utils.rle import RLE, encode_rle, rle_area, rle_union

NOT_ANNOTATED = "tasks that nobody has annotated, passed over, whatever was predicted"
SEVERAL = "tasks that were annotated more than once, of which the latest counts"
NO_AREA = "results that are no area, left out"
NO_IMAGE = "results of which it is not clear which image they are on, left out"
NO_TASK = "entries that are no tasks, passed over"
NO_PIXEL = "results without a pixel, left out"
MORE_LABELS = "results of several labels, of which the first counts"
_OWN_FIELDS = {"image_name", "exported"}  # of a task's data, which are no addresses
_EXPORTED_ID = re.compile(rf"([0-9a-f]{{{MARK_LENGTH}}})(?:\.\d+)?")

Result: TypeAlias = dict[str, Any]  # a region of an image, or something else that was annotated
Task: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class LabelStudioReader(AnnotationReader):
    """A file of tasks in memory."""

    path: Path
    tasks: tuple[Any, ...]  # dicts, but for damaged ones

    @classmethod
    def open(cls, path: Path) -> "LabelStudioReader":
        tasks = read_json(path)
        tasks = [tasks] if isinstance(tasks, dict) else tasks
        if not isinstance(tasks, list) or (tasks and not any(map(_is_task, tasks))):
            if isinstance(tasks, list) and is_json_min(tasks[0]):
                raise ResultError(f"{path} is Label Studio's JSON-MIN export, {WITHOUT_SIZES}")
            expected = 'expected a list of {"data", "annotations"}'
            raise ResultError(f"{path} is not a JSON export of Label Studio: {expected}")
        return cls(path, tuple(tasks))

    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for task in filter(_is_task, self.tasks):
            for annotation in _annotations(task)[-1:]:
                for result in _regions(annotation):
                    with suppress(ResultError):
                        found[_label(result)] = None
        return tuple(found)

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        for number, task in enumerate(self.tasks, start=1):
            if not _is_task(task):
                notes.add(NO_TASK, f"entry {number}")
                continue
            images = _task_images(task)
            name = images[0].names[0]
            annotations = _annotations(task)
            if not annotations:
                notes.add(NOT_ANNOTATED, name)
                continue
            notes.add(SEVERAL, name, count=len(annotations) > 1)
            of_images, lost = _deal(_regions(annotations[-1]), images, LeftOut(notes, name))
            for image, regions in zip(images, of_images, strict=True):
                left_out = LeftOut(notes, image.names[0], lost)
                try:
                    read = _read_image(regions, image.names, find_size, left_out)
                    yield replace(read, exported=exported_marks(_data(task)), left_out=left_out.count)
                except ResultError as error:
                    yield AnnotatedImage(names=image.names, error=str(error))


@dataclass(frozen=True)
class _TaskImage:
    """One of the images of a task: by which results name it, and the names that the image may have."""

    key: str  # in the task's data, the `to_name` of results
    index: int  # where the data hold a list, the `item_index` of results
    names: tuple[str, ...]


def is_json_min(entry: Any) -> bool:
    """Whether an entry is one of Label Studio's JSON-MIN export, which has no sizes and no kinds of regions."""
    return isinstance(entry, dict) and "data" not in entry and bool({"annotator", "annotation_id"} & entry.keys())


def _is_task(task: Any) -> bool:
    return isinstance(task, dict) and isinstance(task.get("data"), dict | str)


def _data(task: Task) -> Mapping[str, Any]:
    """Return the data of a task, which may be nothing but an address, or JSON within JSON."""
    data = task["data"]
    if isinstance(data, str) and data.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            data = json.loads(data)
    return data if isinstance(data, dict) else {"image": str(data)}


def _annotations(task: Task) -> list[Mapping[str, Any]]:
    """Return the annotations of a task that were not cancelled, the latest last."""
    found = task.get("annotations", task.get("completions"))
    entries = found if isinstance(found, list) else []
    annotations = [entry for entry in entries if isinstance(entry, dict) and not entry.get("was_cancelled")]
    # Times are of one form and zone, so that they sort as texts; without them the last in the list counts.
    return sorted(annotations, key=lambda entry: str(entry.get("updated_at") or ""))


def _regions(annotation: Mapping[str, Any]) -> list[Result]:
    """Return the results, each region once: its label may be a result of its own, with the same id."""
    regions: dict[str, Result] = {}
    results = annotation.get("result")
    for number, result in enumerate(results if isinstance(results, list) else []):
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            continue  # a relation between regions
        region = regions.setdefault(str(result.get("id", number)), {**result, "value": {}})
        region["value"] |= result["value"]
    return list(regions.values())


def _labels(result: Result) -> list[Any]:
    """Return the labels of a region, in "brushlabels", "polygonlabels", "labels" and so on."""
    lists = (value for key, value in result["value"].items() if key.endswith("labels") and isinstance(value, list))
    return [label for labels in lists for label in labels]


def _label(result: Result) -> str:
    """Return the label that counts. Raises ResultError where there is none."""
    return read_label(next(iter(_labels(result)), None))


# -- The images of a task --


def _task_images(task: Task) -> list[_TaskImage]:
    """Return the images of a task, at least one, which may be without a name that means anything."""
    data = _data(task)
    addresses = [
        (key, index, str(address))
        for key, value in data.items()
        for index, address in enumerate(value if isinstance(value, list) else [value])
        if key not in _OWN_FIELDS and isinstance(address, str)
    ]
    images = [entry for entry in addresses if entry[0] == "image" or is_image(PurePosixPath(_path(entry[2])).name)]
    images = images or addresses[:1] or [("image", 0, "")]
    # What the upload and the export say is of a task's one image.
    stated = (data.get("image_name"), task.get("file_upload")) if len(images) == 1 else (None, None)
    return [_TaskImage(key, index, _image_names(address, *stated)) for key, index, address in images]


def _image_names(address: str, image_name: Any, file_upload: Any) -> tuple[str, ...]:
    path = _path(address)
    names = (image_name, path.lstrip("/"), without_upload_prefix(str(file_upload or path)))
    found = tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))
    return found or ("a task without an image",)


def _path(address: str) -> str:
    """Return the path in the address of an image."""
    try:
        url = urlsplit(address)
        return parse_qs(url.query).get("d", [""])[0] or unquote(url.path) or address
    except ValueError:  # "http://[" is no address
        return address


def _deal(regions: Sequence[Result], images: Sequence[_TaskImage], left_out: LeftOut) -> tuple[list[list[Result]], int]:
    """Return the regions of each image, and the number of those of none, which are left out."""
    dealt: list[list[Result]] = [[] for _ in images]
    for region in regions:
        key, index = region.get("to_name"), region.get("item_index") or 0
        # A name that no data have is that of a control; what it shows is clear where there is one image, or one list.
        own = [image.key for image in images if image.key == key] or [image.key for image in images]
        found = [n for n, image in enumerate(images) if image.key == own[0] and image.index == index]
        if len(images) == 1:
            dealt[0].append(region)
        elif len(set(own)) == 1 and found:
            dealt[found[0]].append(region)
        else:
            left_out.add(NO_IMAGE, _name(region))
    return dealt, left_out.count


# -- The regions of an image --


def _read_image(
    regions: list[Result], names: tuple[str, ...], find_size: FindSize | None, left_out: LeftOut
) -> AnnotatedImage:
    areas = [region for region in regions if _is_area(region["value"])]
    for region in regions:
        if not _is_area(region["value"]):
            left_out.add(NO_AREA, _name(region))
    size = _common_size(areas) or (find_size(names) if find_size else None)
    if size is None:
        if areas:
            raise ResultError(f"{_name(areas[0])} must have an original_width and an original_height")
        return AnnotatedImage(names=names)
    groups: dict[str, list[tuple[Result, str, RLE]]] = {}
    for number, region in enumerate(areas):
        try:
            label = _label(region)
            _check_frame(region, size)
            rle = _draw(region["value"], size)
        except (ResultError, MaskError) as error:
            left_out.add(DAMAGED, _name(region), error)
            continue
        left_out.notes.add(MORE_LABELS, names[0], count=len(_labels(region)) > 1)
        exported = _EXPORTED_ID.fullmatch(str(region.get("id")))
        # Parts that the export made of one instance are one again, where they still have one label.
        is_part = exported and "." in exported[0]
        key = f"{exported[1]} {label}" if exported and is_part else f"alone {number}"
        groups.setdefault(key, []).append((region, label, rle))
    annotations = []
    for (region, label, rle), *others in groups.values():
        rle = rle_union([rle, *(part for *_, part in others)]) if others else rle
        if not rle_area([rle])[0]:
            left_out.add(NO_PIXEL, _name(region))
            continue
        exported = _EXPORTED_ID.fullmatch(str(region.get("id")))
        annotations.append(Annotation(label=label, rle=rle, mark=exported[1] if exported else None))
    return AnnotatedImage(names=names, image_size=size, annotations=tuple(annotations))


def _name(region: Result) -> str:
    return f"region {str(region.get('id'))[:40]}"


def _size(region: Result) -> tuple[int, int] | None:
    return stated_size(region.get("original_height"), region.get("original_width"))


def _common_size(regions: Sequence[Result]) -> tuple[int, int] | None:
    """Return (height, width) of the image that most regions state; None where none does."""
    sizes = Counter(size for size in map(_size, regions) if size is not None)
    return max(sizes, key=sizes.__getitem__, default=None)


def _check_frame(region: Result, image_size: tuple[int, int]) -> None:
    """Raise ResultError where a region is not of the upright image."""
    if region.get("image_rotation"):
        degrees = str(region["image_rotation"])[:20]
        raise ResultError(
            f"the image must be upright, it was turned by {degrees} degrees: turn it back, and export again"
        )
    if _size(region) not in (None, image_size):
        (height, width), (own_height, own_width) = image_size, _size(region) or image_size
        raise ResultError(f"it is of an image of {own_width} x {own_height} pixels, and others of {width} x {height}")


def _is_area(value: Mapping[str, Any]) -> bool:
    is_shape = any(key in value for key in ("rle", "imageDataURL", "points", "radiusX"))
    return is_shape or {"x", "y", "width", "height"} <= set(value)


def _draw(value: Mapping[str, Any], image_size: tuple[int, int]) -> RLE:
    """Return the pixels of a region. Raises ResultError or MaskError where it is damaged."""
    if "rle" in value or "imageDataURL" in value:
        is_brushed = "rle" in value
        read = label_studio_rle.decode if is_brushed else _bitmask
        (rle,) = encode_rle(read(value["rle" if is_brushed else "imageDataURL"], image_size)[None])
        return rle
    height, width = image_size
    scale = np.array([width, height]) / 100  # from percentages of the image
    try:
        if "points" in value:
            return ring_to_rle(np.asarray(value["points"], dtype=np.float64) * scale, image_size)
        corner, degrees = _pair(value, "x", "y") * scale, float(value.get("rotation") or 0)
        if "radiusX" in value:
            ring = ellipse_ring(corner, _pair(value, "radiusX", "radiusY") * scale, degrees)
        else:
            ring = rectangle_ring(corner, _pair(value, "width", "height") * scale, degrees)
    except MaskError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ResultError(f"it must be of finite numbers: {error or type(error).__name__}") from error
    return ring_to_rle(ring, image_size)


def _pair(value: Mapping[str, Any], x: str, y: str) -> Float64[np.ndarray, "2"]:
    return np.array([float(value[x]), float(value[y])])


def _bitmask(address: Any, image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a mask that is a PNG file in a data address."""
    head, _, data = str(address).partition(",")
    if "base64" not in head:
        raise ResultError(f"a bitmask must be a PNG file in base64, got {head[:40]!r}")
    try:
        mask = decode_mask(base64.b64decode(data))
    except ValueError as error:  # ResultError is one, and so is what is not base64
        raise ResultError(f"its bitmask cannot be read: {error}") from error
    if mask.shape != tuple(image_size):
        (height, width), (own_height, own_width) = image_size, mask.shape
        raise ResultError(f"a bitmask must be of {width} x {height} pixels, got {own_width} x {own_height}")
    return mask

"""A COCO annotation file (Lin et al., 2014) as values: what there is to be found in each picture."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from pycocotools import mask as coco_mask

from grounded.errors import ResultError
from grounded.evaluation.naming import normalised
from segany.utils.rle import RLE

Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class TrueObject:
    """One annotation. A crowd is a region of many objects: who answers there is neither right nor wrong."""

    label: str
    box: Box
    area: float  # in pixels as the file states it: objects are told small, medium and large by this
    mask: RLE | None  # None in files that hold boxes alone
    is_crowd: bool = False


@dataclass(frozen=True)
class Truth:
    """All pictures and classes of an annotation file. Objects are read picture by picture, when they are asked for."""

    classes: tuple[str, ...]  # categories whose names differ in case, articles or underscores alone are one class
    sizes: Mapping[str, tuple[int, int]]  # (height, width) of each picture, by file name
    _annotations: Mapping[str, Sequence[Mapping[str, Any]]]
    _labels: Mapping[int, str]  # by category id

    def objects(self, file: str) -> tuple[TrueObject, ...]:
        """Return what is in a picture, polygons as run lengths.

        Raises:
            ResultError: an annotation is not of COCO's form.
        """
        return tuple(self._object(entry, self.sizes[file]) for entry in self._annotations.get(file, ()))

    def _object(self, entry: Mapping[str, Any], size: tuple[int, int]) -> TrueObject:
        try:
            mask = _mask(entry.get("segmentation"), *size)
            if "bbox" in entry:
                x, y, width, height = (float(side) for side in entry["bbox"])
            else:
                x, y, width, height = coco_mask.toBbox(mask).tolist()
            area = entry.get("area", width * height if mask is None else coco_mask.area(mask))
            label = self._labels[entry["category_id"]]
            box = (x, y, x + width, y + height)
            return TrueObject(label, box, float(area), mask, bool(entry.get("iscrowd", 0)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ResultError(f"annotation {entry.get('id')} of the truth is not of COCO's form: {error}") from error


def read_truth(path: str | PathLike[str]) -> Truth:
    """Read a COCO annotation file.

    Raises:
        ResultError: the file is missing, is not JSON, or does not hold pictures, annotations and categories.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ResultError(f"{path} is not JSON: {error}") from error
    try:
        return truth_from_coco(data)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error


def truth_from_coco(data: Any) -> Truth:
    """Return the values of a COCO annotation file that has been read.

    Raises:
        ResultError: it does not hold pictures, annotations and categories, or two pictures have one name.
    """
    try:
        names: dict[str, str] = {}  # the first spelling stands for all
        labels = {c["id"]: names.setdefault(normalised(c["name"]), str(c["name"])) for c in data["categories"]}
        files: dict[int, str] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for image in data["images"]:
            file = str(image["file_name"])
            if file in sizes:
                raise ResultError(f"pictures must have names of their own, got {file} twice")
            files[image["id"]], sizes[file] = file, (int(image["height"]), int(image["width"]))
        annotations: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for entry in data["annotations"]:
            annotations[files[entry["image_id"]]].append(entry)
    except KeyError as error:
        raise ResultError(f"a COCO annotation file must hold {error}, got none") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"not a COCO annotation file: {error}") from error
    return Truth(tuple(names.values()), sizes, dict(annotations), labels)


def _mask(segmentation: Any, height: int, width: int) -> RLE | None:
    """A COCO segmentation of any kind as compressed run lengths; None where there is none."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        # Fewer than three corners have no area, and two would be taken for a box.
        polygons = [ring for ring in segmentation if len(ring) >= 6]
        encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)) if polygons else None
    elif list(segmentation["size"]) != [height, width]:
        raise ValueError(f"the mask must be of the picture's size {[height, width]}, got {segmentation['size']}")
    elif isinstance(segmentation["counts"], list):
        encoded = coco_mask.frPyObjects(segmentation, height, width)
    else:
        return RLE(size=[height, width], counts=str(segmentation["counts"]))
    return encoded and RLE(size=[height, width], counts=encoded["counts"].decode("ascii"))

"""Conversions of instances to the formats of other programs; `Instances` has a method for each, which explains it."""

import importlib
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int32
from PIL import Image

from grounded.utils.files import image_bytes, write_atomically
from segany.utils.rle import decode_rle, rle_area, rle_boxes

if TYPE_CHECKING:
    from grounded.data.instances import Instances


def coco(
    instances: "Instances",
    image_id: int | str,
    category_ids: Mapping[str, int | str] | None,
    first_annotation_id: int,
    file_name: str | None,
) -> dict[str, Any]:
    """Return a COCO data set of one image (Lin et al., 2014); see `Instances.to_coco`."""
    ids = _category_ids(instances.phrases, category_ids)
    names: dict[int | str, str] = {}  # several phrases may be of one category
    for category_id, phrase in zip(ids, instances.phrases, strict=True):
        names.setdefault(category_id, phrase)
    height, width = instances.image_size
    boxes, areas = rle_boxes(instances.rles), rle_area(instances.rles)
    annotations = [
        {
            "id": first_annotation_id + i,
            "image_id": image_id,
            "category_id": ids[instances.phrase_ids[i]],
            "segmentation": dict(rle),
            "area": int(areas[i]),
            "bbox": [*boxes[i, :2].tolist(), *(boxes[i, 2:] - boxes[i, :2]).tolist()],
            "iscrowd": 0,
            # As text first: the shortest number that reads back as the same float32.
            **({"score": float(str(score))} if math.isfinite(score) else {}),
        }
        for i, (rle, score) in enumerate(zip(instances.rles, instances.scores, strict=True))
    ]
    image = {"id": image_id, "width": width, "height": height, **({"file_name": file_name} if file_name else {})}
    categories = [{"id": category_id, "name": name} for category_id, name in names.items()]
    return {"images": [image], "annotations": annotations, "categories": categories}


def topmost_rows(instances: "Instances") -> Int32[np.ndarray, "h w"]:
    """Return for each pixel the row of the instance that lies on top there, -1 for none.

    Better scores lie above worse ones, unknown scores at the bottom, and of equal scores the first above the rest.
    """
    rows = np.full(instances.image_size, -1, dtype=np.int32)
    best_first = np.argsort(-instances.scores, kind="stable")  # nan comes last
    for row in best_first[::-1]:
        rows[decode_rle([instances.rles[row]])[0].numpy()] = row
    return rows


def label_map(instances: "Instances", background: int) -> Int32[np.ndarray, "h w"]:
    """Return phrase_id + 1 of the topmost instance of each pixel; see `Instances.label_map`."""
    # -1, for no instance, indexes the last entry.
    values = np.append(instances.phrase_ids + 1, background).astype(np.int32)
    return values[topmost_rows(instances)]


def instance_map(instances: "Instances") -> Int32[np.ndarray, "h w"]:
    """Return 1 + the row of the topmost instance of each pixel; see `Instances.instance_map`."""
    return topmost_rows(instances) + 1


def panoptic(
    instances: "Instances", path: str | PathLike[str], image_id: int | str, category_ids: Mapping[str, int | str] | None
) -> dict[str, Any]:
    """Write a COCO panoptic PNG and return its annotation (Kirillov et al., 2019); see `Instances.to_panoptic`."""
    ids = _category_ids(instances.phrases, category_ids)
    segments = instance_map(instances)
    areas = np.bincount(segments.ravel(), minlength=len(instances.rles) + 1)
    infos = [
        {
            "id": segment,
            "category_id": ids[instances.phrase_ids[segment - 1]],
            "area": int(areas[segment]),
            "bbox": _bbox(segments == segment),
            "iscrowd": 0,
        }
        for segment in range(1, len(areas))
        if areas[segment]  # a hidden instance has no pixel to be found by
    ]
    colours = np.stack([segments >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
    write_atomically(path, image_bytes(Image.fromarray(colours)))
    return {"image_id": image_id, "file_name": Path(path).name, "segments_info": infos}


def supervision(instances: "Instances") -> Any:
    """Return `supervision.Detections`; see `Instances.to_supervision`."""
    try:
        package = importlib.import_module("supervision")
    except ImportError as error:
        raise ImportError(f"this needs the package supervision: pip install supervision ({error})") from error
    if "data" not in package.Detections.__dataclass_fields__:
        raise ImportError(
            f"supervision {package.__version__} has no place for labels: pip install --upgrade supervision"
        )
    labels = np.array([instances.phrases[i] for i in instances.phrase_ids], dtype=np.str_)
    return package.Detections(
        xyxy=instances.boxes.copy(),
        mask=decode_rle(instances.rles, instances.image_size).numpy(),
        confidence=instances.scores.copy(),
        class_id=instances.phrase_ids.copy(),
        data={"class_name": labels},
    )


def _category_ids(phrases: tuple[str, ...], category_ids: Mapping[str, int | str] | None) -> list[int | str]:
    """The category id of each phrase; without a mapping the phrases are numbered from 1."""
    if category_ids is None:
        return list(range(1, len(phrases) + 1))
    for phrase in phrases:
        if phrase not in category_ids:
            raise ValueError(f"category_ids must hold every phrase, got none for {phrase!r}")
    return [category_ids[phrase] for phrase in phrases]


def _bbox(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """[x, y, width, height] in pixels of the box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]

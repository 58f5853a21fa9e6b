"""The layout of SA-1B (Kirillov et al., 2023, section 5): one JSON file per image, masks without classes.

    a/b.json     of the image a/b.jpg, in folders as the images are
    a/b.jpg      with copies of the images

An annotation has its mask as run lengths, its predicted IoU and stability score, the crop and the points it was found
with. What is not known of an instance is null, and its points are none. "label" and "instance" in an annotation and
"exported" in a file are ours, for the import; other programs pass them over. SA-1B itself has no labels: annotations
without one are read as "unnamed".
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

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
from grounded.labelling.formats.image_sizes import stated_size
from grounded.labelling.formats.json_folder import JsonFolderReader
from grounded.labelling.formats.table import as_score
from grounded.labelling.records import Record
from grounded.stages.fallback import UNNAMED
from grounded.utils.files import write_new
from segany.utils.rle import RLE, check_rle, rle_area, rle_boxes

NO_PIXEL = "masks without a pixel, left out"
FOREIGN = "JSON files that are not SA-1B's, passed over"

# ---- Writing ----


@dataclass(frozen=True, kw_only=True)
class Sa1bMask:
    """One annotation of SA-1B; numbers that are not known are nan.

    rle              the mask
    predicted_iou    of the mask, by the model
    stability_score  of the mask
    crop_box         xyxy in pixels, the part of the image in which it was found; None: all of it
    points           (x, y) in pixels, with which the model was prompted
    """

    rle: RLE
    predicted_iou: float = math.nan
    stability_score: float = math.nan
    crop_box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    label: str | None = None


def annotation_file(
    image_id: int, file_name: str, image_size: tuple[int, int], masks: Sequence[Sa1bMask]
) -> dict[str, Any]:
    """Return the file of one image, fit for JSON.

    Args:
        image_id: its number.
        file_name: of the image, beside the file.
        image_size: (height, width) in pixels.
        masks: of that size, none of them empty.
    """
    height, width = image_size
    return {
        "image": {"image_id": image_id, "width": width, "height": height, "file_name": file_name},
        "annotations": [_entry(number, one) for number, one in enumerate(masks, start=1)],
    }


def _entry(number: int, mask_: Sa1bMask) -> dict[str, Any]:
    rle, (height, width) = mask_.rle, mask_.rle["size"]
    counts = rle["counts"]
    x0, y0, x1, y1 = mask_.crop_box or (0.0, 0.0, float(width), float(height))
    left, top, right, bottom = rle_boxes([rle])[0].tolist()
    entry = {
        "id": number,
        "segmentation": {
            "size": [height, width],
            "counts": counts.decode() if isinstance(counts, bytes) else counts,
        },
        "bbox": [left, top, right - left, bottom - top],
        "area": int(rle_area([rle])[0]),
        "predicted_iou": _or_none(mask_.predicted_iou),
        "stability_score": _or_none(mask_.stability_score),
        "crop_box": [x0, y0, x1 - x0, y1 - y0],
        "point_coords": [list(point) for point in mask_.points],
    }
    return entry if mask_.label is None else {**entry, "label": mask_.label, "instance": mark(rle, mask_.label)}


def _or_none(number: float) -> float | None:
    return round(number, 6) if math.isfinite(number) else None


class Sa1bExporter(Exporter):
    """Writes a file for each image, one without annotations where it has no instances."""

    has_file_per_image = True
    image_folder = ""  # copies lie beside the files

    def begin(self) -> None:
        self._number = 0

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        self._number += 1
        masks = [
            Sa1bMask(rle=rle, predicted_iou=float(predicted_iou), label=str(label))
            for rle, predicted_iou, label in zip(
                instances.rles, instances.predicted_iou, instances.labels.tolist(), strict=True
            )
        ]
        name = PurePosixPath(within_folder(file)).name
        data = annotation_file(self._number, name, instances.image_size, masks)
        data |= {"image_name": record.image.file, "exported": marks(instances)}
        write_new(self.folder / f"{stem}.json", json.dumps(data, ensure_ascii=False, allow_nan=False).encode())


# ---- Reading ----


class Sa1bReader(JsonFolderReader):
    """Files of SA-1B."""

    kind = "file of SA-1B"
    needs = "it must hold an image and annotations"
    foreign = FOREIGN

    @staticmethod
    def is_own(data: Any) -> bool:
        has_image = isinstance(data, dict) and isinstance(data.get("image"), dict)
        return has_image and isinstance(data.get("annotations"), list)

    @staticmethod
    def entries(data: Mapping[str, Any]) -> list[Any]:
        return list(data["annotations"])

    @staticmethod
    def read_entry_label(entry: Any) -> str:
        if not isinstance(entry, Mapping):
            raise ResultError(f"it must be an object, got {type(entry).__name__}")
        return UNNAMED if entry.get("label") is None else read_label(entry["label"])

    @staticmethod
    def image_names(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
        """Names as the export gave it, as the file has it from the root on, and by the file's own name."""
        stated = data["image"].get("file_name")
        stated = stated.replace("\\", "/") if isinstance(stated, str) else ""
        beside = (path.parent / stated).as_posix() if stated else None
        names = (data.get("image_name"), beside, stated, path.with_suffix(".jpg").as_posix())
        return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))

    @staticmethod
    def read_image(
        data: Mapping[str, Any], names: tuple[str, ...], path: Path, find_size: FindSize | None, left_out: LeftOut
    ) -> AnnotatedImage:
        size = stated_size(data["image"].get("height"), data["image"].get("width"))
        if size is None:
            raise ResultError("the image must have a width and a height in whole pixels")
        annotations = []
        for number, entry in enumerate(data["annotations"], start=1):
            what = f"annotation {number}"
            try:
                label = Sa1bReader.read_entry_label(entry)
                rle = check_rle(entry.get("segmentation"), size)
            except (ResultError, MaskError) as error:
                left_out.add(DAMAGED, what, error)
                continue
            if not rle_area([rle])[0]:
                left_out.add(NO_PIXEL, what)
                continue
            mark = entry["instance"] if isinstance(entry.get("instance"), str) else None
            score = as_score(entry.get("predicted_iou"))
            annotations.append(Annotation(label=label, rle=rle, mark=mark, score=score))
        return AnnotatedImage(
            names=names,
            image_size=size,
            annotations=tuple(annotations),
            exported=exported_marks(data),
            left_out=left_out.count,
        )

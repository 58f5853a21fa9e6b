"""COCO instances (Lin et al., 2014): one JSON file, masks run-length encoded and so without any loss.

    instances.json
    images/         with copies of the pictures

Categories are numbered from 1 in the order of the classes, images and annotations from 1 as they come. "bbox" is the
tight [x, y, width, height] of the mask in pixels, "area" counts its pixels, "score" is left out where it is unknown.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grounded
from grounded.labelling.formats import pictures
from grounded.labelling.formats.json_stream import json_lists
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.records import ImageInfo, Record

INFO = {"description": f"labelled by grounded {grounded.__version__}; in the frame of the upright pictures"}


def write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write `instances.json`; see `grounded.labelling.formats.exporting.Write`. Pictures without instances are listed."""
    lost: Counter[str] = Counter()
    names, numbers, annotations = pictures.Names(lost), numbered(classes), 0
    with json_lists(folder / "instances.json", "images", "annotations", **heading(classes)) as add:
        for image_id, record in enumerate(records, start=1):
            instances = with_pixels(of_classes(record, numbers), lost)
            file_name = copy(record.image, names, folder, images, lost)
            data = instances.to_coco(image_id, first_annotation_id=annotations + 1, file_name=file_name)
            add("images", data["images"][0] | orientation(record.image, images is not None))
            for annotation in data["annotations"]:
                add("annotations", annotation)
            annotations += len(instances)
    return lost


def heading(classes: Sequence[str]) -> dict[str, Any]:
    """Return what a data set tells besides its lists."""
    return {"categories": [{"id": i, "name": label} for i, label in enumerate(classes, start=1)], "info": INFO}


def orientation(image: ImageInfo, copied: bool) -> dict[str, int]:
    """Return what an entry of "images" says of a file that is to be turned by its EXIF orientation."""
    return {} if copied or image.orientation == 1 else {"exif_orientation": image.orientation}


def copy(
    image: ImageInfo,
    names: pictures.Names,
    folder: Path,
    images: Callable[[str], bytes] | None,
    lost: Counter[str],
) -> str:
    """Copy a picture into images/ where copies are wanted, and return its name there, or the name that it had."""
    if images is None:
        return image.file
    name = names.name(image)
    pictures.save(folder / "images" / name, image, images, lost)
    return name

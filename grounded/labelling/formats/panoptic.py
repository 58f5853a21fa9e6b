"""COCO panoptic segmentation (Kirillov et al., 2019): one PNG for each picture, and one JSON file.

    panoptic.json
    panoptic/a/b.png  segment id of each pixel as red + 256 green + 65536 blue, black for none
    images/a/b.jpg    with copies of the pictures

Every category counts as a thing; they are numbered from 1 in the order of the classes. Of instances that overlap the
better score has the pixel, and "area" and "bbox" are of what remains.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from grounded.labelling.formats import pictures
from grounded.labelling.formats.coco_write import heading, orientation
from grounded.labelling.formats.json_stream import json_lists
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.formats.layers import count_hidden
from grounded.labelling.records import Record


def write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write `panoptic.json` and its PNG files; see `grounded.labelling.formats.exporting.Write`."""
    lost: Counter[str] = Counter()
    names, numbers, head = pictures.Names(lost), numbered(classes), heading(classes)
    head["categories"] = [category | {"isthing": 1} for category in head["categories"]]
    with json_lists(folder / "panoptic.json", "images", "annotations", **head) as add:
        for image_id, record in enumerate(records, start=1):
            instances = with_pixels(of_classes(record, numbers), lost)
            stem, image = names.stem(record.image), record.image
            file_name = image.file
            if images is not None:
                file_name = f"{stem}{pictures.suffix(image)}"
                pictures.save(folder / "images" / file_name, image, images, lost)
            entry = {"id": image_id, "width": image.width, "height": image.height, "file_name": file_name}
            add("images", entry | orientation(image, images is not None))
            annotation = instances.to_panoptic(folder / "panoptic" / f"{stem}.png", image_id)
            add("annotations", annotation | {"file_name": f"{stem}.png"})
            visible = np.zeros(len(instances), np.int64)
            for segment in annotation["segments_info"]:
                visible[segment["id"] - 1] = segment["area"]
            count_hidden(instances, visible, lost)
            lost["scores"] += int(np.isfinite(instances.scores).sum())
    return lost

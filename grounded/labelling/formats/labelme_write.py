"""LabelMe 5 and 6: one JSON file per picture, with polygons.

    a/b.json     of the picture a/b.jpg, in folders as the pictures are
    a/b.jpg      with copies of the pictures

LabelMe looks for a picture beside its annotations, so that without copies the files belong among the pictures. It
shows pictures upright, as the annotations have them.

Parts of an instance are polygons of one `group_id`, its number; `description` holds the score. LabelMe keeps what it
does not know: "instance" in a shape, "picture" and "exported" in a file are for
the way back.
"""

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from grounded.data.instances import Instances
from grounded.labelling.formats import pictures
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.formats.marks import mark, marks
from grounded.labelling.formats.outlines import outlines
from grounded.labelling.records import ImageInfo, Record
from grounded.output.polygons import TOLERANCE
from grounded.utils.folders import write_file
from segany.utils.rle import RLE, decode_rle

VERSION = "5.5.0"  # of LabelMe, whose format this is; later versions read it as it is

Shape = dict[str, Any]
Shapes = Callable[[Instances, Counter[str]], Iterator[Shape]]


def write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write polygons; see `grounded.labelling.formats.exporting.Write`. A picture without instances has a file without shapes."""
    return _write(records, classes, folder, images, polygons)


def write_masks(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write masks, which LabelMe shows and relabels but cannot edit; see `grounded.labelling.formats.exporting.Write`."""
    return _write(records, classes, folder, images, lambda instances, lost: masks(instances))


def annotation(
    image_path: str, image_size: tuple[int, int], shapes: Iterable[Shape], image_data: bytes | None = None
) -> dict[str, Any]:
    """Return an annotation file, fit for JSON.

    Args:
        image_path: of the picture, from the folder of the file.
        image_size: (height, width) in pixels. LabelMe refuses a picture of another size.
        shapes: see `polygons` and `masks`.
        image_data: file of the picture to embed; without it LabelMe reads `image_path`.
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


def polygons(instances: Instances, lost: Counter[str] | None = None, tolerance: float = TOLERANCE) -> Iterator[Shape]:
    """Yield the polygons of each instance, one for each part; an instance without pixels has none.

    Args:
        instances: of one picture.
        lost: is told of the holes, which a ring goes into and back by the same way.
        tolerance: in pixels, see `polygons.mask_to_polygons`.
    """
    for row, rle in enumerate(instances.rles):
        for ring in outlines(rle, lost, tolerance):
            yield _shape(instances, row, "polygon", ring.round(4).tolist())


def masks(instances: Instances) -> Iterator[Shape]:
    """Yield each instance as a mask: a PNG of what lies between the first and the last pixel, both included."""
    for row, rle in enumerate(instances.rles):
        (left, top), (right, bottom), part = _cut_out(rle)
        if part.size:
            buffer = io.BytesIO()
            Image.fromarray(part).save(buffer, format="PNG")
            shape = _shape(instances, row, "mask", [[float(left), float(top)], [float(right), float(bottom)]])
            yield {**shape, "mask": base64.b64encode(buffer.getvalue()).decode("ascii")}


def _write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None,
    shapes: Shapes,
) -> Counter[str]:
    lost: Counter[str] = Counter()
    names, numbers = pictures.Names(lost), numbered(classes)
    for record in records:
        instances = with_pixels(of_classes(record, numbers), lost)
        stem = names.stem(record.image)
        name = _copy(record.image, stem, folder, images, lost)
        data = annotation(PurePosixPath(name).name, instances.image_size, shapes(instances, lost))
        write_file(
            folder / f"{stem}.json",
            json.dumps(
                {**data, "picture": record.image.file, "exported": marks(instances)},
                ensure_ascii=False,
                allow_nan=False,
            ).encode(),
        )
    return lost


def _copy(image: ImageInfo, stem: str, folder: Path, images: Callable[[str], bytes] | None, lost: Counter[str]) -> str:
    """Copy a picture to where its annotations go, where copies are wanted; return its name."""
    if images is None:
        return pictures.within(image.file)
    name = stem + pictures.suffix(image)
    pictures.save(folder / name, image, images, lost)
    return name


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


def _cut_out(rle: RLE) -> tuple[tuple[int, int], tuple[int, int], np.ndarray]:
    """(x, y) of the first and of the last pixel of a mask, and what lies between as uint8, 255 inside."""
    mask = decode_rle([rle])[0].numpy()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0), (0, 0), np.zeros((0, 0), np.uint8)
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    return (left, top), (right, bottom), mask[top : bottom + 1, left : right + 1].astype(np.uint8) * 255

"""The layout that Ultralytics trains on: a text file for each picture, with one line for each instance.

    data.yaml       the classes, numbered from 0
    labels/a/b.txt  "class x y x y ..." (segments) or "class x y width height" (boxes, by their centres)
    images/a/b.jpg  with copies of the pictures

Coordinates are shares of the picture's width and height. Files of pictures without instances are empty.

Boxes are the tight ones of the masks. A segment is one ring: holes, and parts, are joined to it by bridges of no width.
Its corners lie in the pixels at the rim of the mask, between their upper left edge and their centre. Programs that cut
off the digits after the point, as Ultralytics does, and those that round, as supervision does, both find those pixels
there; and both draw rings with OpenCV, which fills them and draws their line. What comes out is the mask to the bit,
but for the bridges between parts, which become lines one pixel wide.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float64
from pycocotools import mask as coco_mask
from scipy.spatial import KDTree

from grounded.data.instances import Instances
from grounded.labelling.formats import pictures
from grounded.labelling.formats.labels import numbered, of_classes, with_pixels
from grounded.labelling.records import Record
from grounded.output.polygons import Polygon, Ring, joined, mask_to_polygons
from grounded.utils.folders import write_file
from segany.utils.rle import RLE, decode_rle

# Of a pixel, between which corners lie. Six digits after the point place them to less than 1/16 up to 65,000 pixels.
_NEAREST, _FARTHEST = 1 / 16, 7 / 16


def write_segments(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write instances as polygons; see `grounded.labelling.formats.exporting.Write`."""
    return _write(records, classes, folder, images, _segments)


def write_boxes(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
) -> Counter[str]:
    """Write instances as boxes; see `grounded.labelling.formats.exporting.Write`."""
    return _write(records, classes, folder, images, _boxes)


def _write(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None,
    shares: Callable[[Instances, Counter[str]], list[Float64[np.ndarray, "_"]]],
) -> Counter[str]:
    lost: Counter[str] = Counter()
    names, numbers = pictures.Names(lost), numbered(classes)
    for record in records:
        instances = with_pixels(of_classes(record, numbers), lost)
        lines = [
            " ".join([str(number), *(f"{share:.6f}" for share in row)]) + "\n"
            for number, row in zip(instances.phrase_ids, shares(instances, lost), strict=True)
        ]
        stem = names.stem(record.image)
        write_file(folder / "labels" / f"{stem}.txt", "".join(lines).encode())
        if images is not None:
            picture = folder / "images" / f"{stem}{pictures.suffix(record.image)}"
            pictures.save(picture, record.image, images, lost)
        lost["scores"] += int(np.isfinite(instances.scores).sum())
    # A split is the user's choice, but both keys must be there.
    data = {"train": "images", "val": "images", "names": dict(enumerate(classes))}
    write_file(folder / "data.yaml", yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode())
    return lost


def _boxes(instances: Instances, lost: Counter[str]) -> list[Float64[np.ndarray, "4"]]:
    height, width = instances.image_size
    lost["masks, of which the boxes are kept"] += len(instances)
    boxes = np.asarray(coco_mask.toBbox(list(instances.rles)), dtype=np.float64).reshape(-1, 4)
    boxes[:, :2] += boxes[:, 2:] / 2
    return list(boxes / [width, height, width, height])


def _segments(instances: Instances, lost: Counter[str]) -> list[Float64[np.ndarray, "_"]]:
    height, width = instances.image_size
    return [(ring(rle, lost) / [width, height]).ravel() for rle in instances.rles]


def ring(rle: RLE, lost: Counter[str]) -> Ring:
    """Return a mask that is not empty as one ring, (x, y) in pixels, and count the bridges that it took."""
    mask = decode_rle([rle])[0].numpy()
    polygons = [_in_rim(polygon, mask) for polygon in mask_to_polygons(mask, tolerance=0.0)]
    lost["holes joined to the outline by bridges of no width"] += sum(len(polygon.holes) for polygon in polygons)
    lost["parts joined to one another by bridges of no width"] += len(polygons) - 1
    return _joined_parts([joined(polygon) for polygon in polygons])


def _in_rim(polygon: Polygon, mask: np.ndarray) -> Polygon:
    """Move corners, which lie halfway between a pixel inside and one outside, into the one inside."""

    def moved(outline: Ring) -> Ring:
        # The pixel to the right or below, and where it is outside, the one to the left or above.
        pixels = np.floor(outline)
        is_between = outline == pixels  # in which direction the two pixels lie
        x, y = np.minimum(pixels, np.array(mask.shape[::-1]) - 1).astype(np.int64).T
        is_outside = ~mask[y, x] | (pixels >= mask.shape[::-1]).any(axis=1)
        pixels -= is_between & is_outside[:, None]
        return np.clip(outline, pixels + _NEAREST, pixels + _FARTHEST)

    return Polygon(moved(polygon.outer), tuple(moved(hole) for hole in polygon.holes))


def _joined_parts(rings: Sequence[Ring]) -> Ring:
    """One ring of several: each is entered from, and left to, the corner nearest to it of those before."""
    first, *others = sorted(rings, key=len, reverse=True)
    for other in others:
        distances, nearest = map(np.asarray, KDTree(first).query(other))
        start = int(distances.argmin())
        end = int(nearest[start])
        there_and_back = np.concatenate([np.roll(other, -start, axis=0), other[start : start + 1]])
        first = np.concatenate([first[: end + 1], there_and_back, first[end:]])
    return first

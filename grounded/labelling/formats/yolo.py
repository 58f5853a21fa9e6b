"""The layout that Ultralytics trains on: a text file for each image, with one line for each instance.

    data.yaml       the classes, numbered from 0
    labels/a/b.txt  "class x y x y ..." (segments) or "class x y width height" (boxes, by their centres)
    images/a/b.jpg  with copies of the images

Coordinates are shares of the image's width and height. Files of images without instances are empty.

Boxes are the tight ones of the masks. A segment is one ring: holes, and parts, are joined to it by bridges of no width.
Its corners lie in the pixels at the rim of the mask, between their upper left edge and their centre. Programs that cut
off the digits after the point, as Ultralytics does, and those that round, as supervision does, both find those pixels
there; and both draw rings with OpenCV, which fills them and draws their line. What comes out is the mask to the bit,
but for the bridges between parts, which become lines one pixel wide.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
import yaml
from jaxtyping import Float64
from scipy.spatial import KDTree

from grounded.data.instances import Instances
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.records import Record
from grounded.output.polygons import Polygon, Ring, join_holes, mask_to_polygons
from grounded.utils.files import write_new
from segany.utils.rle import RLE, decode_rle, rle_boxes

# Of a pixel, between which corners lie. Six digits after the point place them to less than 1/16 up to 65,000 pixels.
_NEAREST, _FARTHEST = 1 / 16, 7 / 16


class _YoloExporter(Exporter):
    """Writes one text file for each image, and `data.yaml`."""

    has_file_per_image = True

    @abstractmethod
    def numbers(self, instances: Instances) -> list[Float64[np.ndarray, "_"]]:
        """Return the numbers that follow the class in the line of each instance."""

    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        lines = [
            " ".join([str(class_id), *(f"{number:.6f}" for number in row)]) + "\n"
            for class_id, row in zip(instances.phrase_ids, self.numbers(instances), strict=True)
        ]
        write_new(self.folder / "labels" / f"{stem}.txt", "".join(lines).encode())
        self.lost["scores"] += int(np.isfinite(instances.scores).sum())

    def end(self) -> None:
        # A split is the user's choice, but both keys must be there.
        data = {"train": "images", "val": "images", "names": dict(enumerate(self.classes))}
        write_new(self.folder / "data.yaml", yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode())


class YoloSegmentExporter(_YoloExporter):
    """Writes instances as polygons."""

    def numbers(self, instances: Instances) -> list[Float64[np.ndarray, "_"]]:
        height, width = instances.image_size
        return [(mask_to_ring(rle, self.lost) / [width, height]).ravel() for rle in instances.rles]


class YoloBoxExporter(_YoloExporter):
    """Writes instances as boxes."""

    def numbers(self, instances: Instances) -> list[Float64[np.ndarray, "_"]]:
        height, width = instances.image_size
        self.lost["masks, of which the boxes are kept"] += len(instances)
        x0, y0, x1, y1 = rle_boxes(instances.rles).T
        boxes = np.stack([x0 + (x1 - x0) / 2, y0 + (y1 - y0) / 2, x1 - x0, y1 - y0], axis=1)
        return list(boxes / [width, height, width, height])


def mask_to_ring(rle: RLE, lost: Counter[str]) -> Ring:
    """Return a mask that is not empty as one ring, (x, y) in pixels, and count the bridges that it took in `lost`."""
    mask = decode_rle([rle])[0].numpy()
    polygons = [_move_into_rim(polygon, mask) for polygon in mask_to_polygons(mask, tolerance=0.0)]
    lost["holes joined to the outline by bridges of no width"] += sum(len(polygon.holes) for polygon in polygons)
    lost["parts joined to one another by bridges of no width"] += len(polygons) - 1
    return _join_parts([join_holes(polygon) for polygon in polygons])


def _move_into_rim(polygon: Polygon, mask: np.ndarray) -> Polygon:
    """Move corners, which lie halfway between a pixel inside and one outside, into the one inside."""

    def move(outline: Ring) -> Ring:
        # The pixel to the right or below, and where it is outside, the one to the left or above.
        pixels = np.floor(outline)
        is_between = outline == pixels  # in which direction the two pixels lie
        x, y = np.minimum(pixels, np.array(mask.shape[::-1]) - 1).astype(np.int64).T
        is_outside = ~mask[y, x] | (pixels >= mask.shape[::-1]).any(axis=1)
        pixels -= is_between & is_outside[:, None]
        return np.clip(outline, pixels + _NEAREST, pixels + _FARTHEST)

    return Polygon(move(polygon.outer), tuple(move(hole) for hole in polygon.holes))


def _join_parts(rings: Sequence[Ring]) -> Ring:
    """Return one ring of several: each is entered from, and left to, the nearest corner of those before it."""
    first, *others = sorted(rings, key=len, reverse=True)
    for other in others:
        distances, nearest = map(np.asarray, KDTree(first).query(other))
        start = int(distances.argmin())
        end = int(nearest[start])
        there_and_back = np.concatenate([np.roll(other, -start, axis=0), other[start : start + 1]])
        first = np.concatenate([first[: end + 1], there_and_back, first[end:]])
    return first

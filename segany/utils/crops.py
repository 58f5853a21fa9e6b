"""Layers of overlapping crops of an image, and a test for masks that are cut off at the edge of a crop."""

import math
from dataclasses import dataclass
from itertools import product

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Crop:
    """A rectangular part of an image."""

    box: tuple[int, int, int, int]  # xyxy pixels, the second corner exclusive
    layer: int  # 0 is the whole image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0


def layered_crops(image_size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, then for each layer i = 1..layers a grid of 2**i by 2**i crops, column by column.

    Follows segment-anything's `generate_crop_boxes`.

    Args:
        image_size: (height, width) in pixels.
        layers: number of layers of crops in addition to the whole image.
        overlap_ratio: overlap of neighbouring crops in layer 1, as a fraction of the image's short side; halved in
            every further layer.
    """
    height, width = image_size
    crops = [Crop((0, 0, width, height), layer=0)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        columns = _spans(width, per_side, overlap)
        rows = _spans(height, per_side, overlap)
        crops += [Crop((x0, y0, x1, y1), layer) for (x0, x1), (y0, y1) in product(columns, rows)]
    return crops


def _spans(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """Start and end of `count` equal spans that cover `length` and overlap by `overlap`; the last may be shorter.

    There are fewer where `length` is too short for so many.
    """
    span = math.ceil((overlap * (count - 1) + length) / count)
    starts = [(span - overlap) * index for index in range(count)]
    return [(start, min(start + span, length)) for start in starts if start < length]


def near_crop_edge(
    boxes: Float[Tensor, "n 4"], crop: Crop, image_size: tuple[int, int], tolerance: float = 20.0
) -> Bool[Tensor, "n"]:
    """Whether each xyxy box, in pixels of the whole image, has a side within `tolerance` pixels of a side of the crop.

    The object of such a box probably continues outside the crop. A side that is also within `tolerance` of the same
    side of the image does not count, because the object ends there.
    """
    height, width = image_size
    crop_sides = boxes.new_tensor(crop.box)
    image_sides = boxes.new_tensor([0, 0, width, height])
    at_crop = (boxes - crop_sides).abs() <= tolerance
    at_image = (boxes - image_sides).abs() <= tolerance
    return (at_crop & ~at_image).any(dim=-1)

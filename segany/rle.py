"""COCO's run-length encoding of masks.

Runs go down the columns of the picture, one after the other, and begin with background.
"""

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Int
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F


class RLE(TypedDict):
    """COCO run-length encoding of one mask, fit for JSON."""

    size: list[int]  # [height, width]
    counts: str  # compressed run lengths, column by column


def encode_rle(masks: Bool[Tensor | np.ndarray, "n h w"]) -> list[RLE]:
    """Masks to COCO's compressed run-length encoding."""
    return encode_columns(torch.as_tensor(masks).transpose(1, 2).contiguous())


def encode_columns(
    columns: Bool[Tensor, "n w h"], corner: tuple[int, int] = (0, 0), image_size: tuple[int, int] | None = None
) -> list[RLE]:
    """Masks that are stored column by column, of a part of an image, as run lengths in the whole image.

    Only places where a mask changes are looked at one by one. They are moved from the part to the image, so that masks
    of a part need not be drawn in the image.

    Args:
        columns: masks of the part.
        corner: (x, y) of the part's first pixel in the image.
        image_size: (height, width) of the image; None where the part is all of it.
    """
    _, part_width, part_height = columns.shape
    height, width = image_size or (part_height, part_width)
    left, top = corner
    is_as_high = part_height == height
    if not is_as_high:
        columns = F.pad(columns, (0, 1))  # below the part is background, which ends a run
    rles = []
    for changes in _changes(columns.flatten(1)):
        if is_as_high:
            changes = changes + left * height
        else:
            x, y = np.divmod(changes, columns.shape[2])
            changes = (x + left) * height + y + top
        rles.append(_compress(changes, height, width))
    return rles


def _changes(pixels: Bool[Tensor, "n p"]) -> Iterator[Int[np.ndarray, "_"]]:
    """For each mask the indices of pixels that differ from the one before; before and after all is background."""
    if pixels.device.type == "cpu":
        for mask in pixels.numpy():
            inside = np.flatnonzero(mask[1:] != mask[:-1]) + 1
            yield np.concatenate([np.flatnonzero(mask[:1]), inside, np.flatnonzero(mask[-1:]) + mask.size])
    else:
        yield from _changes_on_device(pixels)


def _changes_on_device(pixels: Bool[Tensor, "n p"]) -> list[Int[np.ndarray, "_"]]:
    """`_changes` that brings nothing but the changes to the CPU."""
    if len(pixels) == 0:
        return []
    padded = F.pad(pixels, (1, 1))
    changed = (padded[:, 1:] != padded[:, :-1]).flatten().nonzero().flatten().cpu().numpy()
    masks, indices = np.divmod(changed, pixels.shape[1] + 1)
    return np.split(indices, np.searchsorted(masks, np.arange(1, len(pixels))))


def _compress(changes: Int[np.ndarray, "_"], height: int, width: int) -> RLE:
    ends = np.append(changes[changes < height * width], height * width)
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": np.diff(ends, prepend=0)}, height, width)
    return RLE(size=[height, width], counts=encoded["counts"].decode("ascii"))


def decode_rle(rles: Sequence[RLE], image_size: tuple[int, int] | None = None) -> Bool[Tensor, "n h w"]:
    """Masks from run-length encodings.

    Args:
        rles: encodings of one size.
        image_size: expected (height, width) in pixels; needed only where `rles` may be empty.

    Raises:
        ValueError: the encodings differ in size from one another or from `image_size`, or there are none and no size.
    """
    if image_size is None:
        if not rles:
            raise ValueError("decode_rle needs image_size when there are no encodings")
        image_size = (int(rles[0]["size"][0]), int(rles[0]["size"][1]))
    for index, rle in enumerate(rles):
        if tuple(rle["size"]) != tuple(image_size):
            raise ValueError(f"encoding {index} must be of size {list(image_size)}, got {list(rle['size'])}")
    if not rles:
        return torch.zeros((0, *image_size), dtype=torch.bool)
    columns = coco_mask.decode(list(rles)).transpose(2, 1, 0).view(bool)  # (n, w, h)
    return torch.from_numpy(columns).transpose(1, 2).contiguous()


def rle_area(rles: Sequence[RLE]) -> Int[Tensor, "n"]:
    """Pixels in each encoded mask, without decoding it."""
    return torch.tensor([int(coco_mask.area(rle)) for rle in rles], dtype=torch.int64)

"""Boolean masks: area, boxes, IoU, stability score, removal of small regions. For run-length encoding see `rle`.

A mask is (height, width) bool; functions take any number of leading axes unless their signature says otherwise.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

# Intersections are computed as float32 products, in blocks of pixels to limit memory; sums below 2**24 are exact.
_PIXEL_BLOCK = 1 << 20
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def mask_area(masks: Bool[Tensor, "*n h w"]) -> Int[Tensor, "*n"]:
    """Number of pixels in each mask."""
    return masks.sum(dim=(-2, -1))


def masks_to_boxes(masks: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n 4"]:
    """Tight xyxy boxes in Segment Anything's convention (its `batched_mask_to_box`).

    The corners are the indices of the first and the last pixel, so the box of a single pixel has no area.
    Returns [0, 0, 0, 0] for an empty mask.
    """
    if masks.numel() == 0:
        return torch.zeros((*masks.shape[:-2], 4), device=masks.device)
    return occupied_to_boxes(columns=masks.any(dim=-2), rows=masks.any(dim=-1))


def occupied_to_boxes(columns: Bool[Tensor, "*n w"], rows: Bool[Tensor, "*n h"]) -> Float[Tensor, "*n 4"]:
    """The boxes of `masks_to_boxes`, from the columns and rows that contain a pixel. The image must not be empty."""
    x0, x1 = _first_and_last(columns)
    y0, y1 = _first_and_last(rows)
    boxes = torch.stack([x0, y0, x1, y1], dim=-1)
    return (boxes * columns.any(dim=-1, keepdim=True)).float()


def _first_and_last(occupied: Bool[Tensor, "*n side"]) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
    """Indices of the first and the last True of each row; undefined for a row without True."""
    first = occupied.byte().argmax(dim=-1)
    last = occupied.shape[-1] - 1 - occupied.flip(-1).byte().argmax(dim=-1)
    return first, last


def mask_iou(a: Bool[Tensor, "n h w"], b: Bool[Tensor, "m h w"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every mask of `a` with every mask of `b`; 0 where both are empty."""
    pixels_a, pixels_b = a.flatten(1), b.flatten(1)
    intersection = torch.zeros((len(a), len(b)), dtype=torch.int64, device=a.device)
    for start in range(0, pixels_a.shape[1], _PIXEL_BLOCK):
        block = slice(start, start + _PIXEL_BLOCK)
        intersection += (pixels_a[:, block].float() @ pixels_b[:, block].float().T).long()
    union = mask_area(a)[:, None] + mask_area(b)[None, :] - intersection
    return intersection / union.clamp(min=1)


def stability_score(
    logits: Float[Tensor, "*n h w"], threshold: float = 0.0, offset: float = 1.0
) -> Float[Tensor, "*n"]:
    """IoU of the masks thresholded at `threshold` + `offset` and `threshold` - `offset`: near 1 for stable masks.

    The first mask lies inside the second, so the IoU is a ratio of areas. It is 0 where both are empty
    (segment-anything's `calculate_stability_score` returns nan, which its filter drops too).
    """
    inner = mask_area(logits > threshold + offset)
    outer = mask_area(logits > threshold - offset)
    return inner / outer.clamp(min=1)


def remove_small_regions(
    masks: Bool[Tensor, "n h w"], min_area: int
) -> tuple[Bool[Tensor, "n h w"], Bool[Tensor, "n"]]:
    """Fill holes, then remove islands, of fewer than `min_area` pixels, as segment-anything does.

    Regions are 8-connected, and background enclosed by the mask and the image border counts as a hole. If all islands
    of a mask are small, the largest is kept.

    Returns:
        the cleaned masks, and for each whether a small region was found in it.
    """
    cleaned, found = masks.clone(), torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    for index, mask in enumerate(masks.cpu().numpy()):
        rows, columns = _surroundings(mask, min_area)
        filled, holes_found = _fill_small_holes(mask[rows, columns], min_area)
        kept, islands_found = _drop_small_islands(filled, min_area)
        cleaned[index, rows, columns] = torch.from_numpy(kept).to(masks.device)
        found[index] = holes_found or islands_found
    return cleaned, found


def _surroundings(mask: Bool[np.ndarray, "h w"], min_area: int) -> tuple[slice, slice]:
    """The part of a mask with all its foreground and a margin of background too large to be a small hole."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return slice(None), slice(None)
    margin = math.isqrt(max(min_area, 0)) + 1
    if margin > min(mask.shape):  # then a strip of that width may be smaller than the area
        margin = max(min_area, 0) + 1
    first_row, first_column = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
    return slice(first_row, rows[-1] + 1 + margin), slice(first_column, columns[-1] + 1 + margin)


def _fill_small_holes(mask: Bool[np.ndarray, "h w"], min_area: int) -> tuple[Bool[np.ndarray, "h w"], bool]:
    regions, areas = _label_regions(~mask)
    small = areas < min_area
    return mask | np.append(False, small)[regions], bool(small.any())


def _drop_small_islands(mask: Bool[np.ndarray, "h w"], min_area: int) -> tuple[Bool[np.ndarray, "h w"], bool]:
    regions, areas = _label_regions(mask)
    small = areas < min_area
    if not small.any():
        return mask, False
    keep = np.arange(len(areas)) == areas.argmax() if small.all() else ~small
    return np.append(False, keep)[regions], True


def _label_regions(mask: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "k"]]:
    """Number the connected regions from 1 (0 is outside) and count the pixels of each."""
    regions, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    return regions, np.bincount(regions.ravel(), minlength=count + 1)[1:]

"""Points: regular grids, the interior point of a mask, and corrective clicks for interactive segmentation.

Points are (x, y) pixel indices in float32: the pixel in column x and row y. Labels follow `Prompts`: 1 foreground,
0 background, -1 no point.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

FOREGROUND, BACKGROUND, NO_POINT = 1, 0, -1


def build_point_grid(points_per_side: int) -> Float[Tensor, "n 2"]:
    """Cell centres of a regular grid over the unit square, row by row: points_per_side² points in [0, 1]."""
    if points_per_side < 1:
        raise ValueError(f"points_per_side must be at least 1, got {points_per_side}")
    centres = (torch.arange(points_per_side, dtype=torch.float64) + 0.5) / points_per_side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2).float()


def build_layer_point_grids(points_per_side: int, layers: int, downscale_factor: int) -> list[Float[Tensor, "_ 2"]]:
    """One grid for the whole image and one for each of `layers` crop layers.

    Layer i has points_per_side / downscale_factor**i points per side, rounded down.
    """
    return [build_point_grid(int(points_per_side / downscale_factor**layer)) for layer in range(layers + 1)]


def interior_point(masks: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n 2"]:
    """The pixel farthest from the boundary of each mask; the image border counts as boundary.

    Among equally distant pixels, the first in row order. [0, 0] for an empty mask.
    """
    points, _ = deepest_points(masks)
    return points


def deepest_points(masks: Bool[Tensor, "*n h w"]) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n"]]:
    """The `interior_point` of each mask and its distance from the boundary in pixels; both 0 for an empty mask."""
    found = [_deepest_point(mask) for mask in masks.reshape(-1, *masks.shape[-2:]).cpu().numpy()]
    deepest = torch.tensor(found, dtype=torch.float32, device=masks.device).reshape(*masks.shape[:-2], 3)
    return deepest[..., :2], deepest[..., 2]


def error_point(
    predictions: Bool[Tensor, "*n h w"], truths: Bool[Tensor, "*n h w"]
) -> tuple[Float[Tensor, "*n 2"], Int[Tensor, "*n"]]:
    """The next click of a simulated user: the interior point of the larger error region.

    False negatives and false positives are compared by the distance of their interior point from the boundary, as usual
    in the evaluation of interactive segmentation; false positives win a tie.

    Returns:
        points and labels: 1 for a false negative, 0 for a false positive, -1 (and point [0, 0]) if there is no error.
    """
    missed_points, missed_depths = deepest_points(truths & ~predictions)
    false_points, false_depths = deepest_points(predictions & ~truths)
    is_missed = missed_depths > false_depths
    points = torch.where(is_missed[..., None], missed_points, false_points)
    labels = is_missed.long().masked_fill((missed_depths == 0) & (false_depths == 0), NO_POINT)
    return points, labels


def random_error_point(
    predictions: Bool[Tensor, "*n h w"], truths: Bool[Tensor, "*n h w"], generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "*n 2"], Int[Tensor, "*n"]]:
    """The next click during training: a pixel sampled uniformly from the error region (Segment Anything, appendix A).

    `generator` must be on the device of the masks.

    Returns:
        points and labels: 1 for a false negative, 0 for a false positive, -1 (and point [0, 0]) if there is no error.
    """
    points, labels = random_point(predictions ^ truths, generator)
    x, y = points.long().unbind(-1)
    in_truth = truths.flatten(-2).gather(-1, (y * truths.shape[-1] + x)[..., None]).squeeze(-1)
    return points, torch.where(labels == NO_POINT, labels, in_truth.long())


def random_point(
    masks: Bool[Tensor, "*n h w"], generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "*n 2"], Int[Tensor, "*n"]]:
    """A pixel sampled uniformly from each mask, with label 1; an empty mask gives point [0, 0] with label -1.

    `generator` must be on the device of the masks.
    """
    # Sample a row in proportion to its pixels, then a pixel of that row: only one row per mask needs a cumulative sum.
    rows = masks.sum(dim=-1).cumsum(dim=-1)  # (*n, h) pixels up to and including each row
    total = rows[..., -1:]
    draw = torch.randint(1 << 62, total.shape, generator=generator, device=masks.device) % total.clamp(min=1)
    y = torch.searchsorted(rows, draw, right=True).clamp(max=masks.shape[-2] - 1)  # (*n, 1)
    row = masks.gather(-2, y[..., None].expand(*y.shape, masks.shape[-1])).squeeze(-2)  # (*n, w)
    before = torch.where(y > 0, rows.gather(-1, (y - 1).clamp(min=0)), 0)
    x = torch.searchsorted(row.cumsum(dim=-1), draw - before, right=True).clamp(max=masks.shape[-1] - 1)
    found = total.squeeze(-1) > 0
    points = torch.cat([x, y], dim=-1) * found[..., None]
    return points.float(), torch.where(found, FOREGROUND, NO_POINT)


def _deepest_point(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float, float]:
    """x, y and distance of the pixel farthest from the boundary; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0.0, 0.0, 0.0
    top, left = rows[0], columns[0]
    # Everything outside the tight box is background, so padding the box by one pixel gives the same distances.
    tight = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    distances = ndimage.distance_transform_edt(tight)
    y, x = np.unravel_index(distances.argmax(), distances.shape)
    return float(x + left - 1), float(y + top - 1), float(distances[y, x])

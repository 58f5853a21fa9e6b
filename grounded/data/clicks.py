"""A user's clicks: checked, and shared out among boxes."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grounded.errors import PromptError
from segany.prompts import ArrayLike
from segany.utils.points import BACKGROUND, FOREGROUND, NO_POINT


def validate_points(
    points: ArrayLike, labels: ArrayLike, image_size: tuple[int, int]
) -> tuple[Float[Tensor, "k 2"], Int[Tensor, "k"]]:
    """A user's clicks as tensors.

    Args:
        points: (k, 2), x and y in pixels of the original image, its edges included; k may be 0.
        labels: (k), 1 foreground, 0 background.
        image_size: (height, width) in pixels.

    Raises:
        PromptError: a wrong shape, a value that is not finite, a point outside the picture, another label.
    """
    clicks, kinds = finite_floats("points", points), finite_floats("labels", labels)
    if clicks.shape == (0,):
        clicks = clicks.reshape(0, 2)  # an empty list has lost its inner axis
    if clicks.ndim != 2 or clicks.shape[1] != 2:
        raise PromptError(f"points must be (k, 2), got {tuple(clicks.shape)}")
    if kinds.shape != clicks.shape[:1]:
        raise PromptError(f"labels must be one per point, ({len(clicks)},), got {tuple(kinds.shape)}")
    if bool(((kinds != FOREGROUND) & (kinds != BACKGROUND)).any()):
        raise PromptError(f"labels must be 1 (foreground) or 0 (background), got {kinds.tolist()}")
    height, width = image_size
    outside = (clicks < 0).any(1) | (clicks[:, 0] > width) | (clicks[:, 1] > height)
    if bool(outside.any()):
        first = clicks[outside][0].tolist()
        raise PromptError(f"points must lie in the picture of {width} x {height} pixels, got {first}")
    return clicks, kinds.long()


def finite_floats(name: str, values: ArrayLike) -> Float[Tensor, "..."]:
    """Values of any shape as float32 on the CPU. Raises PromptError for what are no numbers, nan and infinity."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise PromptError(f"{name} must be numbers in a rectangular array: {error}") from error
    if not bool(torch.isfinite(tensor).all()):
        raise PromptError(f"{name} must be finite, got {tensor.tolist()}")
    return tensor


def assign_points(
    boxes: Float[np.ndarray | Tensor, "n 4"],
    points: Float[np.ndarray | Tensor, "k 2"],
    labels: Int[np.ndarray | Tensor, "k"],
) -> tuple[Float[Tensor, "n j 2"], Int[Tensor, "n j"], list[int]]:
    """Share out clicks that came along with a text among the boxes that the text has found.

    A foreground point belongs to the smallest box that contains it, a background point to every box that does.

    Returns:
        the points of each box in the order given and their labels, padded with -1 to the largest number j, and the
        indices of stray points: foreground in no box. Background in no box says nothing.
    """
    boxes, points, labels = (torch.as_tensor(values).cpu() for values in (boxes, points, labels))
    x, y = points[:, 0], points[:, 1]
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)  # (n, k)
    is_foreground = labels == FOREGROUND
    stray = torch.nonzero(is_foreground & ~inside.any(0)).squeeze(1).tolist()
    if len(boxes):
        areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[:, None]
        smallest = torch.where(inside, areas, torch.inf).argmin(0)
        is_owner = torch.arange(len(boxes))[:, None] == smallest
        inside &= is_owner | ~is_foreground
    most = int(inside.sum(1).max()) if len(boxes) else 0
    shared = points.new_zeros(len(boxes), most, 2).float()
    kinds = torch.full((len(boxes), most), NO_POINT)
    for i, own in enumerate(inside):
        shared[i, : int(own.sum())], kinds[i, : int(own.sum())] = points[own].float(), labels[own]
    return shared, kinds, stray

"""Boxes and clicks as maps of the model frame, beside their tokens: they tell the image's cells where they lie.

Tokens alone reach the cells by attention over Fourier features, which takes millions of masks to become exact to the
pixel. Maps are exact from the first step, as interactive segmentation has long had them (Sofiiuk et al., "Reviving
Iterative Training with Mask Guidance for Interactive Segmentation", 2021: clicks as discs).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BOX_LOGIT = 4.0  # of a mask that is sure
CLICK_RADIUS = 2.0  # standard deviation of a click's disc, in pixels of the map


def box_maps(boxes: Float[Tensor, "n 4"], image_size: int, size: int) -> Float[Tensor, "n 1 size size"]:
    """Fill boxes, as logits of a mask: the share of each pixel that a box covers goes from -`BOX_LOGIT` to `BOX_LOGIT`.

    Args:
        boxes: xyxy in pixels of the model frame.
        image_size: side of the model frame in pixels.
        size: side of the maps in pixels.
    """
    edges = torch.arange(size, device=boxes.device, dtype=boxes.dtype)
    low, high = (boxes * (size / image_size)).unflatten(1, (2, 2)).unbind(1)  # (n, 2) each
    covered = torch.minimum(high[..., None], edges + 1) - torch.maximum(low[..., None], edges)
    across, down = covered.clamp(0, 1).unbind(1)
    return BOX_LOGIT * (2 * down[:, None, :, None] * across[:, None, None, :] - 1)


def click_maps(
    points: Float[Tensor, "n k 2"], given: Bool[Tensor, "n k"], image_size: int, size: int
) -> Float[Tensor, "n size size"]:
    """Draw clicks as round spots that are 1 in the middle; where two meet, the greater counts.

    Args:
        points: (x, y) in pixels of the model frame.
        given: which of them are drawn.
        image_size: side of the model frame in pixels.
        size: side of the maps in pixels.
    """
    centres = (points + 0.5) * (size / image_size) - 0.5
    steps = torch.arange(size, device=points.device, dtype=points.dtype)
    x, y = (torch.exp(-((steps - one[..., None]) ** 2) / (2 * CLICK_RADIUS**2)) for one in centres.unbind(-1))
    spots = (y[..., :, None] * x[..., None, :]) * given[..., None, None]
    return spots.amax(dim=1) if spots.shape[1] else spots.sum(dim=1)

"""Edges of an image by automatic masks (Segment Anything, section 7.2 and appendix D.2). Needs a segmenter alone.

A grid of 16 x 16 points gives 768 masks, three for each, and nothing is filtered by predicted IoU or stability. Of
redundant masks one stays (NMS). Sobel's filter turns each mask's probabilities into edges, of which only those at the
outer boundary of the mask count, so that uncertainty inside a mask is no edge. The edge map is the maximum over masks,
scaled linearly to 0..1 and thinned along the gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from scipy import ndimage
from torch import Tensor

from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.protocols import Segmenter
from grounded.experiments.edge_filters import sobel_gradient, suppress_non_maxima
from segany import MaskPrediction, Prompts
from segany.precision import own_precision
from segany.utils.boxes import nms
from segany.utils.points import FOREGROUND, build_point_grid

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_PIXELS_AT_ONCE = 1 << 24  # of masks upsampled together


@dataclass(frozen=True)
class EdgeConfig:
    """Settings of automatic edges; the defaults are the paper's.

    Raises:
        ValueError: a value is out of its range.
    """

    points_per_side: int = 16
    nms_threshold: float = 0.7  # box IoU above which one of two masks is dropped, as for automatic masks
    points_per_batch: int = 64  # prompts in one call of the segmenter; does not change the edges
    thinned: bool = True

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.points_per_batch < 1:
            raise ValueError(
                "points_per_side and points_per_batch must be at least 1, "
                f"got {self.points_per_side} and {self.points_per_batch}"
            )
        if not 0 < self.nms_threshold <= 1:
            raise ValueError(f"nms_threshold must lie in (0, 1], got {self.nms_threshold}")


@torch.no_grad()
@own_precision()
def automatic_edges(
    segmenter: Segmenter,
    image: ImageLike | SourceImage,
    config: EdgeConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float32[np.ndarray, "h w"]:
    """Return the strength of an edge at each pixel of the upright image, from 0 to 1.

    Args:
        segmenter: any that takes points.
        image: any that `open_image` takes.
        config: the paper's settings by default.
        progress: called with (points done, points in all).

    Raises:
        ImageError: the image cannot be read.
    """
    config, source = config or EdgeConfig(), open_image(image)
    height, width = source.size
    points = build_point_grid(config.points_per_side) * torch.tensor([float(width), float(height)])
    embedding, parts = segmenter.encode(source.pixels), []
    for batch in points.split(config.points_per_batch):
        labels = torch.full((len(batch), 1), FOREGROUND)
        prediction = segmenter.predict(embedding, Prompts(points=batch[:, None], point_labels=labels))
        parts.append(_as_single_masks(prediction))
        if progress is not None:
            progress(sum(map(len, parts)) // prediction.predicted_iou.shape[1], len(points))
    edges = EdgeMaximum((height, width))
    for part in _distinct(parts, config.nms_threshold):
        edges.add(part)
    return edges.map(config.thinned)


def _as_single_masks(prediction: MaskPrediction) -> MaskPrediction:
    """Return each of n prompts' m masks as a prediction of its own, (n * m, 1)."""
    return MaskPrediction(
        prediction.low_res_logits.flatten(0, 1)[:, None],
        prediction.predicted_iou.flatten()[:, None],
        prediction.original_size,
        prediction.resized_size,
        prediction.image_size,
    )


def _distinct(parts: list[MaskPrediction], threshold: float) -> list[MaskPrediction]:
    """Drop masks whose box is nearly that of one with a higher predicted IoU, and split the rest into small parts."""
    boxes = torch.cat([_measure_boxes(part) for part in parts])
    predicted_iou = torch.cat([part.predicted_iou[:, 0] for part in parts])
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    kept[nms(boxes, predicted_iou, threshold)] = True
    distinct = []
    for part, own in zip(parts, kept.split([len(part) for part in parts]), strict=True):
        chosen, (height, width) = part[own], part.original_size
        step = max(1, _PIXELS_AT_ONCE // (height * width))
        distinct += [chosen[start : start + step] for start in range(0, len(chosen), step)]
    return distinct


def _measure_boxes(prediction: MaskPrediction) -> Float[Tensor, "n 4"]:
    """Return the boxes of masks at the original size without upsampling them."""
    logits = prediction.low_res_logits[:, 0].float()
    resize = prediction.frame.composed(logits.shape[1:], logits.device)
    return resize.measure(logits, offset=0.0).boxes


class EdgeMaximum:
    """The maximum over masks of the edges of each, and the gradient of the mask that it is from."""

    def __init__(self, size: tuple[int, int]) -> None:
        """Begin with no edges in an image of (height, width) pixels."""
        self.strength: Float64[np.ndarray, "h w"] = np.zeros(size)
        self.gradient: Float64[np.ndarray, "2 h w"] = np.zeros((2, *size))

    def add(self, prediction: MaskPrediction) -> None:
        """Add one mask for each of n prompts."""
        for logits in prediction.logits[:, 0].cpu():
            mask = (logits > 0).numpy()
            window = _window(mask)
            gradient = sobel_gradient(logits[window].sigmoid().double().numpy())
            strength = np.hypot(*gradient) * outer_boundary(mask[window])
            stronger = strength > self.strength[window]
            self.strength[window][stronger] = strength[stronger]
            self.gradient[(slice(None), *window)][:, stronger] = gradient[:, stronger]

    def map(self, thinned: bool = True) -> Float32[np.ndarray, "h w"]:
        """Return the edge map, scaled to 0..1; all 0 where there are no edges."""
        strength = self.strength / max(float(self.strength.max(initial=0)), np.finfo(np.float32).tiny)
        if thinned:
            strength = suppress_non_maxima(strength, self.gradient)
        return strength.astype(np.float32)


def outer_boundary(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels outside a mask that have one of their eight neighbours in it."""
    return np.asarray(ndimage.binary_dilation(mask, _EIGHT_NEIGHBOURS) & ~mask)


def _window(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Return the rows and columns of a mask with its outer boundary and the pixels that Sobel's filter sees there."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, int(rows[0]) - 3), int(rows[-1]) + 4),
        slice(max(0, int(columns[0]) - 3), int(columns[-1]) + 4),
    )

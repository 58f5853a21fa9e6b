"""Zoom: segment each instance again in a crop around its box, at the segmenter's full resolution.

A segmenter sees every image at one size and returns masks of a quarter of that: an object of a tenth of the image's
width gets a hundredth of the cells. Crops help where objects are small, as they do in the automatic mask generation of
Segment Anything (section 4) with its zoomed-in crops; here each crop is made for one box.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grounded.data.instances import Instances
from grounded.data.protocols import Segmenter
from grounded.stages.verify import distinct_rows
from segany import Prompts
from segany.utils.points import NO_POINT
from segany.utils.rle import RLE, encode_rle

# A window of nearly the whole image would show nothing that the image has not shown.
_LARGEST = 0.8  # of the image's longer side
_LEAST_SIDE = 64.0  # pixels: around a dot, a little of its surroundings must be seen
# Windows come in a few sizes and places, so that a box that is found a little elsewhere gets the same window.
_SIZES = 4  # from one side to its double
_PLACES = 16  # along a window


def zoom(
    segmenter: Segmenter,
    instances: Instances,
    prompts: Prompts,
    scale: float,
    nms_threshold: float | None,
    containment_threshold: float | None,
    *,
    encode: Callable[["Window"], Any],
) -> Instances:
    """Segment each instance again in a window around its box.

    Duplicates are dropped first: two boxes of one object would no longer give one mask in two windows. Instances whose
    window would be nearly the whole image stay as they are.

    Args:
        instances: n of them, from prompts with boxes.
        prompts: that led to the instances, in pixels of the image, without mask prompts.
        scale: side of a window, as a multiple of the longer side of the box.
        nms_threshold, containment_threshold: as in `grounded.stages.verify.suppress`.
        encode: returns the segmenter's embedding of a window of the image.

    Returns:
        the distinct instances, with masks and predicted IoU of the windows.
    """
    rows = distinct_rows(instances, nms_threshold, containment_threshold)
    instances, prompts = instances[rows], prompts[rows]
    rles, predicted_iou = list(instances.rles), instances.predicted_iou.copy()
    for row in range(len(instances)):
        window = None if prompts.boxes is None else window_around(prompts.boxes[row], instances.image_size, scale)
        if window is not None:
            prompt = _prompts_in_window(prompts[[row]], window)
            prediction = segmenter.predict(encode(window), prompt, multimask_output=False)
            rles[row] = window.masks_to_image(prediction.masks[:, 0])[0]
            predicted_iou[row] = float(prediction.predicted_iou[0, 0])
    return replace(instances, rles=tuple(rles), predicted_iou=predicted_iou)


@dataclass(frozen=True)
class Window:
    """A part of an image: whole pixels of the upright original, the far sides behind the last."""

    x0: int
    y0: int
    x1: int
    y1: int
    image_size: tuple[int, int]  # (height, width) of the image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1."""
        return self.x0, self.y0, self.x1, self.y1

    def crop_mask(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "a b"]:
        """Cut the window out of a mask of the image."""
        return mask[self.y0 : self.y1, self.x0 : self.x1]

    def points_from_image(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Move (x, y) from the frame of the image to that of the window."""
        return points - points.new_tensor([self.x0, self.y0])

    def contains(self, points: Float[Tensor, "*n 2"]) -> Bool[Tensor, "*n"]:
        """Whether points in the frame of the window lie in it, its edges included."""
        height, width = self.size
        return (points >= 0).all(-1) & (points <= points.new_tensor([width, height])).all(-1)

    def box_from_image(self, box: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
        """Move an xyxy box from the frame of the image to that of the window, and cut off what reaches beyond it."""
        height, width = self.size
        shifted = box - np.array([self.x0, self.y0, self.x0, self.y0], dtype=box.dtype)
        return shifted.clip(0, np.array([width, height, width, height], dtype=box.dtype))

    def masks_to_image(self, masks: Bool[Tensor, "n a b"]) -> list[RLE]:
        """Move masks of the window to the frame of the image; outside the window they are empty."""
        height, width = self.image_size
        margins = self.x0, width - self.x1, self.y0, height - self.y1
        return encode_rle(torch.nn.functional.pad(masks, margins))


def window_around(box: Float[np.ndarray | Tensor, "4"], image_size: tuple[int, int], scale: float) -> Window | None:
    """Return a square window around a box, `scale` times as long as the longer side of the box or a little more.

    The box lies in its middle, to within a thirtieth of its side. At the border of the image the window is moved
    inwards, and where the image is less wide or high than the window, the window is no square.

    Args:
        box: xyxy in pixels.
        image_size: (height, width).

    Returns:
        None where the window would be nearly the whole image.
    """
    height, width = image_size
    x0, y0, x1, y1 = (float(side) for side in box)
    side = max(scale * max(x1 - x0, y1 - y0), _LEAST_SIDE)
    if not side <= _LARGEST * max(height, width):
        return None
    side = 2 ** (math.ceil(_SIZES * math.log2(side)) / _SIZES)
    step = side / _PLACES
    left, right = _inside(round((x0 + x1 - side) / 2 / step) * step, side, width)
    top, bottom = _inside(round((y0 + y1 - side) / 2 / step) * step, side, height)
    return Window(left, top, right, bottom, image_size)


def _inside(start: float, length: float, limit: int) -> tuple[int, int]:
    """Move an interval into 0..limit, and return whole numbers around it."""
    start = min(max(start, 0), max(limit - length, 0))
    return int(start), min(int(np.ceil(start + length)), limit)


def _prompts_in_window(prompts: Prompts, window: Window) -> Prompts:
    """Move prompts from the image to a window; points outside the window become padding."""
    points, labels = prompts.points, prompts.point_labels
    if points is not None and labels is not None:
        points = window.points_from_image(points)
        labels = torch.where(window.contains(points), labels, NO_POINT)
    boxes = prompts.boxes
    boxes = None if boxes is None else window.points_from_image(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    return Prompts(points=points, point_labels=labels, boxes=boxes, text=prompts.text)

"""A closer look at each instance: its part of the picture is embedded anew, at the segmenter's full resolution.

A segmenter sees every picture at one size, and answers with masks of a quarter of that: an object of a tenth of the
picture gets a hundredth of the cells. Crops repair this where objects are small, as they do in the automatic mask
generation of Segment Anything (section 4) with its zoomed-in crops; here the crop is made for the box.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from grounded.data.protocols import Segmenter
from segany import Prompts
from segany.utils.points import NO_POINT
from segany.utils.rle import RLE, encode_rle

# A window of nearly the whole picture would show nothing that the picture has not shown.
_LARGEST = 0.8  # of the picture's longer side
_LEAST_SIDE = 64.0  # pixels: around a dot, a little of what surrounds it must be seen
# Windows come in a few sizes and places, so that a box which is found a little elsewhere gets the same one, and the
# same picture to look at.
_SIZES = 4  # from one side to its double
_PLACES = 16  # along a window


@dataclass(frozen=True)
class Window:
    """A part of a picture: whole pixels of the upright original, the far sides behind the last."""

    x0: int
    y0: int
    x1: int
    y1: int
    image_size: tuple[int, int]  # (height, width) of the picture

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    def crop(self, image: Image.Image) -> Image.Image:
        """The part of the picture itself."""
        return image.crop((self.x0, self.y0, self.x1, self.y1))

    def cut(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "a b"]:
        """The part of a mask of the picture."""
        return mask[self.y0 : self.y1, self.x0 : self.x1]

    def inwards(self, places: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """(x, y) of the picture -> (x, y) of the window."""
        return places - places.new_tensor([self.x0, self.y0])

    def box_inwards(self, box: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
        """Xyxy of the picture -> xyxy of the window, less what reaches beyond it."""
        height, width = self.size
        shifted = box - np.array([self.x0, self.y0, self.x0, self.y0], dtype=box.dtype)
        return shifted.clip(0, np.array([width, height, width, height], dtype=box.dtype))

    def outwards(self, masks: Bool[Tensor, "n a b"]) -> list[RLE]:
        """Masks of the window -> of the picture, where they are empty outside the window."""
        height, width = self.image_size
        margins = self.x0, width - self.x1, self.y0, height - self.y1
        return encode_rle(torch.nn.functional.pad(masks, margins))


def window_around(box: Float[np.ndarray | Tensor, "4"], image_size: tuple[int, int], scale: float) -> Window | None:
    """The square part of the picture around a box, `scale` times as long as the box's longer side or a little more.

    The box is in its middle, but for a thirtieth of its side. At the border it is moved inwards, and where the picture
    is less wide or high, it is no square.

    Args:
        box: xyxy in pixels.
        image_size: (height, width).

    Returns:
        None where that would be nearly the whole picture.
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
    """Whole numbers around a stretch that is moved into 0..limit."""
    start = min(max(start, 0), max(limit - length, 0))
    return int(start), min(int(np.ceil(start + length)), limit)


def look_closer(
    segmenter: Segmenter,
    encode: Callable[[Window], Any],
    image_size: tuple[int, int],
    prompts: Prompts,
    scale: float,
) -> Iterator[tuple[int, RLE, float]]:
    """Ask for each instance again, in a window around its box.

    Instances of which the window would be nearly the whole picture are left as they are.

    Args:
        encode: gives the segmenter's embedding of a part of the picture.
        image_size: (height, width) of the picture.
        prompts: of n instances, in pixels of the picture; a box for each. Mask prompts, which are about the whole
            picture, have no part in this.
        scale: side of a window, as a multiple of the longer side of the box.

    Yields:
        row of the instance, its new mask in the frame of the picture, and the predicted IoU of that mask.
    """
    if prompts.boxes is None:
        return
    for row, box in enumerate(prompts.boxes):
        window = window_around(box, image_size, scale)
        if window is not None:
            answer = segmenter.predict(encode(window), _inwards(prompts[[row]], window), multimask_output=False)
            yield row, window.outwards(answer.masks[:, 0])[0], float(answer.predicted_iou[0, 0])


def _inwards(prompts: Prompts, window: Window) -> Prompts:
    """Prompts of the picture -> of the window; points outside it become padding."""
    points, labels = prompts.points, prompts.point_labels
    if points is not None and labels is not None:
        points, (height, width) = window.inwards(points), window.size
        seen = (points >= 0).all(-1) & (points <= points.new_tensor([width, height])).all(-1)
        labels = torch.where(seen, labels, NO_POINT)
    boxes = None if prompts.boxes is None else window.inwards(prompts.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    return Prompts(points=points, point_labels=labels, boxes=boxes, text=prompts.text)

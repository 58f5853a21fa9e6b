"""Boxes: conversions named by both ends, IoU and non-maximum suppression.

Boxes are float pixels in the frame of their image unless a function says otherwise; the last axis holds the four
numbers. The formats are xyxy (two opposite corners), xywh (top-left corner, then width and height, as COCO files store
them) and cxcywh (centre, then width and height, as detectors predict them).
"""

import torch
import torchvision
from jaxtyping import Float, Int
from torch import Tensor


def xyxy_to_xywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Two corners to top-left corner and size."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([x0, y0, x1 - x0, y1 - y0], dim=-1)


def xywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Top-left corner and size to two corners."""
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x, y, x + w, y + h], dim=-1)


def xyxy_to_cxcywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Two corners to centre and size."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)


def cxcywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Centre and size to two corners."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


def clip_boxes(boxes: Float[Tensor, "*n 4"], image_size: tuple[int, int]) -> Float[Tensor, "*n 4"]:
    """Move the corners of xyxy boxes into an image of (height, width) pixels."""
    height, width = image_size
    limits = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limits)


def box_area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Area of xyxy boxes in square pixels; 0 for a box whose corners are out of order."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def box_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every xyxy box of `a` with every one of `b`; 0 where both have no area."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)  # (n, m)
    union = box_area(a)[:, None] + box_area(b)[None, :] - intersection
    return torch.where(union > 0, intersection / union, 0)


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], iou_threshold: float) -> Int[Tensor, "k"]:
    """Non-maximum suppression: indices of the xyxy boxes that stay, highest score first.

    A box is dropped when its IoU with a box that stays and scores higher is above `iou_threshold`.
    Of equal scores the earlier box comes first. Memory for n boxes: some n numbers on a CPU, n² bits on a GPU.
    """
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def batched_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], class_ids: Int[Tensor, "n"], iou_threshold: float
) -> Int[Tensor, "k"]:
    """`nms` within each class: boxes of different classes never suppress one another."""
    return torchvision.ops.batched_nms(boxes, scores, class_ids, iou_threshold)

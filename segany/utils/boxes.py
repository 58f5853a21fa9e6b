"""Boxes as tensors: conversion, clipping, area, IoU and non-maximum suppression.

Boxes are float pixels of their image unless a function says otherwise; the last axis holds the four numbers. The
formats are xyxy (top-left and bottom-right corner) and cxcywh (centre, then width and height, as detectors predict).
"""

import torch
import torchvision
from jaxtyping import Float, Int
from torch import Tensor


def cxcywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Centre and size to top-left and bottom-right corner."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


def clip_boxes(boxes: Float[Tensor, "*n 4"], image_size: tuple[int, int]) -> Float[Tensor, "*n 4"]:
    """Clamp xyxy boxes to an image of (height, width) pixels."""
    height, width = image_size
    limits = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limits)


def box_area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Area of xyxy boxes in square pixels; 0 for a box with swapped corners."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def box_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every xyxy box of `a` with every box of `b`; 0 where both have no area."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)  # (n, m)
    union = box_area(a)[:, None] + box_area(b)[None, :] - intersection
    return torch.where(union > 0, intersection / union, 0)


def generalised_iou(
    a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """IoU and generalised IoU (Rezatofighi et al., 2019) of pairs of xyxy boxes, whose leading axes broadcast."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = box_area(a) + box_area(b) - inner
    iou = inner / union.clamp(min=1e-7)
    return iou, iou - (outer - union) / outer.clamp(min=1e-7)


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], iou_threshold: float) -> Int[Tensor, "k"]:
    """Non-maximum suppression: indices of the xyxy boxes that are kept, highest score first.

    A box is dropped if its IoU with a kept box of higher score is above `iou_threshold`. Of boxes with equal scores the
    earlier one comes first. Memory for n boxes: O(n) on a CPU, n² bits on a GPU.
    """
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def batched_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], class_ids: Int[Tensor, "n"], iou_threshold: float
) -> Int[Tensor, "k"]:
    """`nms` within each class: boxes of different classes never suppress one another."""
    return torchvision.ops.batched_nms(boxes, scores, class_ids, iou_threshold)

"""Detections, text embeddings and heat maps -> prompts for the segmenter."""

from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from grounded.data.detections import Detections
from grounded.errors import PromptError
from grounded.settings import Mode
from segany import Prompts

T = TypeVar("T")


def build(
    detections: Detections | None,
    text_embeddings: Float[Tensor, "p c"] | None,
    mode: Mode = "box",
) -> Prompts:
    """Return the prompts of one image, in original pixels.

    "box" and "box+text" give one prompt per detection, the latter with the embedding of the detection's phrase beside
    the box. "text" gives one prompt per phrase, with neither box nor point, as in section 7.5 of the Segment Anything
    paper.

    Args:
        detections: needed in every mode but "text".
        text_embeddings: one per phrase; needed in every mode but "box".

    Raises:
        PromptError: what the mode needs is missing, or there is not one embedding per phrase.
    """
    if mode == "box":
        return Prompts(boxes=_needed(detections, "detections", mode).boxes)
    text = _needed(text_embeddings, "text embeddings", mode)
    if mode == "text":
        return Prompts(text=text[:, None])  # (p, 1, c)
    found = _needed(detections, "detections", mode)
    if len(text) != found.scores.shape[1]:
        raise PromptError(f"text embeddings must be one per phrase, {found.scores.shape[1]}, got {len(text)}")
    boxes, ids = (torch.from_numpy(array).to(text.device) for array in (found.boxes, found.phrase_ids))
    return Prompts(boxes=boxes, text=text[ids][:, None])  # (n, 1, c)


def build_dense(
    points: Float[Tensor, "p k 2"],
    labels: Int64[Tensor, "p k"],
    masks: Float[Tensor, "p 1 l1 l2"],
    detections: Detections | None = None,
) -> Prompts:
    """Return the prompts that heat maps of p phrases give, for a segmenter without a text token.

    Alone, they give one prompt per phrase. With detections there is one prompt per box, in which the foreground points
    of the box's own phrase that lie inside it remain, and all background points outside; coarse masks are left out, for
    they cover all objects of a phrase.

    Args:
        points: (x, y) in original pixels.
        labels: 1 foreground, 0 background, -1 padding.
        masks: the coarse masks as low-resolution logits in the segmenter's own frame.
        detections: the boxes of "box+text".

    Raises:
        PromptError: there is not one row per phrase.
    """
    expected = len(points) if detections is None else detections.scores.shape[1]
    if not len(points) == len(labels) == len(masks) == expected:
        counts = f"{len(points)} of points, {len(labels)} of labels, {len(masks)} of masks"
        raise PromptError(f"heat prompts must have one row per phrase, {expected}, got {counts}")
    if detections is None:
        return Prompts(points=points, point_labels=labels, masks=masks)
    boxes, ids = (torch.from_numpy(array).to(points.device) for array in (detections.boxes, detections.phrase_ids))
    points, labels = points[ids], labels[ids]  # (n, k, 2), (n, k)
    inside = ((points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])).all(dim=-1)
    return Prompts(points=points, point_labels=labels.where(inside == (labels == 1), -1), boxes=boxes)


def with_points(prompts: Prompts, points: Float[Tensor, "n k 2"], labels: Int64[Tensor, "n k"]) -> Prompts:
    """Return `prompts` with k points more for each, in original pixels; label -1 is padding."""
    if points.shape[1] == 0:
        return prompts
    if prompts.points is not None and prompts.point_labels is not None:
        points = torch.cat([prompts.points, points.to(prompts.points)], dim=1)
        labels = torch.cat([prompts.point_labels, labels.to(prompts.point_labels)], dim=1)
    return Prompts(points=points, point_labels=labels, boxes=prompts.boxes, masks=prompts.masks, text=prompts.text)


def _needed(value: T | None, name: str, mode: Mode) -> T:
    if value is None:
        raise PromptError(f"mode {mode!r} needs {name}, got none")
    return value

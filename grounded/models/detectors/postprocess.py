"""From what a detector says of tokens to detections of phrases."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segany.utils.boxes import batched_nms, clip_boxes, cxcywh_to_xyxy, nms


def phrase_scores(
    logits: Float[Tensor, "q t"], spans: Sequence[tuple[int, int]], reduction: Literal["mean", "max"] = "mean"
) -> Float[Tensor, "q k"]:
    """Score of each query for each phrase in 0..1: the mean (or maximum) of its tokens' probabilities.

    The mean over a phrase's own tokens is the protocol behind Grounding DINO's published COCO results.

    Args:
        logits: of each query for each token; -inf for padding.
        spans: for each of the k phrases the first token and the one after the last.
        reduction: "mean" or "max".
    """
    probabilities = logits.float().sigmoid()
    columns = [probabilities[:, first:end] for first, end in spans]
    if reduction == "mean":
        return torch.stack([column.mean(dim=1) for column in columns], dim=1)
    return torch.stack([column.amax(dim=1) for column in columns], dim=1)


def place_columns(scores: Float[Tensor, "q k"], phrase_ids: Sequence[int], count: int) -> Float[Tensor, "q p"]:
    """Scores for k of `count` phrases as scores for all of them; 0 for phrases that this prompt did not ask for."""
    placed = scores.new_zeros(len(scores), count)
    placed[:, list(phrase_ids)] = scores
    return placed


def to_pixels(boxes: Float[Tensor, "q 4"], image_size: tuple[int, int]) -> Float[Tensor, "q 4"]:
    """Relative cxcywh boxes as xyxy pixels, cut at the borders of an image of (height, width)."""
    height, width = image_size
    return clip_boxes(
        cxcywh_to_xyxy(boxes.float()) * boxes.new_tensor([width, height, width, height]).float(), image_size
    )


def select(
    boxes: Float[Tensor, "q 4"],
    scores: Float[Tensor, "q p"],
    *,
    box_threshold: float,
    nms_threshold: float,
    cross_phrase_nms: float | None = None,
    max_detections: int | None = None,
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Choose the queries that become detections, best score first. Each belongs to the phrase that it scores highest.

    Args:
        boxes: xyxy pixels; boxes without area are never chosen.
        scores: of each query for each of at least one phrase.
        box_threshold: least score for a query's own phrase.
        nms_threshold: box IoU above which the weaker of two detections of one phrase is dropped.
        cross_phrase_nms: the same for detections of different phrases; None keeps both.
        max_detections: most detections; None for all.

    Returns:
        indices of the chosen queries, and the phrase index of each.
    """
    own_scores, phrase_ids = scores.max(dim=1)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    chosen = torch.nonzero(has_area & (own_scores >= box_threshold)).squeeze(1)
    chosen = chosen[batched_nms(boxes[chosen], own_scores[chosen], phrase_ids[chosen], nms_threshold)]
    if cross_phrase_nms is not None:
        chosen = chosen[nms(boxes[chosen], own_scores[chosen], cross_phrase_nms)]
    chosen = chosen[:max_detections]
    return chosen, phrase_ids[chosen]

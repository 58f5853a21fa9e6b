"""Refine: correct masks where they contradict each other or their boxes, and remove small regions."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grounded.data.instances import Instances
from grounded.data.protocols import Segmenter
from grounded.errors import PromptError
from segany import MaskPrediction, Prompts
from segany.utils.masks import remove_small_regions
from segany.utils.points import BACKGROUND, FOREGROUND, NO_POINT, deepest_points
from segany.utils.rle import decode_rle, encode_rle, rle_boxes

# Of two masks of which the smaller lies in the other by at least this share, one is a part of the other (a wheel in a
# car) or both are the same object: neither is a mistake of the other.
_NESTED = 0.5
# In low-resolution pixels. An error less than three pixels thick is a matter of the outline, which no point repairs.
_MIN_DEPTH = 1.5
_LEAK_MARGIN = 0.1  # around a box, as a share of its sides; a detector's box may well be off by less


def refine(
    segmenter: Segmenter, embedding: Any, prediction: MaskPrediction, prompts: Prompts, rounds: int = 1
) -> MaskPrediction:
    """Correct the first masks of the instances of one image by `correction_points`.

    Each round decodes the masks that have such points again, with the box, all points so far and the last logits as
    mask prompt, and keeps of each instance the mask of higher predicted IoU. An instance whose new mask is not better
    is left alone from then on, and so is one without anything to correct.

    Args:
        prediction: one mask for each instance (m = 1).
        prompts: what the instances were prompted with, in original pixels: a box each.
        rounds: 0 returns the prediction as it is.

    Raises:
        PromptError: the prediction holds several masks for an instance, or the prompts have no boxes.
    """
    if prediction.predicted_iou.shape[1] != 1:
        raise PromptError(f"refine needs one mask for each instance, got {prediction.predicted_iou.shape[1]}")
    if prompts.boxes is None:
        raise PromptError("refine needs prompts with boxes, got none")
    device = prediction.low_res_logits.device
    boxes = prompts.boxes.to(device)
    points = boxes.new_zeros(len(boxes), 0, 2) if prompts.points is None else prompts.points.to(device)
    labels = points.new_zeros(points.shape[:2], dtype=torch.int64)
    labels = labels if prompts.point_labels is None else prompts.point_labels.to(device)
    waiting = torch.ones(len(prediction), dtype=torch.bool, device=device)
    for _ in range(rounds):
        logits = prediction.frame.crop_padding(prediction.low_res_logits[:, 0]).float()
        scores = prediction.predicted_iou[:, 0]
        new_points, new_labels = correction_points(logits, scores, boxes, prediction.original_size, points, labels)
        rows = torch.nonzero(waiting & (new_labels != NO_POINT).any(1)).squeeze(1)
        if len(rows) == 0:
            break
        points, labels = torch.cat([points, new_points], 1), torch.cat([labels, new_labels], 1)
        corrected = Prompts(
            points=points[rows],
            point_labels=labels[rows],
            boxes=boxes[rows],
            masks=prediction.low_res_logits[rows],
            text=None if prompts.text is None else prompts.text.to(device)[rows],
        )
        again = segmenter.predict(embedding, corrected, multimask_output=False)
        better = again.predicted_iou[:, 0] > scores[rows]
        prediction = replace(
            prediction,
            low_res_logits=prediction.low_res_logits.index_copy(0, rows[better], again[better].low_res_logits),
            predicted_iou=prediction.predicted_iou.index_copy(0, rows[better], again[better].predicted_iou),
        )
        waiting = torch.zeros_like(waiting).index_fill(0, rows[better], True)
    return prediction


def correction_points(
    logits: Float[Tensor, "n h w"],
    scores: Float[Tensor, "n"],
    boxes: Float[Tensor, "n 4"],
    image_size: tuple[int, int],
    points: Float[Tensor, "n k 2"] | None = None,
    labels: Int[Tensor, "n k"] | None = None,
) -> tuple[Float[Tensor, "n 2 2"], Int[Tensor, "n 2"]]:
    """Background points where the masks of one image look wrong; at most two for each.

    The first lies where another mask of higher score overlaps and is surer of it by its logits, the second where the
    mask leaks beyond its box; each in the deepest place of that region. None is suggested so near a foreground point
    of the same instance that the region is around both.

    Args:
        logits: of the whole image, at any resolution; low resolution is exact enough, and fast.
        scores: predicted IoU, or what else ranks the masks.
        boxes: xyxy in original pixels.
        image_size: (height, width) of the original image.
        points, labels: what is known of the instances already, in original pixels.

    Returns:
        points in original pixels and their labels: 0, or -1 (padding) where there is nothing to correct.
    """
    masks = logits > 0
    scale = _cell_size(logits, image_size)
    wrong = torch.stack([_lost_overlaps(logits, scores), masks & ~_inside_boxes(boxes / scale.repeat(2), masks)], 1)
    cells, depths = deepest_points(wrong)  # (n, 2, 2), (n, 2)
    suggested = depths >= _MIN_DEPTH
    if points is not None and labels is not None:
        apart = torch.cdist(cells + 0.5, (points + 0.5) / scale)  # (n, 2, k)
        suggested &= ((apart > depths[..., None]) | (labels != FOREGROUND)[:, None]).all(-1)
    return ((cells + 0.5) * scale - 0.5).clamp(min=0), torch.where(suggested, BACKGROUND, NO_POINT)


def _cell_size(logits: Float[Tensor, "n h w"], image_size: tuple[int, int]) -> Float[Tensor, "2"]:
    """(x, y) extent in original pixels of one pixel of logits that cover the image."""
    return logits.new_tensor([image_size[1] / logits.shape[2], image_size[0] / logits.shape[1]])


def _lost_overlaps(logits: Float[Tensor, "n h w"], scores: Float[Tensor, "n"]) -> Bool[Tensor, "n h w"]:
    """Where a mask overlaps one of higher score that is surer of the place."""
    masks = logits > 0
    pixels = masks.flatten(1).float()
    common, areas = pixels @ pixels.T, pixels.sum(1)
    partial = (common > 0) & (common < _NESTED * torch.minimum(areas[:, None], areas))
    rivals = partial & (scores[None] > scores[:, None])
    lost = torch.zeros_like(masks)
    for i in torch.nonzero(rivals.any(1)).squeeze(1).tolist():
        lost[i] = masks[i] & (logits[rivals[i]].amax(0) > logits[i])
    return lost


def _inside_boxes(boxes: Float[Tensor, "n 4"], masks: Bool[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    """Pixels whose centres lie in the boxes, in pixels of the masks, with a margin."""
    margin = _LEAK_MARGIN * (boxes[:, 2:] - boxes[:, :2])
    x0, y0, x1, y1 = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1)[..., None].unbind(1)
    x = torch.arange(masks.shape[2], device=masks.device) + 0.5
    y = torch.arange(masks.shape[1], device=masks.device) + 0.5
    return ((x >= x0) & (x <= x1))[:, None, :] & ((y >= y0) & (y <= y1))[:, :, None]


def clean(instances: Instances, min_area: int) -> Instances:
    """Fill holes and remove islands of fewer than `min_area` pixels; boxes of a detector stay as they are."""
    masks = (remove_small_regions(decode_rle([rle]), min_area) for rle in instances.rles)
    rles = [
        encode_rle(mask)[0] if bool(touched) else rle
        for rle, (mask, touched) in zip(instances.rles, masks, strict=True)
    ]
    detected = (instances.sources == "detector")[:, None]
    return replace(
        instances, rles=tuple(rles), boxes=np.where(detected, instances.boxes, rle_boxes(rles).astype(np.float32))
    )

"""Masks from boxes (Segment Anything, section 7.4 and appendix D.4). Needs a segmenter, and for its boxes a detector.

A box is hardly ambiguous, so that the segmenter's single mask is taken. It can be fed back with the box some times,
which mends a little. What ranks a mask is the score of its box; true boxes have none, and the predicted IoU does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from PIL import Image

from grounded.data.detections import Detections
from grounded.data.protocols import Detector, EmbeddingDetector, Segmenter
from grounded.stages.segment import encode_masks, first_iou
from segany import Prompts
from segany.precision import own_precision
from segany.utils.rle import RLE


@dataclass(frozen=True, eq=False)
class BoxMasks:
    """One mask for each of n boxes, in their order."""

    rles: tuple[RLE, ...]
    predicted_iou: Float32[np.ndarray, "n"]


@torch.no_grad()
@own_precision()
def segment_boxes(
    segmenter: Segmenter,
    embedding: Any,
    boxes: Float[np.ndarray, "n 4"],
    iterations: int = 0,
    boxes_per_batch: int = 64,
) -> BoxMasks:
    """Return the masks of boxes in one image.

    Args:
        segmenter: any that takes boxes, and for iterations mask prompts.
        embedding: of the image, by this segmenter.
        boxes: xyxy in pixels of the upright image.
        iterations: how often the mask is predicted again, from the box and the last mask.
        boxes_per_batch: decoded together; does not change the masks.
    """
    rles: list[RLE] = []
    predicted_iou = [np.zeros(0, np.float32)]
    for start in range(0, len(boxes), boxes_per_batch):
        part = torch.from_numpy(np.asarray(boxes[start : start + boxes_per_batch], np.float32))
        prediction = segmenter.predict(embedding, Prompts(boxes=part), multimask_output=False).best()
        for _ in range(iterations):
            again = Prompts(boxes=part, masks=prediction.low_res_logits)
            prediction = segmenter.predict(embedding, again, multimask_output=False).best()
        rles += encode_masks(prediction)
        predicted_iou.append(first_iou(prediction))
    return BoxMasks(tuple(rles), np.concatenate(predicted_iou))


def detect_classes(
    detector: Detector, embed: Callable[[], Any], image: Image.Image, phrases: Sequence[str]
) -> Detections:
    """Return the boxes that a detector finds for phrases in an image, best first.

    Args:
        detector: of any kind.
        embed: returns the segmenter's embedding of the image, on which some detectors work.
        image: upright RGB.
        phrases: one for each class.
    """
    if isinstance(detector, EmbeddingDetector):
        return detector.detect_embedded(embed(), phrases)
    return detector.detect([image], [phrases])[0]


def clip_boxes(boxes: Float[np.ndarray, "n 4"], image_size: tuple[int, int]) -> Float64[np.ndarray, "n 4"]:
    """Return boxes cut off at the borders of an image of (height, width) pixels."""
    height, width = image_size
    return np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, [width, height, width, height])

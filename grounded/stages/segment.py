"""Segment: prompts become masks, and masks become instances."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from grounded.data.instances import Instances
from grounded.data.protocols import MaskPromptable, Segmenter
from grounded.errors import ConfigError
from grounded.stages.prompt import PromptGroup
from grounded.stages.refine import refine
from segany import MaskPrediction
from segany.utils.rle import RLE, encode_rle

# Full-size masks are made for this many pixels at a time: 100 masks of a 12-megapixel image would be 5 GB of logits.
_PIXELS_AT_ONCE = 1 << 25


def segment(
    segmenter: Segmenter,
    embedding: Any,
    group: PromptGroup,
    phrases: tuple[str, ...],
    multimask_output: bool = False,
    refine_rounds: int = 0,
) -> Instances:
    """Return one instance for each prompt of a group, in their order.

    Args:
        embedding: of the image, by this segmenter.
        multimask_output: let the segmenter propose several masks per prompt, and take the one of highest predicted IoU.
        refine_rounds: rounds of correction points for detections, see `grounded.stages.refine`.

    Raises:
        ConfigError: the group has coarse masks, and the segmenter takes no mask prompts.
    """
    prompts = group.prompts
    if group.coarse_masks is not None:
        if not isinstance(segmenter, MaskPromptable):
            raise ConfigError(f"coarse masks need a segmenter with mask prompts, got {type(segmenter).__name__}")
        prompts = replace(prompts, masks=segmenter.mask_prompts(embedding, group.coarse_masks))
    prediction = segmenter.predict(embedding, prompts, multimask_output=multimask_output).best()
    if refine_rounds and group.detections is not None:
        prediction = refine(segmenter, embedding, prediction, prompts, refine_rounds)
    rles, predicted_iou = encode_masks(prediction), first_iou(prediction)
    size = prediction.original_size
    instances = Instances.from_masks(phrases, size, rles, group.phrase_ids, predicted_iou, group.source)
    detections = group.detections
    if detections is None:
        return instances
    return replace(
        instances,
        boxes=detections.boxes,
        scores=detections.score,
        detector_scores=detections.score,
        best_token_scores=detections.best_token_scores,
        phrase_scores=detections.scores,
    )


def encode_masks(prediction: MaskPrediction) -> list[RLE]:
    """Run-length encode the first mask of every prompt, a few at full size at a time."""
    height, width = prediction.original_size
    step = max(1, _PIXELS_AT_ONCE // (height * width))
    return [rle for i in range(0, len(prediction), step) for rle in encode_rle(prediction[i : i + step].masks[:, 0])]


def first_iou(prediction: MaskPrediction) -> Float32[np.ndarray, "n"]:
    """Return the predicted IoU of the first mask of every prompt."""
    return prediction.predicted_iou[:, 0].float().cpu().numpy()

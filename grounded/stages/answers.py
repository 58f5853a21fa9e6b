"""What the segmenter answered -> instances: encoding, ranking, and one more opinion from CLIP."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32, Int
from pycocotools import mask as coco_mask

from grounded.data.detections import Detections
from grounded.data.instances import Instances
from grounded.settings import PromptingConfig
from grounded.stages.suppression import suppress
from segany import MaskPrediction
from segany.utils.masks import remove_small_regions
from segany.utils.rle import RLE, decode_rle, encode_rle

# Full-size masks are made for this many pixels at a time: 100 masks of a 12-megapixel image would be 5 GB of logits.
_PIXELS_AT_ONCE = 1 << 25


def encode_masks(prediction: MaskPrediction) -> list[RLE]:
    """Run-length encode the first mask of every prompt, a few at full size at a time."""
    height, width = prediction.original_size
    step = max(1, _PIXELS_AT_ONCE // (height * width))
    return [rle for i in range(0, len(prediction), step) for rle in encode_rle(prediction[i : i + step].masks[:, 0])]


def tight_boxes(rles: Sequence[RLE]) -> Float32[np.ndarray, "n 4"]:
    """Xyxy boxes around the pixels of each mask; the far sides lie behind the last pixel."""
    xywh = np.array([coco_mask.toBbox(rle) for rle in rles], dtype=np.float32).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def from_detections(phrases: tuple[str, ...], prediction: MaskPrediction, detections: Detections) -> Instances:
    """One instance per detection, ranked by the detector; `prediction` holds one mask for each."""
    predicted_iou = first_iou(prediction)
    return Instances(
        phrases=phrases,
        image_size=prediction.original_size,
        phrase_ids=detections.phrase_ids,
        boxes=detections.boxes,
        rles=tuple(encode_masks(prediction)),
        scores=detections.score,
        detector_scores=detections.score,
        clip_scores=np.full_like(predicted_iou, np.nan),
        predicted_iou=predicted_iou,
        phrase_scores=detections.scores,
        sources=np.array(["detector"] * len(predicted_iou), dtype=np.str_),
    )


def from_masks(
    phrases: tuple[str, ...],
    image_size: tuple[int, int],
    rles: Sequence[RLE],
    phrase_ids: Int[np.ndarray, "n"],
    predicted_iou: Float[np.ndarray, "n"],
    source: str,
) -> Instances:
    """One instance per mask that no detector has scored, ranked by predicted IoU."""
    unknown = np.full(len(rles), np.nan, dtype=np.float32)
    return Instances(
        phrases=phrases,
        image_size=image_size,
        phrase_ids=phrase_ids,
        boxes=tight_boxes(rles),
        rles=tuple(rles),
        scores=predicted_iou,
        detector_scores=unknown,
        clip_scores=unknown,
        predicted_iou=predicted_iou,
        phrase_scores=np.full((len(rles), len(phrases)), np.nan, dtype=np.float32),
        sources=np.array([source] * len(rles), dtype=np.str_),
    )


def first_iou(prediction: MaskPrediction) -> Float32[np.ndarray, "n"]:
    """The predicted IoU of the first mask of every prompt."""
    return prediction.predicted_iou[:, 0].float().cpu().numpy()


def with_clip_scores(instances: Instances, probabilities: Float[np.ndarray, "n p"]) -> Instances:
    """Add CLIP's scores, and rank by the geometric mean with the detector's score, or with predicted IoU where no
    detector has scored.
    """
    own = probabilities[np.arange(len(instances)), instances.phrase_ids].astype(np.float32)
    scored = np.isfinite(instances.detector_scores)
    other = np.where(scored, instances.detector_scores, instances.predicted_iou.clip(0, 1))
    return replace(instances, clip_scores=own, scores=np.sqrt(own * other))


def distinct(instances: Instances, prompting: PromptingConfig) -> Instances:
    """Drop empty masks, then all but the best of masks of one phrase that nearly coincide; best first."""
    return instances[distinct_rows(instances, prompting)]


def distinct_rows(instances: Instances, prompting: PromptingConfig) -> list[int]:
    """The rows that `distinct` leaves."""
    rows = [i for i, rle in enumerate(instances.rles) if coco_mask.area(rle) > 0]
    shown = instances[rows]
    kept = suppress(
        shown.rles,
        shown.scores,
        shown.phrase_ids,
        prompting.mask_nms_threshold,
        prompting.mask_containment_threshold,
    )
    return [rows[i] for i in kept]


def cleaned(instances: Instances, min_area: int) -> Instances:
    """Fill holes and remove islands of fewer than `min_area` pixels; boxes of a detector stay as they are."""
    if min_area == 0 or len(instances) == 0:
        return instances
    masks = (remove_small_regions(decode_rle([rle]), min_area) for rle in instances.rles)
    rles = [
        encode_rle(mask)[0] if bool(touched) else rle
        for rle, (mask, touched) in zip(instances.rles, masks, strict=True)
    ]
    drawn = (instances.sources == "detector")[:, None]
    return replace(instances, rles=tuple(rles), boxes=np.where(drawn, instances.boxes, tight_boxes(rles)))


def missed(instances: Instances) -> list[int]:
    """Indices of the phrases without an instance."""
    found = set(instances.phrase_ids.tolist())
    return [i for i in range(len(instances.phrases)) if i not in found]

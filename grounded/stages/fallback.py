"""Fall back: masks for phrases that the detector missed, accepted where CLIP recognises the phrase in them.

Class-agnostic masks with zero-shot names are slower than a detector and confuse more, but they cover objects that a
detector was never taught.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from grounded.config import FallbackConfig
from grounded.data.detections import Detections
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.protocols import Segmenter
from grounded.errors import ConfigError
from grounded.stages.refine import clean
from grounded.stages.verify import suppress, with_clip_scores
from segany import AutomaticMaskGenerator, ImageEmbedding, Predictor, Prompts
from segany.utils.rle import encode_rle

UNNAMED = "unnamed"  # the phrase of a mask that has no name yet
# Of two accepted masks of a phrase, one that lies in the other is a part of it: the wheel also looks like the car.
_CONTAINMENT = 0.7
_IOU = 0.5


def missing_phrases(instances: Instances) -> list[int]:
    """Return the indices of the phrases without an instance."""
    found = set(instances.phrase_ids.tolist())
    return [i for i in range(len(instances.phrases)) if i not in found]


def automatic_masks(
    segmenter: Segmenter,
    embedding: ImageEmbedding,
    image: SourceImage,
    points_per_side: int,
    pred_iou_thresh: float,
    stability_score_thresh: float,
    min_mask_region_area: int = 0,
) -> Instances:
    """Return masks of everything in an image, under no phrase, by the settings of `segany.AutomaticMaskGenerator`.

    Raises:
        ConfigError: the segmenter is not a `segany.Predictor`.
    """
    if not isinstance(segmenter, Predictor):
        raise ConfigError(f"the automatic fallback needs a segany.Predictor, got {type(segmenter).__name__}")
    generator = AutomaticMaskGenerator(
        segmenter,
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        min_mask_region_area=min_mask_region_area,
    )
    masks = generator.generate(image.pixels, embedding=embedding)
    ids = np.zeros(len(masks), np.int64)
    return Instances.from_masks((UNNAMED,), image.size, masks.rles, ids, masks.predicted_iou.numpy(), "automatic")


def object_masks(
    segmenter: Segmenter, embedding: Any, objects: Detections, image: SourceImage, min_mask_region_area: int = 0
) -> Instances:
    """Return the masks in the boxes of objects without names, under no phrase."""
    masks = segmenter.predict(embedding, Prompts(boxes=torch.from_numpy(objects.boxes)), multimask_output=False)
    rles, ids = encode_rle(masks.masks[:, 0]), np.zeros(len(objects), np.int64)
    predicted_iou = masks.predicted_iou[:, 0].float().cpu().numpy()
    found = Instances.from_masks((UNNAMED,), image.size, rles, ids, predicted_iou, "automatic")
    return clean(found, min_mask_region_area) if min_mask_region_area else found


def accept(
    candidates: Instances,
    probabilities: Float[np.ndarray, "n w"],
    phrases: tuple[str, ...],
    missing: Sequence[int],
    config: FallbackConfig,
) -> Instances:
    """Return the candidates in which CLIP recognises a missing phrase: at most `max_instances` distinct ones for each.

    Args:
        candidates: n masks of the image, from text prompts or automatic.
        probabilities: of each mask against each of the w missing phrases.
        phrases: all that were asked for.
        missing: w indices into `phrases`.

    Returns:
        instances of `phrases`, best first.
    """
    rows, columns = np.nonzero(probabilities >= config.fallback_threshold)
    ids = np.array(missing, dtype=np.int64)[columns]
    source = "text" if config.source == "text" else "automatic"
    rles, predicted_iou = [candidates.rles[i] for i in rows.tolist()], candidates.predicted_iou[rows]
    accepted = Instances.from_masks(phrases, candidates.image_size, rles, ids, predicted_iou, source)
    matrix = np.zeros((len(rows), len(phrases)), dtype=np.float32)
    matrix[:, list(missing)] = probabilities[rows]
    accepted = with_clip_scores(accepted, matrix)
    accepted = accepted[suppress(accepted.rles, accepted.scores, accepted.phrase_ids, _IOU, _CONTAINMENT)]
    best = [np.flatnonzero(accepted.phrase_ids == i)[: config.max_instances] for i in missing]
    return accepted[np.concatenate(best)].sorted()

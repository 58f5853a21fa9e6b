"""For phrases that the detector missed: masks from elsewhere, accepted where CLIP recognises the phrase in them.

Class-agnostic masks with zero-shot names are slower than a detector and confuse more, but they see what a detector was
never taught.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from grounded.data.instances import Instances
from grounded.data.protocols import Segmenter
from grounded.errors import ConfigError
from grounded.settings import FallbackConfig
from grounded.stages.answers import from_masks, with_clip_scores
from grounded.stages.suppression import suppress
from segany import AutomaticMaskGenerator, ImageEmbedding, Predictor
from segany.automatic_masks import AutomaticMasks
from segany.utils.rle import RLE

# Of two accepted masks of a phrase, one that lies in the other is a part of it: the wheel also looks like the car.
_CONTAINMENT = 0.7
_IOU = 0.5


def everything(
    segmenter: Segmenter,
    embedding: ImageEmbedding,
    image: Image.Image,
    config: FallbackConfig,
    min_mask_region_area: int = 0,
) -> AutomaticMasks:
    """Masks of everything in an RGB image.

    Raises:
        ConfigError: the segmenter is not a `segany.Predictor`.
    """
    if not isinstance(segmenter, Predictor):
        raise ConfigError(f"the automatic fallback needs a segany.Predictor, got {type(segmenter).__name__}")
    generator = AutomaticMaskGenerator(
        segmenter,
        points_per_side=config.points_per_side,
        pred_iou_thresh=config.pred_iou_thresh,
        stability_score_thresh=config.stability_score_thresh,
        min_mask_region_area=min_mask_region_area,
    )
    return generator.generate(image, embedding=embedding)


def accepted(
    phrases: tuple[str, ...],
    image_size: tuple[int, int],
    wanted: Sequence[int],
    rles: Sequence[RLE],
    predicted_iou: Float[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n w"],
    config: FallbackConfig,
) -> Instances:
    """The masks in which CLIP sees a wanted phrase: at most `max_instances` distinct ones for each, best first.

    Args:
        image_size: (height, width) in pixels.
        wanted: w indices into `phrases`.
        rles: n masks of the image, with their predicted IoU.
        probabilities: each mask against each wanted phrase.
    """
    rows, columns = np.nonzero(probabilities >= config.fallback_threshold)
    ids = np.array(wanted, dtype=np.int64)[columns]
    source = "text" if config.source == "text" else "automatic"
    instances = from_masks(phrases, image_size, [rles[i] for i in rows.tolist()], ids, predicted_iou[rows], source)
    matrix = np.zeros((len(rows), len(phrases)), dtype=np.float32)
    matrix[:, list(wanted)] = probabilities[rows]
    instances = with_clip_scores(instances, matrix)
    instances = instances[suppress(instances.rles, instances.scores, instances.phrase_ids, _IOU, _CONTAINMENT)]
    kept = [np.flatnonzero(instances.phrase_ids == i)[: config.max_instances] for i in wanted]
    return instances[np.concatenate(kept)].sorted()

"""Segment everything in an image, and name the masks that CLIP recognises.

Needs a segmenter; a detector that finds objects without names may add masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from grounded.data.display import ImageReference
from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.data.protocols import ObjectDetector, RegionScorer, Segmenter
from grounded.errors import ConfigError
from grounded.stages.encode import check_embedding
from grounded.stages.fallback import UNNAMED, object_masks
from grounded.stages.verify import suppress, with_clip_scores
from grounded.utils.timing import Stopwatch
from segany import AutomaticMaskGenerator, Predictor

__all__ = ["UNNAMED", "everything"]

MOST_OBJECTS = 40  # of a detector, best first
SAME_IOU = 0.7  # of two masks, above which the weaker one goes


def everything(
    segmenter: Segmenter,
    image: ImageLike | SourceImage,
    words: str | Sequence[str] = (),
    stopwatch: Stopwatch | None = None,
    *,
    scorer: RegionScorer | None = None,
    detector: ObjectDetector | None = None,
    naming_threshold: float = 0.3,
    embedding: Any | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Instances:
    """Return masks of everything in an image, named by CLIP where it recognises one of the words.

    Args:
        image: any that `open_image` takes.
        words: names to choose from, as the text of `Pipeline.segment`; none names nothing.
        stopwatch: receives the seconds of each stage.
        scorer: compares masks with words; needed where there are any.
        detector: adds the masks of the objects that it finds without names, where it expects an IoU of at least
            `pred_iou_thresh`.
        naming_threshold: least CLIP score of a name; other masks are called "unnamed".
        embedding: of this image, by this segmenter; None encodes the image.
        progress: called with (points done, points in all) while masks are made; what it raises ends the search.
        options: of `segany.AutomaticMaskGenerator`.

    Returns:
        instances with the source "automatic"; without words all are "unnamed", by predicted IoU.

    Raises:
        ConfigError: the segmenter is not segany's, or there are words and no region scorer.
        PromptError: the text holds no phrase.
        ValueError: an option is out of range.
    """
    given, image, watch = image, open_image(image), stopwatch or Stopwatch()
    check_embedding(embedding, image)
    names = parse(words) if words else ()
    if not isinstance(segmenter, Predictor):
        raise ConfigError(f"automatic masks need a segany.Predictor, got {type(segmenter).__name__}")
    if names and scorer is None:
        raise ConfigError("naming masks needs a region scorer, got none: switch filtering on, or load all parts")
    if not 0 <= naming_threshold <= 1:
        raise ValueError(f"naming_threshold must lie in [0, 1], got {naming_threshold}")
    names = tuple(name for name in names if name.casefold() != UNNAMED)
    generator = AutomaticMaskGenerator(segmenter, **options)
    if embedding is None:
        with watch.stage("encode"):
            embedding = segmenter.encode(image.pixels)
    with watch.stage("automatic_masks"):
        masks = generator.generate(image.pixels, progress or False, embedding=embedding)
    phrases, unnamed = (*names, UNNAMED), np.full(len(masks), len(names), np.int64)
    found = Instances.from_masks(phrases, image.size, masks.rles, unnamed, masks.predicted_iou.numpy(), "automatic")
    if detector is not None:
        with watch.stage("objects"):
            objects = detector.detect_objects(embedding, MOST_OBJECTS)
            objects = objects[objects.score >= generator.pred_iou_thresh]
            added = object_masks(segmenter, embedding, objects, image, generator.min_mask_region_area)
            unnamed = np.full(len(added), len(names), np.int64)
            added = Instances.from_masks(phrases, image.size, added.rles, unnamed, added.predicted_iou, "automatic")
            found = Instances.concatenate([found, added])
            found = found[suppress(found.rles, found.scores, found.phrase_ids, SAME_IOU)]
    if names and scorer is not None and len(found):
        with watch.stage("score"):
            probabilities = scorer.score(image.pixels, found.rles, names)
        found = _named(found, probabilities, naming_threshold)
    return replace(found.sorted(), image_source=ImageReference.of(given, image))


def _named(found: Instances, probabilities: Float32[np.ndarray, "n w"], threshold: float) -> Instances:
    """Put each mask under its likeliest word, where that is likely enough."""
    ids = np.where(probabilities.max(axis=1) >= threshold, probabilities.argmax(axis=1), found.phrase_ids)
    named = replace(found, phrase_ids=ids)
    recognised = ids < probabilities.shape[1]
    scored = with_clip_scores(named[recognised], probabilities[recognised])
    return Instances.concatenate([scored, named[~recognised]])

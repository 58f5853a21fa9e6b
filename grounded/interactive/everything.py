"""Masks of everything in a picture, and a name for those in which CLIP recognises one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.stages import answers
from grounded.stages.question import Parts
from grounded.utils.timing import Stopwatch
from segany import AutomaticMaskGenerator, Predictor

UNNAMED = "unnamed"


def everything(
    parts: Parts,
    image: SourceImage,
    words: Sequence[str],
    naming_threshold: float,
    watch: Stopwatch,
    kept_embedding: Any | None,
    options: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Instances:
    """Masks of everything, named where CLIP recognises one of the words; see `Pipeline.everything`."""
    segmenter = parts.segmenter
    if not isinstance(segmenter, Predictor):
        raise ConfigError(f"automatic masks need a segany.Predictor, got {type(segmenter).__name__}")
    if words and parts.scorer is None:
        raise ConfigError("naming masks needs a region scorer, got none: switch filtering on, or load every part")
    if not 0 <= naming_threshold <= 1:
        raise ValueError(f"naming_threshold must lie in [0, 1], got {naming_threshold}")
    words = [word for word in words if word.casefold() != UNNAMED]
    generator = AutomaticMaskGenerator(segmenter, **options)
    if kept_embedding is None:
        with watch.stage("encode"):
            kept_embedding = segmenter.encode(image.pixels)
    with watch.stage("automatic"):
        masks = generator.generate(image.pixels, progress or False, embedding=kept_embedding)
    phrases = (*words, UNNAMED)
    unnamed = np.full(len(masks), len(words), np.int64)
    found = answers.from_masks(phrases, image.size, masks.rles, unnamed, masks.predicted_iou.numpy(), "automatic")
    if words and parts.scorer is not None and len(masks):
        with watch.stage("score"):
            probabilities = parts.scorer.score(image.pixels, found.rles, words)
        found = _named(found, probabilities, naming_threshold)
    return found.sorted()


def _named(found: Instances, probabilities: Float32[np.ndarray, "n w"], threshold: float) -> Instances:
    """Each mask under its likeliest word, where that is likely enough."""
    ids = np.where(probabilities.max(axis=1) >= threshold, probabilities.argmax(axis=1), found.phrase_ids)
    named = replace(found, phrase_ids=ids)
    recognised = ids < probabilities.shape[1]
    scored = answers.with_clip_scores(named[recognised], probabilities[recognised])
    return Instances.concatenate([scored, named[~recognised]])

"""What a user says of one instance, with clicks, boxes and strokes -> its mask."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from pycocotools import mask as coco_mask

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.data.protocols import MaskPromptable
from grounded.errors import ConfigError, PromptError
from grounded.interactive.refine_one import refine_one
from grounded.stages import answers
from grounded.stages.cache import StageCache
from grounded.stages.question import Clicks, Parts
from grounded.stages.zoom import Window, window_around
from segany import MaskPrediction
from segany.prompts import ArrayLike
from segany.utils.points import FOREGROUND
from segany.utils.rle import RLE, decode_rle, encode_rle


def correct(
    parts: Parts,
    image: SourceImage,
    instances: Instances,
    index: int,
    clicks: Clicks,
    brush: Bool[np.ndarray, "h w"] | None,
    eraser: Bool[np.ndarray, "h w"] | None,
    kept_embedding: Any | None,
    kept: StageCache,
) -> Instances:
    """Correct the mask of one instance; see `Pipeline.refine`."""
    segmenter = _mask_prompting(parts)
    if image.size != instances.image_size:
        raise PromptError(f"the image must be {instances.image_size} (height, width), got {image.size}")
    one = instances[index]
    if len(clicks.labels) == 0 and brush is None and eraser is None:
        raise PromptError("a correction must have points or strokes, got none")
    said = _Said(one.rles[0], _usable(one.boxes[0], image.size), clicks, brush, eraser)
    window = _window(said, image.size, parts.config.refinement.zoom)
    if window is None:
        embedding = segmenter.encode(image.pixels) if kept_embedding is None else kept_embedding
        prediction = said.answer(segmenter, embedding)
        rles = tuple(answers.encode_masks(prediction))
    else:
        embedding = kept.window(window, lambda: segmenter.encode(window.crop(image.pixels)))
        prediction = said.inside(window).answer(segmenter, embedding)
        rles = tuple(window.outwards(prediction.masks[:, 0]))
    corrected = replace(one, rles=rles, predicted_iou=answers.first_iou(prediction))
    if one.sources[0] != "detector" and coco_mask.area(rles[0]) > 0:
        corrected = replace(corrected, boxes=answers.tight_boxes(rles))
    if np.isfinite(one.clip_scores[0]) and parts.scorer is not None:  # it was of the mask before
        scores = parts.scorer.score(image.pixels, corrected.rles, corrected.phrases)
        corrected = answers.with_clip_scores(corrected, scores)
    position = range(len(instances))[index]
    return Instances.concatenate([instances[:position], corrected, instances[position + 1 :]])


def candidates(
    parts: Parts,
    image: SourceImage,
    phrase: str,
    clicks: Clicks,
    box: ArrayLike | None,
    kept_embedding: Any | None,
) -> Instances:
    """Masks that clicks or a box may mean; see `Pipeline.candidates`."""
    segmenter, phrases = _mask_prompting(parts), parse([phrase])
    prediction = refine_one(
        segmenter,
        segmenter.encode(image.pixels) if kept_embedding is None else kept_embedding,
        box=box,
        points=clicks.points,
        labels=clicks.labels,
    )
    # Alternatives of one prompt become prompts of one mask each.
    apart = replace(
        prediction,
        low_res_logits=prediction.low_res_logits.transpose(0, 1),
        predicted_iou=prediction.predicted_iou.transpose(0, 1),
    )
    found = answers.from_masks(
        phrases,
        image.size,
        answers.encode_masks(apart),
        np.zeros(len(apart), np.int64),
        answers.first_iou(apart),
        "point" if box is None else "box",
    )
    return found[[row for row, rle in enumerate(found.rles) if coco_mask.area(rle) > 0]].sorted()


@dataclass(frozen=True)
class _Said:
    """What is said of one instance, in the frame of the picture or of a window."""

    rle: RLE
    box: Float32[np.ndarray, "4"] | None
    clicks: Clicks
    brush: Bool[np.ndarray, "h w"] | None
    eraser: Bool[np.ndarray, "h w"] | None

    def answer(self, segmenter: MaskPromptable, embedding: Any) -> MaskPrediction:
        return refine_one(
            segmenter,
            embedding,
            self.rle,
            box=self.box,
            points=self.clicks.points,
            labels=self.clicks.labels,
            brush=self.brush,
            eraser=self.eraser,
        ).best()

    def inside(self, window: Window) -> "_Said":
        """The same of the window, less clicks outside it: there the mask will be empty anyhow."""
        points, (height, width) = window.inwards(self.clicks.points), window.size
        seen = (points >= 0).all(1) & (points <= points.new_tensor([width, height])).all(1)
        mask = window.cut(decode_rle([self.rle])[0].numpy())
        return _Said(
            rle=encode_rle(mask[None])[0],
            box=None if self.box is None else window.box_inwards(self.box),
            clicks=Clicks(points[seen], self.clicks.labels[seen]),
            brush=None if self.brush is None else window.cut(self.brush),
            eraser=None if self.eraser is None else window.cut(self.eraser),
        )


def _window(said: _Said, image_size: tuple[int, int], scale: float | None) -> Window | None:
    """The window around everything that may belong to the instance; None where the whole picture is to be looked at."""
    masks = [said.rle] if said.brush is None else [said.rle, encode_rle(said.brush[None])[0]]
    known = list(answers.tight_boxes([rle for rle in masks if coco_mask.area(rle)]))
    known += [] if said.box is None else [said.box]
    if scale is None or not known:
        return None
    points = said.clicks.points[said.clicks.labels == FOREGROUND].numpy()
    corners = np.concatenate([np.stack(known), np.concatenate([points, points], axis=1)])
    return window_around(np.concatenate([corners[:, :2].min(0), corners[:, 2:].max(0)]), image_size, scale)


def _mask_prompting(parts: Parts) -> MaskPromptable:
    if not isinstance(parts.segmenter, MaskPromptable):
        raise ConfigError(f"{type(parts.segmenter).__name__} takes no mask prompts, which corrections need")
    return parts.segmenter


def _usable(box: Float32[np.ndarray, "4"], image_size: tuple[int, int]) -> Float32[np.ndarray, "4"] | None:
    """A detector's box may reach beyond the picture, and the box of an empty mask says nothing."""
    inside = box.clip(0, np.array(image_size[::-1] * 2, dtype=np.float32))
    return inside if (inside[2:] > inside[:2]).all() else None

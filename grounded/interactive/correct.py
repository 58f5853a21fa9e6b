"""Correct one instance, or segment a new one, from clicks, a box and brush strokes. Needs a segmenter, no detector."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage
from torch import Tensor

from grounded.data.clicks import Clicks, finite_floats, validate_points
from grounded.data.display import ImageReference
from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.data.protocols import MaskPromptable, RegionScorer, Segmenter
from grounded.errors import ConfigError, PromptError
from grounded.stages.cache import StageCache
from grounded.stages.encode import check_embedding, encode, encode_window
from grounded.stages.segment import encode_masks, first_iou
from grounded.stages.verify import with_clip_scores
from grounded.stages.zoom import Window, window_around
from segany import MaskPrediction, Prompts
from segany.prompts import ArrayLike
from segany.utils.masks import masks_to_boxes
from segany.utils.points import BACKGROUND, FOREGROUND, interior_point
from segany.utils.rle import RLE, decode_rle, encode_rle, rle_area, rle_boxes
from segany.utils.transforms import CONFIDENT_LOGIT

_STROKES = 8  # points taken from one brush or eraser, from its largest regions first
_BOX_SLACK = 1.0  # pixels by which a box may reach beyond the image, for the sake of rounding

Stroke = Bool[np.ndarray, "h w"]


def correct(
    segmenter: Segmenter,
    image: ImageLike | SourceImage,
    instances: Instances,
    index: int,
    points: ArrayLike | None = None,
    point_labels: ArrayLike | None = None,
    *,
    brush: Stroke | None = None,
    eraser: Stroke | None = None,
    embedding: Any | None = None,
    scorer: RegionScorer | None = None,
    zoom: float | None = None,
    cache: StageCache | None = None,
) -> Instances:
    """Correct the mask of one instance; the others, and the order of all, stay as they are.

    Give all clicks and strokes so far, not the last alone: a mask does not tell where it was corrected.

    Args:
        segmenter: one that takes mask prompts.
        image: the one that `instances` belong to.
        index: of the instance.
        points: (k, 2), all clicks on the instance so far, in pixels.
        point_labels: (k), 1 foreground and 0 background; None where all are foreground.
        brush: pixels painted as belonging to the instance.
        eraser: pixels painted as not belonging to it.
        embedding: of this image, by this segmenter; None encodes the image.
        scorer: gives the new mask a CLIP score, where the old one has one.
        zoom: work in a window of so many times the instance's box; None works on the whole image.
        cache: keeps embeddings from one correction to the next.

    Raises:
        ConfigError: the segmenter takes no mask prompts.
        IndexError: there is no such instance.
        PromptError: nothing to correct with, or it does not fit the image.
    """
    segmenter, image = _mask_promptable(segmenter), open_image(image)
    check_embedding(embedding, image)
    if image.size != instances.image_size:
        raise PromptError(f"the image must be {instances.image_size} (height, width), got {image.size}")
    one = instances[index]
    correction = _Correction(
        one.rles[0],
        _usable_box(one.boxes[0], image.size),
        Clicks.read(points, point_labels, image.size),
        brush,
        eraser,
    )
    if len(correction.clicks) == 0 and brush is None and eraser is None:
        raise PromptError("a correction must have points or strokes, got none")
    cache, image = (StageCache(), image) if cache is None else (cache, cache.recall(image))
    window = None if zoom is None else _window(correction, image.size, zoom)
    if window is None:
        embedding = cache.run(encode, segmenter, image) if embedding is None else embedding
        prediction = correction.predict(segmenter, embedding)
        rles = tuple(encode_masks(prediction))
    else:
        embedding = cache.run(encode_window, segmenter, image, window.corners)
        prediction = correction.in_window(window).predict(segmenter, embedding)
        rles = tuple(window.masks_to_image(prediction.masks[:, 0]))
    corrected = replace(one, rles=rles, predicted_iou=first_iou(prediction))
    if one.sources[0] != "detector" and rle_area(rles)[0] > 0:
        corrected = replace(corrected, boxes=rle_boxes(rles).astype(np.float32))
    if np.isfinite(one.clip_scores[0]) and scorer is not None:  # the old score was for the mask before
        corrected = with_clip_scores(corrected, scorer.score(image.pixels, corrected.rles, corrected.phrases))
    position = range(len(instances))[index]
    return Instances.concatenate([instances[:position], corrected, instances[position + 1 :]])


def candidates(
    segmenter: Segmenter,
    image: ImageLike | SourceImage,
    phrase: str,
    points: ArrayLike | None = None,
    point_labels: ArrayLike | None = None,
    *,
    box: ArrayLike | None = None,
    embedding: Any | None = None,
    cache: StageCache | None = None,
) -> Instances:
    """Return the masks that clicks or a box on a new object may stand for: three for one click, else one.

    Args:
        segmenter: one that takes mask prompts.
        image: any that `open_image` takes.
        phrase: the name of the object.
        points: (k, 2) clicks on one object, in pixels.
        point_labels: (k), 1 foreground and 0 background; None where all are foreground.
        box: (4), xyxy in pixels.
        embedding: of this image, by this segmenter; None encodes the image.
        cache: keeps the embedding from one call to the next.

    Returns:
        one to three instances of `phrase` with the source "point" or "box", by predicted IoU. They exclude one another,
        so keep one. Empty masks are left out.

    Raises:
        ConfigError: the segmenter takes no mask prompts.
        PromptError: neither a foreground point nor a box, or they do not fit the image.
    """
    segmenter, phrases = _mask_promptable(segmenter), parse([phrase])
    given, image = image, open_image(image)
    check_embedding(embedding, image)
    clicks = Clicks.read(points, point_labels, image.size)
    if embedding is None:
        cache, image = (StageCache(), image) if cache is None else (cache, cache.recall(image))
        embedding = cache.run(encode, segmenter, image)
    prediction = predict_instance(segmenter, embedding, box=box, points=clicks.points, labels=clicks.labels)
    # The m masks of one prompt become m prompts of one mask each.
    masks = replace(
        prediction,
        low_res_logits=prediction.low_res_logits.transpose(0, 1),
        predicted_iou=prediction.predicted_iou.transpose(0, 1),
    )
    found = Instances.from_masks(
        phrases,
        image.size,
        encode_masks(masks),
        np.zeros(len(masks), np.int64),
        first_iou(masks),
        "point" if box is None else "box",
    )
    found = replace(found, image_source=ImageReference.of(given, image))
    return found[rle_area(found.rles) > 0].sorted()


def predict_instance(
    segmenter: MaskPromptable,
    embedding: Any,
    rle: RLE | None = None,
    box: ArrayLike | None = None,
    points: ArrayLike = (),
    labels: ArrayLike = (),
    brush: Bool[np.ndarray | Tensor, "h w"] | None = None,
    eraser: Bool[np.ndarray | Tensor, "h w"] | None = None,
    text: Float[Tensor, "1 c"] | None = None,
) -> MaskPrediction:
    """Predict the mask of one instance from any mix of a mask so far, a box, clicks, strokes and a phrase.

    Strokes are binding: a cell of the low-resolution logits that a stroke covers at least half comes out as painted.
    Around it they work as prompts, by the mask prompt and by a point in each painted region.

    Args:
        embedding: of the image, with its `original_size`.
        rle: the mask so far, which becomes a mask prompt.
        box: (4), xyxy in original pixels; it grows around foreground points and brush strokes. Without one, the mask's
            own box takes its place, with a point inside the mask.
        points: (k, 2) in original pixels, all clicks so far.
        labels: (k), 1 foreground, 0 background.
        brush, eraser: bool masks of the image size: pixels that belong to the instance, pixels that do not. Where both
            are painted, the eraser counts.
        text: the embedding of the phrase.

    Returns:
        n = 1; m = 3 where a single point is all there is, which is ambiguous; else m = 1.

    Raises:
        PromptError: something has a wrong shape, is not finite or lies outside the image, a label is neither 0 nor 1,
            or there is nothing but background.
    """
    size = embedding.original_size
    clicks, kinds = validate_points(points, labels, size)
    corners = None if box is None else _check_box(box, size)
    eraser = _check_stroke("eraser", eraser, size)
    brush = _check_stroke("brush", brush, size) & ~eraser
    clicks, kinds = _with_strokes(clicks, kinds, brush, eraser)
    mask = brush if rle is None else (_decode(rle, size) | brush) & ~eraser
    has_mask = rle is not None and bool(mask.any())
    if not (has_mask or corners is not None or text is not None or bool((kinds == FOREGROUND).any())):
        came = "background alone" if len(kinds) else "nothing"
        raise PromptError(f"a mask, a box, a text, a brush stroke or a foreground point must be given, got {came}")
    if has_mask and corners is None:
        corners = masks_to_boxes(mask)
        clicks, kinds = torch.cat([clicks, interior_point(mask)[None]]), torch.cat([kinds, kinds.new_ones(1)])
    prompts = Prompts(
        points=clicks[None] if len(kinds) else None,
        point_labels=kinds[None] if len(kinds) else None,
        boxes=None if corners is None else _grown(corners, clicks[kinds == FOREGROUND], brush)[None],
        text=None if text is None else text[None],
    )
    if not has_mask:
        is_ambiguous = len(kinds) == 1 and corners is None and text is None
        first = segmenter.predict(embedding, prompts, multimask_output=is_ambiguous)
        if not bool((brush | eraser).any()):
            return first
        mask_prompt = first.best().low_res_logits
    else:
        mask_prompt = segmenter.mask_prompts(embedding, mask[None])
    strokes = segmenter.mask_prompts(embedding, torch.stack([brush, eraser])) > 0
    prompts = replace(prompts, masks=_painted(mask_prompt, strokes))
    corrected = segmenter.predict(embedding, prompts, multimask_output=False)
    return replace(corrected, low_res_logits=_painted(corrected.low_res_logits, strokes))


@dataclass(frozen=True)
class _Correction:
    """All that is known of one instance, in the frame of the image or of a window."""

    rle: RLE
    box: Float32[np.ndarray, "4"] | None
    clicks: Clicks
    brush: Stroke | None
    eraser: Stroke | None

    def predict(self, segmenter: MaskPromptable, embedding: Any) -> MaskPrediction:
        """Predict the corrected mask, from the embedding of the frame that the correction is in."""
        points, labels = self.clicks.points, self.clicks.labels
        return predict_instance(
            segmenter, embedding, self.rle, self.box, points, labels, self.brush, self.eraser
        ).best()

    def in_window(self, window: Window) -> "_Correction":
        """Move everything to the frame of a window. Clicks outside go: the mask is empty there."""
        points = window.points_from_image(self.clicks.points)
        inside = window.contains(points)
        mask = window.crop_mask(decode_rle([self.rle])[0].numpy())
        return _Correction(
            rle=encode_rle(mask[None])[0],
            box=None if self.box is None else window.box_from_image(self.box),
            clicks=Clicks(points[inside], self.clicks.labels[inside]),
            brush=None if self.brush is None else window.crop_mask(self.brush),
            eraser=None if self.eraser is None else window.crop_mask(self.eraser),
        )


def _window(correction: _Correction, image_size: tuple[int, int], scale: float) -> Window | None:
    """Return the window around everything that may belong to the instance; None to work on the whole image."""
    masks = [correction.rle] if correction.brush is None else [correction.rle, *encode_rle(correction.brush[None])]
    known = [*rle_boxes([rle for rle in masks if rle_area([rle])[0]]).astype(np.float32)]
    known += [] if correction.box is None else [correction.box]
    if not known:
        return None
    points = correction.clicks.points[correction.clicks.labels == FOREGROUND].numpy()
    corners = np.concatenate([np.stack(known), np.concatenate([points, points], axis=1)])
    return window_around(np.concatenate([corners[:, :2].min(0), corners[:, 2:].max(0)]), image_size, scale)


def _mask_promptable(segmenter: Segmenter) -> MaskPromptable:
    if not isinstance(segmenter, MaskPromptable):
        raise ConfigError(f"{type(segmenter).__name__} takes no mask prompts, which corrections need")
    return segmenter


def _usable_box(box: Float32[np.ndarray, "4"], image_size: tuple[int, int]) -> Float32[np.ndarray, "4"] | None:
    """Clip a detector's box, which may reach beyond the image, to it; None for the box of an empty mask."""
    inside = box.clip(0, np.array(image_size[::-1] * 2, dtype=np.float32))
    return inside if (inside[2:] > inside[:2]).all() else None


def _painted(logits: Float[Tensor, "1 1 l l"], strokes: Bool[Tensor, "2 1 l l"]) -> Float[Tensor, "1 1 l l"]:
    """Make logits confident where a stroke was painted."""
    brush, eraser = strokes
    brushed = torch.where(brush, logits.clamp(min=CONFIDENT_LOGIT), logits)
    return torch.where(eraser, brushed.clamp(max=-CONFIDENT_LOGIT), brushed)


def _decode(rle: RLE, image_size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    try:
        return decode_rle([rle], image_size)[0]
    except (ValueError, TypeError, KeyError) as error:
        raise PromptError(f"the mask must be a run-length encoding of size {list(image_size)}: {error}") from error


def _check_box(box: ArrayLike, image_size: tuple[int, int]) -> Float[Tensor, "4"]:
    corners = finite_floats("box", box)
    if corners.shape != (4,):
        raise PromptError(f"box must be (4,), xyxy, got {tuple(corners.shape)}")
    x0, y0, x1, y1 = corners.tolist()
    height, width = image_size
    if x0 >= x1 or y0 >= y1:
        raise PromptError(f"box must be xyxy with x0 < x1 and y0 < y1, got {corners.tolist()}")
    if min(x0, y0) < -_BOX_SLACK or x1 > width + _BOX_SLACK or y1 > height + _BOX_SLACK:
        raise PromptError(f"box must lie in the image of {width} x {height} pixels, got {corners.tolist()}")
    return corners


def _check_stroke(name: str, stroke: np.ndarray | Tensor | None, image_size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Return a stroke on the CPU; without one, nothing is painted."""
    if stroke is None:
        return torch.zeros(image_size, dtype=torch.bool)
    painted = torch.as_tensor(stroke).cpu()
    if painted.dtype != torch.bool or painted.shape != tuple(image_size):
        dtype = str(painted.dtype).removeprefix("torch.")
        raise PromptError(f"{name} must be bool {tuple(image_size)}, got {dtype} {tuple(painted.shape)}")
    return painted


def _with_strokes(
    points: Float[Tensor, "k 2"], labels: Int[Tensor, "k"], painted: Bool[Tensor, "h w"], erased: Bool[Tensor, "h w"]
) -> tuple[Float[Tensor, "j 2"], Int[Tensor, "j"]]:
    """Add to the points an interior point for each painted region."""
    for stroke, label in ((painted, FOREGROUND), (erased, BACKGROUND)):
        if not stroke.any():
            continue  # labelling regions takes longer than all other steps after a click
        regions, count = ndimage.label(stroke.numpy(), structure=np.ones((3, 3)))
        largest = np.argsort(-np.bincount(regions.ravel(), minlength=count + 1)[1:], kind="stable")[:_STROKES] + 1
        for region in largest.tolist():
            points = torch.cat([points, interior_point(torch.from_numpy(regions == region))[None]])
            labels = torch.cat([labels, labels.new_tensor([label])])
    return points, labels


def _grown(
    box: Float[Tensor, "4"], foreground: Float[Tensor, "k 2"], painted: Bool[Tensor, "h w"]
) -> Float[Tensor, "4"]:
    """Grow a box to hold the foreground points and the brush strokes: a box too small was one of the mistakes."""
    x, y = (torch.nonzero(painted.any(axis)).squeeze(1).float() for axis in (0, 1))
    if len(x):
        foreground = torch.cat([foreground, torch.stack([x[[0, -1]], y[[0, -1]]], 1)])
    if len(foreground) == 0:
        return box
    return torch.cat([torch.minimum(box[:2], foreground.amin(0)), torch.maximum(box[2:], foreground.amax(0))])

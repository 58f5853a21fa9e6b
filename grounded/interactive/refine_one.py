"""A user's correction of one instance: clicks, a box, strokes of a brush and an eraser."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from grounded.data.clicks import finite_floats, validate_points
from grounded.data.protocols import MaskPromptable
from grounded.errors import PromptError
from segany import MaskPrediction, Prompts
from segany.prompts import ArrayLike
from segany.utils.masks import masks_to_boxes
from segany.utils.points import BACKGROUND, FOREGROUND, interior_point
from segany.utils.rle import RLE, decode_rle
from segany.utils.transforms import CONFIDENT_LOGIT

_STROKES = 8  # points taken from one brush or eraser, from its largest regions first
_BOX_SLACK = 1.0  # pixels by which a box may reach beyond the picture, for the sake of rounding


def refine_one(
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
    """Answer what a user says of one instance; everything is optional, but something must say what is meant.

    What is painted holds: a cell of the low-resolution logits that a stroke covers at least half comes out as painted.
    Around it strokes work as prompts, by the mask prompt and by a point in each painted region.

    Args:
        rle: the mask so far, which becomes a mask prompt.
        box: (4), xyxy in original pixels; it grows around foreground points and brush strokes. Without one, the mask's
            own box takes its place, with a point inside the mask.
        points: (k, 2) in original pixels, all clicks so far.
        labels: (k), 1 foreground, 0 background.
        brush, eraser: bool masks of the image size: what belongs to the instance, what does not. Where both are
            painted, the eraser counts.
        text: the embedding of its phrase.

    Returns:
        n = 1; m = 3 where a single point is all there is, and may mean several things; else m = 1.

    Raises:
        PromptError: something has a wrong shape, is not finite or lies outside the picture, a label is neither 0 nor 1,
            or nothing says what is meant: background alone does not.
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
    given = Prompts(
        points=clicks[None] if len(kinds) else None,
        point_labels=kinds[None] if len(kinds) else None,
        boxes=None if corners is None else _grown(corners, clicks[kinds == FOREGROUND], brush)[None],
        text=None if text is None else text[None],
    )
    if not has_mask:
        is_ambiguous = len(kinds) == 1 and corners is None and text is None
        first = segmenter.predict(embedding, given, multimask_output=is_ambiguous)
        if not bool((brush | eraser).any()):
            return first
        prompt = first.best().low_res_logits
    else:
        prompt = segmenter.mask_prompts(embedding, mask[None])
    strokes = segmenter.mask_prompts(embedding, torch.stack([brush, eraser])) > 0
    answer = segmenter.predict(embedding, replace(given, masks=_painted(prompt, strokes)), multimask_output=False)
    return replace(answer, low_res_logits=_painted(answer.low_res_logits, strokes))


def _painted(logits: Float[Tensor, "1 1 l l"], strokes: Bool[Tensor, "2 1 l l"]) -> Float[Tensor, "1 1 l l"]:
    """Logits that are confident of what is brushed on and of what is erased."""
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
        raise PromptError(f"box must lie in the picture of {width} x {height} pixels, got {corners.tolist()}")
    return corners


def _check_stroke(name: str, stroke: np.ndarray | Tensor | None, image_size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """The stroke on the CPU; nothing painted where there is none."""
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
    """The points, and an interior point for each painted region."""
    for stroke, label in ((painted, FOREGROUND), (erased, BACKGROUND)):
        if not stroke.any():
            continue  # to label regions takes longer than all else about a click
        regions, count = ndimage.label(stroke.numpy(), structure=np.ones((3, 3)))
        largest = np.argsort(-np.bincount(regions.ravel(), minlength=count + 1)[1:], kind="stable")[:_STROKES] + 1
        for region in largest.tolist():
            points = torch.cat([points, interior_point(torch.from_numpy(regions == region))[None]])
            labels = torch.cat([labels, labels.new_tensor([label])])
    return points, labels


def _grown(
    box: Float[Tensor, "4"], foreground: Float[Tensor, "k 2"], painted: Bool[Tensor, "h w"]
) -> Float[Tensor, "4"]:
    """The box, grown to hold the foreground points and what is painted: a box too small was one of the mistakes."""
    x, y = (torch.nonzero(painted.any(axis)).squeeze(1).float() for axis in (0, 1))
    if len(x):
        foreground = torch.cat([foreground, torch.stack([x[[0, -1]], y[[0, -1]]], 1)])
    if len(foreground) == 0:
        return box
    return torch.cat([torch.minimum(box[:2], foreground.amin(0)), torch.maximum(box[2:], foreground.amax(0))])

"""Prompt: detections, phrases and clicks become prompts for the segmenter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from grounded.data.clicks import Clicks
from grounded.data.detections import Detections
from grounded.data.image import SourceImage
from grounded.data.protocols import DensePrompter, DensePrompts, TextEncoder
from grounded.errors import PromptError
from segany import Prompts
from segany.utils.points import FOREGROUND, NO_POINT

# What phrases give to a segmenter: embeddings (p, c) for one with a text prompt, else points and coarse masks.
TextPrompts = Tensor | DensePrompts


@dataclass(frozen=True, eq=False)
class PromptGroup:
    """n prompts of one kind about one image, each for one instance.

    source        what led to them: "detector", "text" or "point", as in `Instances.sources`
    prompts       in original pixels
    phrase_ids    (n) into the phrases
    multimask_output  let the segmenter predict several masks per prompt, of which the best is taken
    coarse_masks  logits over the whole image, which the segmenter turns into mask prompts; None for none
    detections    the n boxes and their scores where the source is "detector", else None
    """

    source: str
    prompts: Prompts
    phrase_ids: Int64[np.ndarray, "n"]
    multimask_output: bool = False
    coarse_masks: Float[Tensor, "n gh gw"] | None = None
    detections: Detections | None = None

    def __len__(self) -> int:
        return len(self.phrase_ids)


def embed_text(encoder: TextEncoder, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
    """Return the embeddings of phrases, for a segmenter with a text prompt of its own."""
    return encoder.encode(phrases)


def dense_prompts(prompter: DensePrompter, image: SourceImage, phrases: Sequence[str]) -> DensePrompts:
    """Return points and coarse masks for phrases, for a segmenter without a text prompt of its own."""
    return prompter.prompts(image.pixels, phrases)


def prompt_boxes(
    detections: Detections, clicks: Clicks, text: TextPrompts | None = None, multimask_output: bool = False
) -> PromptGroup:
    """Return one prompt per detection: its box, the clicks that fall into it, and its phrase if `text` is given.

    Of dense prompts, the foreground points of the box's own phrase inside the box and all background points outside it
    are used. Their coarse masks are left out, because they cover all objects of a phrase.

    Args:
        detections: n of them, scored against p phrases.
        text: of all p phrases.

    Raises:
        PromptError: `text` does not have one row per phrase.
    """
    _check_rows(text, detections.scores.shape[1])
    boxes, ids = torch.from_numpy(detections.boxes), torch.from_numpy(detections.phrase_ids)
    points, labels, _ = assign_points(boxes, clicks.points, clicks.labels)
    embeddings = None
    if isinstance(text, DensePrompts):
        boxes, ids = boxes.to(text.points.device), ids.to(text.points.device)
        own, kinds = text.points[ids], text.labels[ids]  # (n, k, 2), (n, k)
        inside = ((own >= boxes[:, None, :2]) & (own <= boxes[:, None, 2:])).all(dim=-1)
        kinds = kinds.where(inside == (kinds == FOREGROUND), NO_POINT)
        points, labels = torch.cat([own, points.to(own)], dim=1), torch.cat([kinds, labels.to(kinds)], dim=1)
    elif text is not None:
        embeddings = text[ids.to(text.device)][:, None]  # (n, 1, c)
    clicked = points.shape[1] > 0
    prompts = Prompts(
        boxes=boxes, points=points if clicked else None, point_labels=labels if clicked else None, text=embeddings
    )
    return PromptGroup("detector", prompts, detections.phrase_ids, multimask_output, detections=detections)


def prompt_phrases(text: TextPrompts, phrase_ids: Sequence[int], multimask_output: bool = False) -> PromptGroup:
    """Return one prompt per phrase, with neither box nor click, as in section 7.5 of the Segment Anything paper.

    Args:
        text: of the phrases that `phrase_ids` names, in that order.

    Raises:
        PromptError: `text` does not have one row per phrase.
    """
    _check_rows(text, len(phrase_ids))
    ids = np.array(phrase_ids, dtype=np.int64)
    if isinstance(text, DensePrompts):
        prompts = Prompts(points=text.points, point_labels=text.labels)
        return PromptGroup("text", prompts, ids, multimask_output, coarse_masks=text.logits)
    return PromptGroup("text", Prompts(text=text[:, None]), ids, multimask_output)  # (p, 1, c)


def prompt_stray_clicks(
    detections: Detections | None, clicks: Clicks, phrases: Sequence[str], can_choose: bool
) -> PromptGroup:
    """Return one prompt for each foreground click that lies in no detection; each is an instance of its own.

    All are put under the first phrase. With several phrases CLIP has to choose, once there are masks. One click may
    stand for a thing or a part of it, so several masks are predicted.

    Args:
        can_choose: whether CLIP is there to tell which of several phrases a click stands for.

    Raises:
        PromptError: a click may stand for any of several phrases, and nothing can choose.
    """
    boxes = np.zeros((0, 4), np.float32) if detections is None else detections.boxes
    _, _, strays = assign_points(boxes, clicks.points, clicks.labels)
    points = clicks.points[strays]
    if len(points) and len(phrases) > 1 and not can_choose:
        raise PromptError(
            f"the point {points[0].tolist()} lies in no detection and may mean any of {len(phrases)} phrases: "
            "ask for one phrase, or switch filtering on"
        )
    prompts = Prompts(points=points[:, None], point_labels=torch.full((len(points), 1), FOREGROUND))
    return PromptGroup("point", prompts, np.zeros(len(points), np.int64), multimask_output=True)


def assign_points(
    boxes: Float[np.ndarray | Tensor, "n 4"],
    points: Float[np.ndarray | Tensor, "k 2"],
    labels: Int[np.ndarray | Tensor, "k"],
) -> tuple[Float[Tensor, "n j 2"], Int[Tensor, "n j"], list[int]]:
    """Share out clicks among boxes, all in the same pixels.

    A foreground point belongs to the smallest box that contains it, a background point to every box that does.

    Returns:
        the points of each box in the order given and their labels, padded with -1 to the largest number j, and the
        indices of stray points: foreground in no box. Background in no box has no effect.
    """
    boxes, points, labels = (torch.as_tensor(values).cpu() for values in (boxes, points, labels))
    x, y = points[:, 0], points[:, 1]
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)  # (n, k)
    is_foreground = labels == FOREGROUND
    stray = torch.nonzero(is_foreground & ~inside.any(0)).squeeze(1).tolist()
    if len(boxes):
        areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[:, None]
        smallest = torch.where(inside, areas, torch.inf).argmin(0)
        is_owner = torch.arange(len(boxes))[:, None] == smallest
        inside &= is_owner | ~is_foreground
    most = int(inside.sum(1).max()) if len(boxes) else 0
    shared = points.new_zeros(len(boxes), most, 2).float()
    kinds = torch.full((len(boxes), most), NO_POINT)
    for i, own in enumerate(inside):
        shared[i, : int(own.sum())], kinds[i, : int(own.sum())] = points[own].float(), labels[own]
    return shared, kinds, stray


def _check_rows(text: TextPrompts | None, expected: int) -> None:
    rows = text.points if isinstance(text, DensePrompts) else text
    if rows is not None and len(rows) != expected:
        raise PromptError(f"text prompts must have one row per phrase, {expected}, got {len(rows)}")

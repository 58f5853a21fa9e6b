"""Masks from text, and from text with a point or a box (Segment Anything, section 7.5 and appendix D.5).

A phrase reaches the segmenter as its CLIP embedding, where the segmenter was trained for that, or else as points and a
coarse mask from CLIP's dense features. Where the text alone fails, a point in the object corrects it. Of each prompt
the segmenter predicts three masks, and the one with the highest predicted IoU is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from grounded.data.protocols import DensePrompter, DensePrompts, MaskPromptable, Segmenter, TextEncoder
from grounded.errors import ConfigError
from grounded.stages.segment import encode_masks
from segany import Prompts
from segany.precision import own_precision
from segany.utils.points import FOREGROUND, NO_POINT
from segany.utils.rle import RLE

PromptKind: TypeAlias = Literal["text", "point", "text + point", "box", "box + text"]
PROMPT_KINDS: tuple[PromptKind, ...] = ("text", "point", "text + point", "box", "box + text")


@dataclass(frozen=True)
class TextPrompting:
    """How phrases become prompts: one of two ways, and the other is None.

    Raises:
        ConfigError: both are given, or none.
    """

    encoder: TextEncoder | None = None  # for a segmenter with a text prompt of its own
    dense: DensePrompter | None = None

    def __post_init__(self) -> None:
        if (self.encoder is None) == (self.dense is None):
            raise ConfigError("text prompts need either a text encoder or a dense prompter")

    def prompts(self, image: Image.Image, phrases: Sequence[str]) -> Tensor | DensePrompts:
        """Return embeddings (p, c), or points and coarse masks, for p phrases."""
        if self.encoder is not None:
            return self.encoder.encode(phrases)
        assert self.dense is not None  # checked in __post_init__
        return self.dense.prompts(image, phrases)


@torch.no_grad()
@own_precision()
def segment_text(
    segmenter: Segmenter,
    embedding: Any,
    text: Tensor | DensePrompts,
    points: Float[Tensor, "n 2"],
    boxes: Float[Tensor, "n 4"],
    kinds: Sequence[PromptKind] = PROMPT_KINDS,
) -> dict[PromptKind, list[RLE]]:
    """Return the best-scored mask of n objects in an image for each kind of prompt, every kind in one batch.

    Args:
        segmenter: with a text prompt of its own, or with mask prompts.
        embedding: of the image, by this segmenter.
        text: the phrase of each object, from `TextPrompting.prompts`.
        points: (x, y) pixels, one in each object.
        boxes: xyxy in pixels, of each object.
        kinds: of prompts.

    Raises:
        ConfigError: the text is coarse masks, and the segmenter takes no mask prompts.
    """
    found = {}
    for kind in kinds:
        prompts = _make_prompts(kind, segmenter, embedding, text, points, boxes)
        found[kind] = encode_masks(segmenter.predict(embedding, prompts, multimask_output=True).best())
    return found


def _make_prompts(
    kind: PromptKind,
    segmenter: Segmenter,
    embedding: Any,
    text: Tensor | DensePrompts,
    points: Float[Tensor, "n 2"],
    boxes: Float[Tensor, "n 4"],
) -> Prompts:
    clicks = {"points": points[:, None], "point_labels": torch.full((len(points), 1), FOREGROUND)}
    if kind == "point":
        return Prompts(**clicks)
    if kind == "box":
        return Prompts(boxes=boxes)
    if isinstance(text, DensePrompts):
        return _dense_prompts(kind, segmenter, embedding, text, points, boxes)
    embeddings = text[:, None]  # (n, 1, c)
    if kind == "text":
        return Prompts(text=embeddings)
    if kind == "text + point":
        return Prompts(text=embeddings, **clicks)
    return Prompts(text=embeddings, boxes=boxes)


def _dense_prompts(
    kind: PromptKind,
    segmenter: Segmenter,
    embedding: Any,
    text: DensePrompts,
    points: Float[Tensor, "n 2"],
    boxes: Float[Tensor, "n 4"],
) -> Prompts:
    """Return the points of the heat map and its coarse mask; beside a box the points in it and no mask.

    A coarse mask says where the phrase is in the whole image; beside a box it is no help, see `prompt_boxes`.
    """
    own, kinds = text.points.cpu(), text.labels.cpu()
    if kind == "box + text":
        inside = ((own >= boxes[:, None, :2]) & (own <= boxes[:, None, 2:])).all(dim=-1)
        return Prompts(boxes=boxes, points=own, point_labels=kinds.where(inside == (kinds == FOREGROUND), NO_POINT))
    if not isinstance(segmenter, MaskPromptable):
        raise ConfigError(f"coarse masks need a segmenter with mask prompts, got {type(segmenter).__name__}")
    if kind == "text + point":
        own = torch.cat([own, points[:, None]], dim=1)
        kinds = torch.cat([kinds, torch.full((len(points), 1), FOREGROUND)], dim=1)
    return Prompts(points=own, point_labels=kinds, masks=segmenter.mask_prompts(embedding, text.logits))

"""Detections and text embeddings -> prompts for the segmenter."""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from grounded.errors import PromptError
from grounded.settings import Mode
from grounded.types import Detections
from segany import Prompts

T = TypeVar("T")


def build(
    detections: Detections | None,
    text_embeddings: Float[Tensor, "p c"] | None,
    mode: Mode = "box",
) -> Prompts:
    """Return the prompts of one image, in original pixels.

    "box" and "box+text" give one prompt per detection, the latter with the embedding of the detection's phrase beside
    the box. "text" gives one prompt per phrase, with neither box nor point, as in section 7.5 of the Segment Anything
    paper.

    Args:
        detections: needed in every mode but "text".
        text_embeddings: one per phrase; needed in every mode but "box".

    Raises:
        PromptError: what the mode needs is missing, or there is not one embedding per phrase.
    """
    if mode == "box":
        return Prompts(boxes=_needed(detections, "detections", mode).boxes)
    text = _needed(text_embeddings, "text embeddings", mode)
    if mode == "text":
        return Prompts(text=text[:, None])  # (p, 1, c)
    found = _needed(detections, "detections", mode)
    if len(text) != found.scores.shape[1]:
        raise PromptError(f"text embeddings must be one per phrase, {found.scores.shape[1]}, got {len(text)}")
    boxes, ids = (torch.from_numpy(array).to(text.device) for array in (found.boxes, found.phrase_ids))
    return Prompts(boxes=boxes, text=text[ids][:, None])  # (n, 1, c)


def _needed(value: T | None, name: str, mode: Mode) -> T:
    if value is None:
        raise PromptError(f"mode {mode!r} needs {name}, got none")
    return value

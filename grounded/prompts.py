"""Detections and text embeddings -> prompts for the segmenter."""

import torch
from jaxtyping import Float
from torch import Tensor

from grounded.config import Mode
from grounded.errors import PromptError
from grounded.types import Detections
from segany import Prompts


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
    if mode != "box" and text_embeddings is None:
        raise PromptError(f"mode {mode!r} needs text embeddings, got none")
    if mode == "text":
        return Prompts(text=text_embeddings[:, None])  # (p, 1, c)
    if detections is None:
        raise PromptError(f"mode {mode!r} needs detections, got none")
    boxes = torch.from_numpy(detections.boxes)
    if mode == "box":
        return Prompts(boxes=boxes)
    if len(text_embeddings) != detections.scores.shape[1]:
        raise PromptError(
            f"text embeddings must be one per phrase, {detections.scores.shape[1]}, got {len(text_embeddings)}"
        )
    ids = torch.from_numpy(detections.phrase_ids).to(text_embeddings.device)
    return Prompts(boxes=boxes.to(text_embeddings.device), text=text_embeddings[ids][:, None])  # (n, 1, c)

"""Masks from single clicks and a few more (Segment Anything, section 7.1 and appendix D.1). Needs a segmenter alone.

A simulated user clicks into the true mask, at its centre or anywhere in it, and then up to eight times at the centre of
the largest error region of the mask that the segmenter returned. Points are (x, y) pixels of the upright image.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from grounded.data.protocols import Segmenter
from segany import Prompts
from segany.precision import own_precision
from segany.utils.points import FOREGROUND, error_point, interior_point, random_point

FirstClick: TypeAlias = Literal["centre", "random"]

FIRST_CLICKS: tuple[FirstClick, ...] = ("centre", "random")
MAX_CLICKS = 9


@dataclass(frozen=True, eq=False)
class ClickIous:
    """IoU of predicted with true masks after each of c clicks, for n masks of one image."""

    best_scored: Float64[np.ndarray, "n c"]  # of the mask with the highest predicted IoU
    oracle: Float64[np.ndarray, "n c"]  # of the one of three masks that fits best


@torch.no_grad()
@own_precision()
def measure_clicks(
    segmenter: Segmenter,
    embedding: Any,
    truths: Bool[Tensor, "n h w"],
    first: FirstClick = "centre",
    clicks: int = MAX_CLICKS,
    generator: torch.Generator | None = None,
) -> ClickIous:
    """Return the IoU of masks from one click, two, and so on.

    The first click is ambiguous: three masks are predicted, and the one with the highest predicted IoU is taken. With
    more clicks one mask is predicted, from all clicks and the last mask, as in training; the oracle still chooses among
    three. Where the mask is right to the pixel no further click is made.

    Args:
        segmenter: any that takes points and mask prompts.
        embedding: of the image, by this segmenter.
        truths: masks of at least one pixel each, at the size of the image.
        first: "centre" for the pixel farthest from the boundary, "random" for one drawn evenly from the mask.
        clicks: 1 or more.
        generator: draws random first clicks.
    """
    points, labels = _first_clicks(truths, first, generator)
    best_scored, oracle = [], []
    last: Float[Tensor, "n 1 l l"] | None = None
    for number in range(clicks):
        prompts = Prompts(points=points, point_labels=labels, masks=last)
        several = segmenter.predict(embedding, prompts, multimask_output=True)
        chosen = several.best() if number == 0 else segmenter.predict(embedding, prompts, multimask_output=False)
        masks = chosen.masks[:, 0].cpu()
        best_scored.append(_iou(masks[:, None], truths)[:, 0])
        oracle.append(_iou(several.masks.cpu(), truths).amax(dim=1))
        if number + 1 < clicks:
            last = chosen.low_res_logits
            more, kinds = error_point(masks, truths)
            points = torch.cat([points, more[:, None]], dim=1)
            labels = torch.cat([labels, kinds[:, None]], dim=1)
    return ClickIous(*(torch.stack(values, dim=1).double().numpy() for values in (best_scored, oracle)))


def _first_clicks(
    truths: Bool[Tensor, "n h w"], first: FirstClick, generator: torch.Generator | None
) -> tuple[Float[Tensor, "n 1 2"], Int[Tensor, "n 1"]]:
    if first == "random":
        points, labels = random_point(truths, generator)
    else:
        points, labels = interior_point(truths), torch.full((len(truths),), FOREGROUND)
    return points[:, None], labels[:, None]


def _iou(masks: Bool[Tensor, "n m h w"], truths: Bool[Tensor, "n h w"]) -> Float[Tensor, "n m"]:
    """Return the IoU of each mask with the truth of its own prompt; 0 where both are empty."""
    intersections = (masks & truths[:, None]).sum((-2, -1))
    unions = (masks | truths[:, None]).sum((-2, -1))
    return intersections / unions.clamp(min=1)

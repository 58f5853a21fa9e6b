"""Interactive training of Segment Anything (Kirillov et al. 2023, appendix A) as a loop over rounds.

The first round uses the prompts as given. Every later round adds a point from the error region of the last mask and
uses the last logits as a mask prompt; two rounds add no point and only refine the mask.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segany.config import SegAnyConfig
from segany.prompts import Prompts
from segany.training.losses import best_of_masks, iou_loss, mask_loss
from segany.utils.points import error_point, random_error_point

PAPER_ROUNDS = 11  # one with the given prompt, eight with error points, two without a new point


@runtime_checkable
class Decoder(Protocol):
    """The part of `SegAny` that the training rounds use."""

    config: SegAnyConfig

    def decode(
        self, features: Float[Tensor, "b c h w"], prompts: Prompts, multimask_output: bool | None
    ) -> tuple[Float[Tensor, "n m lh lw"], Float[Tensor, "n m"]]: ...


@dataclass(frozen=True)
class RoundLoss:
    """Losses of one round, averaged over the n prompts, and the predicted masks."""

    mask: Float[Tensor, ""]
    iou: Float[Tensor, ""]
    logits: Float[Tensor, "n 1 h w"]  # detached; the mask prompt of the next round

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.mask + self.iou


def interactive_rounds(
    model: Decoder,
    features: Float[Tensor, "b c fh fw"],
    prompts: Prompts,
    truths: Float[Tensor, "n h w"],
    rounds: int = PAPER_ROUNDS,
    generator: torch.Generator | None = None,
    middle_share: float = 0.0,
) -> Iterator[RoundLoss]:
    """Yield the loss of each round: sum them, or call backward on each in turn to save memory.

    Args:
        model: predicts the masks.
        features: image embeddings, one for all prompts or one each.
        prompts: in model-frame pixels.
        truths: ground-truth masks at the resolution of the low-resolution logits, 0 to 1.
        rounds: 1 trains on the given prompts only; the paper uses 11.
        generator: samples the error points and the round without a new point.
        middle_share: fraction of rounds whose points are the interior points of the largest error regions, where people
            click, instead of random pixels of them; 0 in the paper.
    """
    round_without_point = int(torch.randint(1, max(rounds - 1, 2), (), generator=generator))
    true_masks = truths > 0.5
    for index in range(rounds):
        # The first prompt is ambiguous: only the best of its masks is trained. Later rounds predict one mask.
        ambiguous = index == 0
        logits, predicted_iou = model.decode(features, prompts, multimask_output=None if ambiguous else False)
        losses = mask_loss(logits, truths)
        masks = losses[:, 0].mean() + (best_of_masks(losses[:, 1:]).mean() if ambiguous else 0)
        best = _most_confident(logits, predicted_iou) if ambiguous else logits
        yield RoundLoss(masks, iou_loss(predicted_iou, logits, truths).mean(), best.detach())
        if index + 1 < rounds:
            without_point = index + 1 in (round_without_point, rounds - 1) and rounds > 3
            middle = bool(torch.rand((), generator=generator) < middle_share)
            prompts = _next_prompts(prompts, best.detach(), true_masks, model, without_point, middle, generator)


def _most_confident(logits: Float[Tensor, "n 4 h w"], predicted_iou: Float[Tensor, "n 4"]) -> Float[Tensor, "n 1 h w"]:
    best = predicted_iou[:, 1:].argmax(1) + 1
    return logits[torch.arange(len(logits)), best][:, None]


def _next_prompts(
    prompts: Prompts,
    logits: Float[Tensor, "n 1 h w"],
    true_masks: Bool[Tensor, "n h w"],
    model: Decoder,
    without_point: bool,
    middle: bool,
    generator: torch.Generator | None,
) -> Prompts:
    """The prompts with the last logits as mask prompt and, unless `without_point`, a point in the error region."""
    if without_point:
        return replace(prompts, masks=logits)
    masks = logits[:, 0] > 0
    pixels, labels = error_point(masks, true_masks) if middle else random_error_point(masks, true_masks, generator)
    scale = model.config.image_size / true_masks.shape[-1]
    points = (pixels[:, None] + 0.5) * scale - 0.5  # pixel indices of the model frame
    labels = labels[:, None].to(torch.int64)
    if prompts.points is not None and prompts.point_labels is not None:
        points = torch.cat([prompts.points, points.to(prompts.points)], 1)
        labels = torch.cat([prompts.point_labels, labels.to(prompts.point_labels)], 1)
    return replace(prompts, points=points, point_labels=labels, masks=logits)

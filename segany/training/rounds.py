"""The interactive training of Segment Anything (Kirillov et al. 2023, appendix A) as a loop over rounds.

The first round answers the prompts as given. Every later round adds a point from the region where the last mask is
wrong and gives the last logits back as a mask prompt; two rounds add no point and only refine.
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

PAPER_ROUNDS = 11  # one given prompt, eight error points, two rounds without a point


@runtime_checkable
class Decoder(Protocol):
    """What the rounds need of a `SegAny`."""

    config: SegAnyConfig

    def decode(
        self, features: Float[Tensor, "b c h w"], prompts: Prompts, multimask_output: bool | None
    ) -> tuple[Float[Tensor, "n m lh lw"], Float[Tensor, "n m"]]: ...


@dataclass(frozen=True)
class RoundLoss:
    """Losses of one round, averaged over the n prompts, and the masks it gave."""

    mask: Float[Tensor, ""]
    iou: Float[Tensor, ""]
    logits: Float[Tensor, "n 1 h w"]  # detached: what the next round gets as mask prompt

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
    """Yield the loss of each round; add them up, or go backward through each as it comes to save memory.

    Args:
        features: image embeddings, one for all prompts or one for each.
        prompts: in model-frame pixels.
        truths: the wanted masks at the resolution of the low-resolution logits, 0 to 1.
        rounds: 1 trains the first answer only; the paper uses 11.
        generator: draws the error points and the round without one.
        middle_share: how often all points of a round are the middles of their largest errors, where people click,
            instead of any of their pixels; the paper's is 0.
    """
    pause = int(torch.randint(1, max(rounds - 1, 2), (), generator=generator))
    wanted = truths > 0.5
    for index in range(rounds):
        # An unclear first prompt may mean several masks: only the best of the three learns. From then on there is one.
        unclear = index == 0
        logits, predicted_iou = model.decode(features, prompts, multimask_output=None if unclear else False)
        losses = mask_loss(logits, truths)
        masks = losses[:, 0].mean() + (best_of_masks(losses[:, 1:]).mean() if unclear else 0)
        chosen = _most_confident(logits, predicted_iou) if unclear else logits
        yield RoundLoss(masks, iou_loss(predicted_iou, logits, truths).mean(), chosen.detach())
        if index + 1 < rounds:
            without_point = index + 1 in (pause, rounds - 1) and rounds > 3
            middle = bool(torch.rand((), generator=generator) < middle_share)
            prompts = _next_prompts(prompts, chosen.detach(), wanted, model, without_point, middle, generator)


def _most_confident(logits: Float[Tensor, "n 4 h w"], predicted_iou: Float[Tensor, "n 4"]) -> Float[Tensor, "n 1 h w"]:
    best = predicted_iou[:, 1:].argmax(1) + 1
    return logits[torch.arange(len(logits)), best][:, None]


def _next_prompts(
    prompts: Prompts,
    logits: Float[Tensor, "n 1 h w"],
    wanted: Bool[Tensor, "n h w"],
    model: Decoder,
    without_point: bool,
    middle: bool,
    generator: torch.Generator | None,
) -> Prompts:
    """The prompts with the last logits as mask prompt and, unless left out, one more point where the last mask was
    wrong.
    """
    if without_point:
        return replace(prompts, masks=logits)
    shown = logits[:, 0] > 0
    pixels, labels = error_point(shown, wanted) if middle else random_error_point(shown, wanted, generator)
    scale = model.config.image_size / wanted.shape[-1]
    points = (pixels[:, None] + 0.5) * scale - 0.5  # pixel indices of the model frame
    labels = labels[:, None].to(torch.int64)
    if prompts.points is not None and prompts.point_labels is not None:
        points = torch.cat([prompts.points, points.to(prompts.points)], 1)
        labels = torch.cat([prompts.point_labels, labels.to(prompts.point_labels)], 1)
    return replace(prompts, points=points, point_labels=labels, masks=logits)

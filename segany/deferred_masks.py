"""Low-resolution mask logits that wait for the decision which masks to draw, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from segany.fast.decoder import Proposals
from segany.predictor import ImageEmbedding, Predictor
from segany.prompts import Prompts
from segany.utils.points import FOREGROUND

# Logits kept of one crop, in floats: a gigabyte. Those beyond are decoded again where their masks are to be drawn.
FLOATS_KEPT = 250_000_000


@dataclass(frozen=True, eq=False)
class _Draft:
    """Masks for points that were decoded together."""

    points: Float[Tensor, "p 2"]
    asked: Bool[Tensor, "p m"]  # masks whose logits were computed
    chosen: Bool[Tensor, "k"]  # those of them that may be drawn
    logits: Float[Tensor, "c h w"] | None  # of the chosen ones; None where they did not fit


class Drafts:
    """Masks for point prompts about one image, drawn or not as is decided later."""

    def __init__(self, predictor: Predictor, embedding: ImageEmbedding) -> None:
        self._predictor, self._embedding = predictor, embedding
        self._drafts: list[_Draft] = []
        self._floats_left = FLOATS_KEPT

    def propose(self, points: Float[Tensor, "n 2"]) -> Iterator[tuple[Float[Tensor, "p 2"], Proposals]]:
        """Consecutive parts of the points, which are foreground, with the answers. Let go of one before the next."""
        first = 0
        for proposals in self._decode(points):
            last = first + len(proposals.predicted_iou)
            yield points[first:last], proposals
            del proposals
            first = last

    def add(
        self,
        points: Float[Tensor, "p 2"],
        asked: Bool[Tensor, "p m"],
        chosen: Bool[Tensor, "k"],
        logits: Float[Tensor, "k h w"],
    ) -> Int[Tensor, "c 2"]:
        """Remember the chosen ones of the masks asked for about one part of the points.

        Returns:
            for each, the number that `logits` takes, and the place of the mask in what it returns.
        """
        kept = logits[chosen]
        fits = kept.numel() <= self._floats_left
        if fits:
            self._floats_left -= kept.numel()
        self._drafts.append(_Draft(points, asked, chosen, kept if fits else None))
        places = torch.arange(len(kept))
        return torch.stack([torch.full_like(places, len(self._drafts) - 1), places], dim=1)

    def logits(self, number: int) -> Float[Tensor, "c h w"]:
        """Low-resolution logits of the chosen masks of one part, on the visible part of the frame.

        Where they were not kept, the same points are decoded together again, so that even rounding is the same.
        """
        draft = self._drafts[number]
        if draft.logits is not None:
            return draft.logits
        (proposals,) = self._decode(draft.points, chunk=len(draft.points))
        return proposals.low_res_logits(draft.asked)[draft.chosen]

    def _decode(self, points: Float[Tensor, "n 2"], chunk: int | None = None) -> Iterator[Proposals]:
        labels = torch.full((len(points), 1), FOREGROUND)
        prompts = Prompts(points=points[:, None], point_labels=labels)
        return self._predictor.propose(self._embedding, prompts, chunk=chunk)

"""Masks of point prompts whose upsampling is deferred until it is known which are kept, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from segany.fast.decoder import DeferredPrediction
from segany.predictor import ImageEmbedding, Predictor
from segany.prompts import Prompts
from segany.utils.points import FOREGROUND

# Logits stored for one image or crop, in floats: a gigabyte. Points beyond it are decoded again when they are needed.
MAX_STORED_FLOATS = 250_000_000


@dataclass(frozen=True, eq=False)
class _DecodedPoints:
    """The masks of points that were decoded together."""

    points: Float[Tensor, "p 2"]
    computed: Bool[Tensor, "p m"]  # masks whose logits were computed
    kept: Bool[Tensor, "k"]  # those of the k computed masks that may be upsampled later
    logits: Float[Tensor, "c h w"] | None  # of the c kept masks; None if they exceed the memory limit


class DeferredMasks:
    """Low-resolution masks of point prompts in one image, stored or decoded again when they are needed."""

    def __init__(self, predictor: Predictor, embedding: ImageEmbedding) -> None:
        self._predictor, self._embedding = predictor, embedding
        self._decoded: list[_DecodedPoints] = []
        self._floats_left = MAX_STORED_FLOATS

    def predict(self, points: Float[Tensor, "n 2"]) -> Iterator[tuple[Float[Tensor, "p 2"], DeferredPrediction]]:
        """Yield consecutive parts of the foreground points with their predictions.

        A prediction holds much memory: delete it before taking the next.
        """
        first = 0
        for prediction in self._decode(points):
            last = first + len(prediction.predicted_iou)
            yield points[first:last], prediction
            del prediction
            first = last

    def add(
        self,
        points: Float[Tensor, "p 2"],
        computed: Bool[Tensor, "p m"],
        kept: Bool[Tensor, "k"],
        logits: Float[Tensor, "k h w"],
    ) -> Int[Tensor, "c 2"]:
        """Store the kept masks of one part that `predict` yielded.

        Args:
            points: of the part.
            computed: which of the masks the k logits belong to, prompt by prompt.
            kept: which of the k masks to store.
            logits: as `DeferredPrediction.low_res_logits` returned them.

        Returns:
            for each of the c stored masks, the number to pass to `logits` and its index in the result.
        """
        kept_logits = logits[kept]
        fits = kept_logits.numel() <= self._floats_left
        if fits:
            self._floats_left -= kept_logits.numel()
        self._decoded.append(_DecodedPoints(points, computed, kept, kept_logits if fits else None))
        positions = torch.arange(len(kept_logits))
        return torch.stack([torch.full_like(positions, len(self._decoded) - 1), positions], dim=1)

    def logits(self, number: int) -> Float[Tensor, "c h w"]:
        """Low-resolution logits of the kept masks of one part, on the visible part of the model frame.

        Logits that were not stored are computed from the same points in the same batch, so they are equal bit for bit.
        """
        decoded = self._decoded[number]
        if decoded.logits is not None:
            return decoded.logits
        (prediction,) = self._decode(decoded.points, chunk=len(decoded.points))
        return prediction.low_res_logits(decoded.computed)[decoded.kept]

    def _decode(self, points: Float[Tensor, "n 2"], chunk: int | None = None) -> Iterator[DeferredPrediction]:
        labels = torch.full((len(points), 1), FOREGROUND)
        prompts = Prompts(points=points[:, None], point_labels=labels)
        return self._predictor.predict_deferred(self._embedding, prompts, chunk=chunk)

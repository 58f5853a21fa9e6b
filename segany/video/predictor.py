"""Follow objects from frame to frame: masks given on some frames become masks on all others.

Nothing is remembered but in the values that the caller holds: each object has an `ObjectMemory`, and every call returns
a new one. So frames can be tracked forwards or backwards, again from any frame, and objects can be added at any time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from segany.config import SegAnyConfig
from segany.errors import PromptError
from segany.predictor import ImageEmbedding, MaskPrediction, Predictor
from segany.utils.transforms import CONFIDENT_LOGIT, Size
from segany.video.config import MemoryConfig
from segany.video.memory import FrameMasks, FrameMemory, VideoMemory

# The logit of presence in a frame whose mask was given.
_CERTAIN = 10.0


@dataclass(frozen=True, eq=False)
class ObjectMemory:
    """What is remembered of one object: memories of the frames where its mask was given, and of the latest others."""

    frames: tuple[FrameMemory, ...] = ()


@dataclass(frozen=True, eq=False)
class TrackedMasks:
    """The masks of n objects in one frame.

    prediction  one mask for each object; empty where the object is absent
    presence    probability that the object is in the frame
    memories    of the objects, for the next frame
    """

    prediction: MaskPrediction
    presence: Float[Tensor, "n"]
    memories: tuple[ObjectMemory, ...]


class VideoPredictor:
    """Predict the masks of objects in a frame from their masks in others.

    Args:
        predictor: of the image model, encodes frames and turns prompts on a frame into masks.
        memory: trained for that image model.
    """

    def __init__(self, predictor: Predictor, memory: VideoMemory) -> None:
        if memory.image != predictor.model.config:
            raise ValueError("the memory was trained for an image model of another configuration")
        self.predictor, self.memory = predictor, memory
        encoder = predictor.model.prompt_encoder
        with torch.no_grad():
            self._position_code = encoder.dense_position_code()
            self._no_mask = encoder.no_mask_embed.weight[..., None, None]

    @torch.no_grad()
    def give(
        self,
        frame: int,
        embedding: ImageEmbedding,
        logits: Float[Tensor, "n 1 l l"],
        memories: Sequence[ObjectMemory] | None = None,
    ) -> tuple[ObjectMemory, ...]:
        """Remember given masks, and return the memories of their objects.

        Where they correct known objects, the memories of tracked frames are forgotten, since these led to what is
        corrected; those of frames with given masks stay.

        Args:
            frame: its number in the clip.
            embedding: of the frame, from the predictor.
            logits: of the masks on the whole model frame, such as `MaskPrediction.low_res_logits` or the result of
                `Predictor.mask_prompts`. A mask without a positive logit says that the object is not there.
            memories: what is known of the objects so far, where the masks are corrections; None for new objects.

        Raises:
            PromptError: the number of masks is not that of objects.
        """
        memories = [ObjectMemory()] * len(logits) if memories is None else memories
        if len(memories) != len(logits):
            raise PromptError(f"masks must be one for each of {len(memories)} objects, got {len(logits)}")
        if not len(logits):
            return ()
        features = self._visible_features(embedding)
        rows, columns = features.shape[-2:]
        visible = logits[..., : 4 * rows, : 4 * columns].to(features)
        mask_code = self.predictor.model.prompt_encoder.mask_downscaling(visible)
        found = self.memory.decode(features, self._positions(features), mask_code, len(logits))
        present = (visible > 0).flatten(1).any(dim=1)
        given = replace(found, logits=visible, presence=torch.where(present, _CERTAIN, -_CERTAIN))
        remembered = self.memory.remember(frame, features, given, prompted=True)
        prompted = [ObjectMemory(tuple(known for known in memory.frames if known.prompted)) for memory in memories]
        return tuple(self._add(memory, remembered[i : i + 1]) for i, memory in enumerate(prompted))

    @torch.no_grad()
    def track(self, frame: int, embedding: ImageEmbedding, memories: Sequence[ObjectMemory]) -> TrackedMasks:
        """Predict the masks of n objects in a frame.

        Args:
            frame: its number in the clip.
            embedding: of the frame, from the predictor.
            memories: of the objects, none of them empty.
        """
        features = self._visible_features(embedding)
        found: list[FrameMasks | None] = [None] * len(memories)
        updated = list(memories)
        for rows in _group_alike(memories):
            frames = _stack([memories[row] for row in rows])
            recalled = self.memory.recall(features, frames, frame)
            no_mask = self._no_mask.expand(1, -1, *features.shape[-2:])
            masks = self.memory.decode(recalled, self._positions(features), no_mask, len(rows))
            remembered = self.memory.remember(frame, features, masks)
            for position, row in enumerate(rows):
                found[row] = masks[position : position + 1]
                updated[row] = self._add(memories[row], remembered[position : position + 1])
        return TrackedMasks(*self._as_prediction(embedding, [masks for masks in found if masks]), tuple(updated))

    def _as_prediction(
        self, embedding: ImageEmbedding, found: list[FrameMasks]
    ) -> tuple[MaskPrediction, Float[Tensor, "n"]]:
        side = self.predictor.model.config.low_res_size
        device = self.predictor.device
        logits = torch.full((len(found), 1, side, side), -CONFIDENT_LOGIT, device=device)
        presence = torch.zeros(len(found), device=device)
        predicted_iou = torch.zeros(len(found), 1, device=device)
        for row, masks in enumerate(found):
            presence[row] = masks.presence[0].sigmoid()
            if masks.presence[0] > 0:
                height, width = masks.logits.shape[-2:]
                logits[row, :, :height, :width] = masks.logits[0]
                predicted_iou[row] = masks.predicted_iou[0]
        sizes = embedding.original_size, embedding.resized_size, self.predictor.model.config.image_size
        return MaskPrediction(logits, predicted_iou, *sizes), presence

    def _add(self, memory: ObjectMemory, new: FrameMemory) -> ObjectMemory:
        """Add one frame, in place of an earlier memory of it, and forget what no frame nearby reads."""
        config = self.memory.config
        frames = [*(known for known in memory.frames if known.frame != new.frame), new]
        prompted = [known for known in frames if known.prompted]
        tracked = [known for known in frames if not known.prompted]
        nearest = sorted(tracked, key=lambda known: abs(known.frame - new.frame))
        kept = nearest[: max(config.recent_frames, config.pointers)]
        first, others = prompted[:1], sorted(prompted[1:], key=lambda known: abs(known.frame - new.frame))
        return ObjectMemory((*first, *others[: config.prompted_frames][::-1], *kept[::-1]))

    def _visible_features(self, embedding: ImageEmbedding) -> Float[Tensor, "1 c h w"]:
        """Features of the cells that the image covers: padding is not worth attending to."""
        rows, columns = visible_cells(self.predictor.model.config, self.memory.config, embedding.resized_size)
        return embedding.features[..., :rows, :columns].to(self.predictor.device)

    def _positions(self, features: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h w"]:
        return self._position_code[..., : features.shape[-2], : features.shape[-1]]


def visible_cells(image: SegAnyConfig, memory: MemoryConfig, resized_size: Size) -> tuple[int, int]:
    """Rows and columns of the embedding that an image covers, in whole memory cells.

    Args:
        image: configuration of the image model.
        memory: configuration of the memory.
        resized_size: (height, width) of the image in the model frame, in pixels.
    """
    stride = memory.memory_stride
    rows, columns = (
        min(math.ceil(side / image.patch_size / stride) * stride, image.grid_size) for side in resized_size
    )
    return rows, columns


def _group_alike(memories: Sequence[ObjectMemory]) -> list[list[int]]:
    """Rows of objects that are remembered from the same frames, which are tracked together."""
    groups: dict[tuple[tuple[int, bool], ...], list[int]] = {}
    for row, memory in enumerate(memories):
        if not memory.frames:
            raise PromptError(f"object {row} has no memory: give its mask on some frame first")
        groups.setdefault(tuple((known.frame, known.prompted) for known in memory.frames), []).append(row)
    return list(groups.values())


def _stack(memories: list[ObjectMemory]) -> list[FrameMemory]:
    """The memories of several objects of the same frames, as one memory per frame."""
    return [
        replace(same[0], cells=torch.cat([one.cells for one in same]), pointer=torch.cat([one.pointer for one in same]))
        for same in zip(*(memory.frames for memory in memories), strict=True)
    ]

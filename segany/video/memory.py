"""The memory of SAM 2 around a `SegAny`: what is remembered of a frame, and how the next frame is segmented with it.

Follows SAM 2 (Ravi et al., 2024, section 4 and appendix D) in its parts and equations, with these differences. The
image model is one that exists and does not change, so masks on prompted frames are its own, and all that is new is
here: the memory encoder, memory attention, and a mask decoder of the video's own, which starts as a copy of the image
model's. The image model has one map of features, so the decoder takes none of higher resolution. Masks enter the memory
at the resolution of the decoder's logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segany.config import SegAnyConfig
from segany.fast.upscaling import UpscalingWeights, upscale
from segany.modeling.layers import MLP
from segany.modeling.mask_decoder import MaskDecoder
from segany.modeling.prompt_encoder import PromptTokens
from segany.video.config import MemoryConfig
from segany.video.memory_attention import MemoryAttention
from segany.video.memory_encoder import MemoryEncoder


@dataclass(frozen=True, eq=False)
class FrameMasks:
    """The masks of n objects in one frame.

    logits         low-resolution mask logits on the visible part of the model frame
    predicted_iou  the estimate of each mask's IoU with the object
    presence       logit of whether the object is in the frame at all: SAM 2's occlusion score
    pointer        object pointers: what each object is like, as its mask token tells
    """

    logits: Float[Tensor, "n 1 lh lw"]
    predicted_iou: Float[Tensor, "n"]
    presence: Float[Tensor, "n"]
    pointer: Float[Tensor, "n c"]

    def __getitem__(self, objects: slice | Tensor) -> "FrameMasks":
        return FrameMasks(
            self.logits[objects], self.predicted_iou[objects], self.presence[objects], self.pointer[objects]
        )


@dataclass(frozen=True, eq=False)
class FrameMemory:
    """What is remembered of n objects from one frame.

    frame     its number in the clip
    prompted  whether its masks were given rather than tracked
    cells     output of the memory encoder
    pointer   object pointers
    """

    frame: int
    prompted: bool
    cells: Float[Tensor, "n d mh mw"]
    pointer: Float[Tensor, "n c"]

    def __getitem__(self, objects: slice | Tensor) -> "FrameMemory":
        return replace(self, cells=self.cells[objects], pointer=self.pointer[objects])


class VideoMemory(nn.Module):
    """The parts of SAM 2 that an image model lacks.

    Maps of features may cover the visible part of the model frame alone: everything here is relative to positions.
    """

    def __init__(self, image: SegAnyConfig, config: MemoryConfig | None = None) -> None:
        super().__init__()
        config = config or MemoryConfig()
        config.check_fits(image)
        self.image, self.config = image, config
        dim, memory_dim = image.prompt_dim, config.memory_dim
        self.mask_decoder = MaskDecoder(image)
        self.memory_encoder = MemoryEncoder(image, config)
        self.memory_attention = MemoryAttention(image, config)
        self.presence_token = nn.Embedding(1, dim)
        self.presence_head = MLP(dim, dim, 1, depth=3)
        self.pointer_head = MLP(dim, dim, dim, depth=3)
        self.no_object_pointer = nn.Embedding(1, dim)
        self.no_object_memory = nn.Embedding(1, memory_dim)
        # Row 0 for prompted frames, whenever they were; row t for the frame t steps ago.
        self.time_code = nn.Embedding(1 + config.recent_frames, memory_dim)
        self.pointer_time = nn.Linear(1, memory_dim)

    def decode(
        self,
        features: Float[Tensor, "#n c h w"],
        position_code: Float[Tensor, "#n c h w"],
        mask_code: Float[Tensor, "#n c h w"],
        objects: int,
    ) -> FrameMasks:
        """Predict the masks of n objects without a prompt of position: features tell where each is.

        Args:
            features: with the memory of each object, or one map for all where a mask is given.
            position_code: of the cells of the embedding.
            mask_code: the image model's encoding of given masks, or of no mask.
            objects: n.
        """
        presence_token = self.presence_token.weight.expand(objects, -1, -1)
        tokens, cells = self.mask_decoder.attend(features, position_code, PromptTokens(presence_token, mask_code, None))
        mask_token = tokens[:, 1]  # behind the IoU token
        kernels = self.mask_decoder.output_hypernetworks_mlps[0](mask_token)[:, None]
        weights = UpscalingWeights.of(self.mask_decoder.output_upscaling)
        presence = self.presence_head(tokens[:, -1])
        pointer = torch.where(presence > 0, self.pointer_head(mask_token), self.no_object_pointer.weight)
        return FrameMasks(
            logits=upscale(cells.unflatten(1, features.shape[-2:]), kernels, weights),
            predicted_iou=self.mask_decoder.iou_prediction_head(tokens[:, 0])[:, 0],
            presence=presence[:, 0],
            pointer=pointer,
        )

    def remember(
        self, frame: int, features: Float[Tensor, "#n c h w"], masks: FrameMasks, prompted: bool = False
    ) -> FrameMemory:
        """Make the memory of a frame from its own features and the masks that were found or given in it."""
        cells = self.memory_encoder(features, masks.logits)
        absent = (masks.presence <= 0).to(cells.dtype)[:, None, None, None]
        cells = cells + absent * self.no_object_memory.weight[..., None, None]
        return FrameMemory(frame, prompted, cells, masks.pointer)

    def recall(
        self, features: Float[Tensor, "#n c h w"], memories: Sequence[FrameMemory], frame: int
    ) -> Float[Tensor, "n c h w"]:
        """Return the features of a frame with the memories of n objects read into them.

        Of the memories, those that `choose_memories` returns are read.

        Args:
            features: of the frame.
            memories: at least one, of the same n objects, before or after the frame, the first prompted one first.
            frame: its number.
        """
        config = self.config
        chosen = choose_memories(memories, frame, config.prompted_frames, config.recent_frames)
        objects, _, *memory_size = chosen[0].cells.shape
        tokens, codes = [], []
        for memory in chosen:
            cells = memory.cells.flatten(2).transpose(1, 2)  # (n, cells, d)
            age = 0 if memory.prompted else min(abs(frame - memory.frame), config.recent_frames)
            tokens.append(cells)
            codes.append(self.time_code.weight[age].expand_as(cells))
        latest = sorted(memories, key=lambda memory: abs(frame - memory.frame))[: config.pointers]
        parts = self.image.prompt_dim // config.memory_dim  # a pointer is split into tokens as wide as a memory cell
        for memory in latest:
            tokens.append(memory.pointer.unflatten(1, (parts, config.memory_dim)))
            distance = memory.pointer.new_tensor([abs(frame - memory.frame) / config.pointers])
            codes.append(self.pointer_time(distance).expand(objects, parts, -1))
        return self.memory_attention(
            features,
            torch.cat(tokens, dim=1),
            torch.cat(codes, dim=1),
            (memory_size[0], memory_size[1]),
            parts * len(latest),
        )


def choose_memories(
    memories: Sequence[FrameMemory], frame: int, prompted_frames: int, recent_frames: int
) -> list[FrameMemory]:
    """The memories of prompted frames, then those of the nearest tracked frames.

    Of more prompted frames than are read, the first stays, which usually is what a person has drawn, and the nearest.
    """

    def nearest(some: Sequence[FrameMemory]) -> list[FrameMemory]:
        return sorted(some, key=lambda memory: abs(frame - memory.frame))

    prompted = [memory for memory in memories if memory.prompted]
    tracked = [memory for memory in memories if not memory.prompted]
    return [*prompted[:1], *nearest(prompted[1:])[: prompted_frames - 1], *nearest(tracked)[:recent_frames]]

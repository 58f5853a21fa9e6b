"""Decoding within windows of the image embedding, for training: a quarter of the cells is a quarter of the work.

A prompt's tokens, and its masks, see only the cells of a window around the object. Positions stay those in the whole
frame, so that what is learned holds for the whole; steps that see all of it, now and then, keep it so.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from segany import Prompts, SegAny
from segany.modeling.prompt_encoder import PromptTokens


def place_windows(boxes: Tensor, grid: int, side: int) -> Tensor:
    """Top left cells (n, 2), x and y, of windows of `side` cells in a grid that hold boxes (n, 4), xyxy in cells.

    Drawn at random among those that do; a box that fits into none is cut by its window.
    """
    low, high = boxes[:, :2].floor(), boxes[:, 2:].ceil()
    one, other = high - side, low  # a window that starts between these holds the box, or lies within it
    first, last = torch.minimum(one, other), torch.maximum(one, other)
    drawn = first + (torch.rand_like(first) * (last - first + 1)).floor()
    return drawn.clamp(0, grid - side).long()


def cut(maps: Tensor, corners: Tensor, side: int) -> Tensor:
    """The parts (n, *, side, side) of maps (n, *, h, w) that start at corners (n, 2), x and y."""
    return torch.stack([m[..., y : y + side, x : x + side] for m, (x, y) in zip(maps, corners.tolist(), strict=True)])


def low_precision(dtype: torch.dtype) -> torch.autocast:
    """Autocast to bfloat16, or nothing for float32, which is as fast on processors without AMX."""
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


class WindowDecoder:
    """Stands in for a `SegAny` in `interactive_rounds`: prompts, logits and truths are in the frames of the windows.

    Decodes in `dtype`.
    """

    def __init__(self, model: SegAny, corners: Tensor, side: int, dtype: torch.dtype = torch.bfloat16) -> None:
        """`corners` (n, 2) in cells, one window for each prompt."""
        self.model, self.side, self.dtype = model, side, dtype
        self.offsets = corners.float() * model.config.patch_size  # (n, 2) pixels
        self.config = replace(model.config, image_size=side * model.config.patch_size)
        code = model.prompt_encoder.dense_position_code().expand(len(corners), -1, -1, -1)
        self.position_code = cut(code, corners, side)

    def shift(self, prompts: Prompts, sign: int) -> Prompts:
        """From the frames of the windows into the whole frame (sign 1), or back (-1)."""
        points = None if prompts.points is None else prompts.points + sign * self.offsets[:, None]
        boxes = None if prompts.boxes is None else prompts.boxes + sign * self.offsets.repeat(1, 2)
        return replace(prompts, points=points, boxes=boxes)

    def decode(self, features: Tensor, prompts: Prompts, multimask_output: bool | None) -> tuple[Tensor, Tensor]:
        """As `SegAny.decode`, for features (n, c, side, side) of the windows."""
        encoder = self.model.prompt_encoder
        # Fused attention is the slow one here, for its backward pass and for bfloat16.
        with low_precision(self.dtype), sdpa_kernel(SDPBackend.MATH):
            encoded = encoder(replace(self.shift(prompts, 1), masks=None))
            if prompts.masks is None:
                dense = encoded.dense[..., : self.side, : self.side]
            else:
                dense = encoder.mask_downscaling(prompts.masks)
            tokens = PromptTokens(encoded.sparse, dense, encoded.valid)
            logits, predicted_iou = self.model.mask_decoder(features, self.position_code, tokens, multimask_output)
        return logits.float(), predicted_iou.float()

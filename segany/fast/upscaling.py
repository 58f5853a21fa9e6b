"""The decoder's upscaling as matrix products.

A transposed convolution whose kernel size equals its stride is a linear layer applied to each cell, which gives a
2 x 2 block of outputs. So channels stay last from the transformer to the masks, layer normalisation runs over
contiguous memory, and only the selected cells have to be computed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.fast.blocks import blocks, cells_at_once
from segany.modeling.layers import LayerNorm2d


@dataclass(frozen=True, eq=False)
class UpscalingWeights:
    """The two transposed convolutions as linear layers, weight (4 * out, in) and bias, and the norm between them."""

    first: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]
    eps: float
    second: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, layers: nn.Sequential) -> "UpscalingWeights":
        """The weights of `MaskDecoder.output_upscaling`, differentiable."""
        first, norm, _, second, _ = layers
        assert isinstance(norm, LayerNorm2d)
        return cls(_as_linear(first), (norm.weight, norm.bias), norm.eps, _as_linear(second))

    def to(self, dtype: torch.dtype) -> "UpscalingWeights":
        first, norm, second = (
            (weight.to(dtype), bias.to(dtype)) for weight, bias in (self.first, self.norm, self.second)
        )
        return UpscalingWeights(first, norm, self.eps, second)


def upscale(
    cells: Float[Tensor, "n h w c"], kernels: Float[Tensor, "n m k"], weights: UpscalingWeights
) -> Float[Tensor, "n m 4*h 4*w"]:
    """Image cells to mask logits, 4 x 4 per cell. `kernels` are applied as 1 x 1 convolutions to the upscaled image."""
    x = F.linear(cells, *weights.first).unflatten(-1, (4, -1))  # (n, h, w, 4, c / 4)
    x = F.gelu(F.layer_norm(x, weights.norm[0].shape, *weights.norm, weights.eps))
    x = F.gelu(F.linear(x, *weights.second)).unflatten(-1, (4, -1))  # (n, h, w, 4, 4, c / 8)
    logits = (x.flatten(1, 4) @ kernels.to(x.dtype).mT).mT  # in this order, because bf16 products copy a transposed x
    # (n, m, h, w, (y, x) of the first doubling, (y, x) of the second) to rows and columns
    logits = logits.unflatten(2, (*cells.shape[1:3], 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return logits.flatten(5, 7).flatten(2, 4)


class Upscaling:
    """`upscale` for inference, in blocks of cells whose intermediate values stay in the cache of a CPU."""

    def __init__(self, layers: nn.Sequential, dtype: torch.dtype) -> None:
        self.weights = UpscalingWeights.of(layers).to(dtype)

    def __call__(
        self, cells: Float[Tensor, "n h w c"], kernels: Float[Tensor, "n m k"]
    ) -> Float[Tensor, "n m 4*h 4*w"]:
        """Same as `upscale`, with logits in float32."""
        n, height, width, _ = cells.shape
        at_once = cells_at_once(cells)
        result = cells.new_empty(n, kernels.shape[1], 4 * height, 4 * width, dtype=torch.float32)
        for prompts in blocks(n, at_once // (height * width)):
            for rows in blocks(height, at_once // width):
                low_rows = slice(4 * rows.start, 4 * rows.stop)
                result[prompts, :, low_rows] = upscale(cells[prompts, rows], kernels[prompts], self.weights)
        return result


def _as_linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (4 * out, in) and bias of the linear layer that computes each 2 x 2 block, row by row."""
    assert isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None
    assert layer.kernel_size == layer.stride == (2, 2)
    weight = layer.weight.permute(2, 3, 1, 0)  # (2, 2, out, in)
    return weight.flatten(0, 2), layer.bias.repeat(4)

"""The decoder's upscaling as matrix products.

A transposed convolution whose kernel is as large as its stride is a linear layer for each cell, which alone gives its
2 x 2 block of outputs. So channels stay last from the transformer to the masks, layer normalisation runs over
contiguous memory, and only the cells that are wanted need be computed.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.blocks import blocks, cells_at_once
from segany.layers import LayerNorm2d
from segany.mask_decoder import MaskDecoder


class Upscaling:
    """Image cells to mask logits, 4 x 4 of them for each cell."""

    def __init__(self, decoder: MaskDecoder, dtype: torch.dtype) -> None:
        first, norm, _, second, _ = decoder.output_upscaling
        assert isinstance(norm, LayerNorm2d)
        self.first = [tensor.to(dtype) for tensor in _as_linear(first)]
        self.second = [tensor.to(dtype) for tensor in _as_linear(second)]
        self.norm_weight, self.norm_bias, self.eps = norm.weight.to(dtype), norm.bias.to(dtype), norm.eps

    def __call__(
        self, cells: Float[Tensor, "n h w c"], kernels: Float[Tensor, "n m k"]
    ) -> Float[Tensor, "n m 4*h 4*w"]:
        """`kernels` are the hypernetworks' 1 x 1 convolutions of the upscaled image. Logits are float32."""
        n, height, width, _ = cells.shape
        at_once = cells_at_once(cells)
        result = cells.new_empty(n, kernels.shape[1], 4 * height, 4 * width, dtype=torch.float32)
        for prompts in blocks(n, at_once // (height * width)):
            for rows in blocks(height, at_once // width):
                low_rows = slice(4 * rows.start, 4 * rows.stop)
                result[prompts, :, low_rows] = self._upscale(cells[prompts, rows], kernels[prompts])
        return result

    def _upscale(
        self, cells: Float[Tensor, "n h w c"], kernels: Float[Tensor, "n m k"]
    ) -> Float[Tensor, "n m 4*h 4*w"]:
        x = F.linear(cells, *self.first).unflatten(-1, (4, -1))  # (n, h, w, 4, c / 4)
        x = F.gelu(F.layer_norm(x, self.norm_weight.shape, self.norm_weight, self.norm_bias, self.eps))
        x = F.gelu(F.linear(x, *self.second)).unflatten(-1, (4, -1))  # (n, h, w, 4, 4, c / 8)
        logits = (x.flatten(1, 4) @ kernels.to(x.dtype).mT).mT  # in this order, since bf16 products copy a transposed x
        # (n, m, h, w, (y, x) of the first doubling, (y, x) of the second) to rows and columns
        blocks = logits.unflatten(2, (*cells.shape[1:3], 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return blocks.flatten(5, 7).flatten(2, 4)


def _as_linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (4 * out, in) and bias of the linear layer that gives each 2 x 2 block, row by row."""
    assert isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None
    assert layer.kernel_size == layer.stride == (2, 2)
    weight = layer.weight.permute(2, 3, 1, 0)  # (2, 2, out, in)
    return weight.flatten(0, 2), layer.bias.repeat(4)

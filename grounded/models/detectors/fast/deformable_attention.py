"""Deformable attention (Zhu et al., 2021) on a CPU: each query's samples as one weighted sum of rows of a table.

A head of a query reads p points on each of l feature maps, bilinearly, and sums them by its attention weights. As
`transformers` has it, each map is sampled by itself, and all lp samples of width d are stored before they are summed.
But a bilinear sample is itself a sum of four cells, so that all is one sum,

    sum over points of a · sample(x, y)  =  sum over points and their four cells of (a · bilinear weight) · cell

which `embedding_bag` takes without storing the samples. Exact but for rounding.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, pad
from transformers.models.grounding_dino import modeling_grounding_dino
from transformers.models.mm_grounding_dino import modeling_mm_grounding_dino

from grounded.models.detectors.fast import replace_modules

_REPLACED = (
    modeling_grounding_dino.MultiScaleDeformableAttention,
    modeling_mm_grounding_dino.MultiScaleDeformableAttention,
)
# Cells of zeros around each map. A point further out is moved there: all its four cells are zeros then.
_FRAME = 2
# Queries at a time: their cells and weights stay in the cache.
_CHUNK = 1024


class GatheredDeformableAttention(modeling_grounding_dino.MultiScaleDeformableAttention):
    """The sampling of `transformers`, with the same interface. It has no parameters.

    It computes the plain form on other devices, which may have a kernel of their own for it, in half precision and
    while training.
    """

    def forward(
        self,
        value: Float[Tensor, "b n heads d"],
        value_spatial_shapes: Any,
        value_spatial_shapes_list: Sequence[tuple[int, int]],
        level_start_index: Any,
        sampling_locations: Float[Tensor, "b q heads l p 2"],
        attention_weights: Float[Tensor, "b q heads l p"],
        im2col_step: int,
    ) -> Float[Tensor, "b q c"]:
        """Sum the samples of each query; c = heads · d.

        Args:
            value: n cells of l maps, one map after the other, row by row.
            value_spatial_shapes: ignored, like `level_start_index` and `im2col_step`.
            value_spatial_shapes_list: (height, width) of each map.
            level_start_index: as above.
            sampling_locations: (x, y) in 0..1 of each map; beyond it is 0.
            attention_weights: of the points.
            im2col_step: as above.
        """
        if self.training or value.device.type != "cpu" or value.dtype != torch.float32:
            plain: Tensor = super().forward(
                value,
                value_spatial_shapes,
                value_spatial_shapes_list,
                level_start_index,
                sampling_locations,
                attention_weights,
                im2col_step,
            )
            return plain
        images = zip(value, sampling_locations, attention_weights, strict=True)
        return torch.stack([_sample(value_spatial_shapes_list, *image) for image in images])


def replace_deformable_attention(model: nn.Module) -> None:
    """Replace the sampling in each deformable attention of a Grounding DINO of `transformers`.

    Any other network is left alone.
    """
    replace_modules(model, _REPLACED, lambda plain: GatheredDeformableAttention().train(plain.training))


def _sample(
    shapes: Sequence[tuple[int, int]],
    cells: Float[Tensor, "n heads d"],
    locations: Float[Tensor, "q heads l p 2"],
    weights: Float[Tensor, "q heads l p"],
) -> Float[Tensor, "q c"]:
    """The sums of one image."""
    table = _table(cells, shapes)
    chunks = zip(locations.split(_CHUNK), weights.split(_CHUNK), strict=True)
    return torch.cat([_gather(table, shapes, *chunk) for chunk in chunks])


def _table(cells: Float[Tensor, "n heads d"], shapes: Sequence[tuple[int, int]]) -> Float[Tensor, "rows d"]:
    """The framed cells of all maps, head after head."""
    maps = cells.split([prod(shape) for shape in shapes])
    framed = [
        pad(cells_of_map.unflatten(0, shape).permute(2, 0, 1, 3), (0, 0, *(_FRAME,) * 4)).flatten(1, 2)
        for cells_of_map, shape in zip(maps, shapes, strict=True)
    ]
    return torch.cat(framed, dim=1).flatten(0, 1)


def _gather(
    table: Float[Tensor, "rows d"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "q heads l p 2"],
    weights: Float[Tensor, "q heads l p"],
) -> Float[Tensor, "q c"]:
    """The weighted sum of samples of each query, heads side by side."""
    heads = locations.shape[1]
    height, width = (torch.tensor(side)[:, None] for side in zip(*shapes, strict=True))  # (l, 1)
    stride = (width + 2 * _FRAME).int()
    # Where cell (0, 0) of each map lies in the table.
    sizes = [prod(side + 2 * _FRAME for side in shape) for shape in shapes]
    first = torch.tensor([sum(sizes[:level]) for level in range(len(sizes))])[:, None] + _FRAME * (stride + 1)
    origin = (torch.arange(heads)[:, None, None] * sum(sizes) + first).int()  # (heads, l, 1)

    x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5  # of cells' centres
    left, top = x.floor(), y.floor()
    column = left.int().clamp_(min=-_FRAME).minimum(width.int())
    row = top.int().clamp_(min=-_FRAME).minimum(height.int())
    cell = row * stride + column + origin
    cells = torch.stack((cell, cell + 1, cell + stride, cell + stride + 1), dim=2)  # (q, heads, 4, l, p)

    right, below = x - left, y - top  # shares in 0..1
    on_right = weights * right
    on_left = weights - on_right
    low_right, low_left = on_right * below, on_left * below
    corners = torch.stack((on_left - low_left, on_right - low_right, low_left, low_right), dim=2)
    sums = embedding_bag(
        cells.flatten(2).flatten(0, 1), table, per_sample_weights=corners.flatten(2).flatten(0, 1), mode="sum"
    )
    return sums.view(len(locations), -1)

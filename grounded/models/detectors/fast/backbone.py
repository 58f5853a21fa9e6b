"""A detector's network in two steps: looking at a picture once, and searching what was seen for each prompt."""

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Answer(NamedTuple):
    """What a network says of each of its q queries: logits for t tokens, and relative cxcywh boxes."""

    logits: Float[Tensor, "b q t"]
    pred_boxes: Float[Tensor, "b q 4"]


@runtime_checkable
class TwoSteps(Protocol):
    """A network that can look at pictures before it is told what to search for."""

    def look(self, pixel_values: Float[Tensor, "b 3 h w"]) -> list[Any]:
        """Return what the network sees in each picture."""
        ...

    def search(self, seen: Sequence[Any], input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]) -> Answer:
        """Search each of b pictures, some of which may be the same, for its prompt."""
        ...


class Level(NamedTuple):
    """A feature map of the backbone, where it is no padding, and its position code."""

    features: Float[Tensor, "b c h w"]
    mask: Bool[Tensor, "b h w"]
    positions: Float[Tensor, "b d h w"]


class BackboneFirst:
    """A Grounding DINO of `transformers` whose backbone runs once for each picture, and not for each prompt.

    The forward of the network runs the backbone always. So it is given one that has run already: `search` works on a
    view of the network, a shallow copy that shares everything but the backbone. The network itself is never changed.
    """

    def __init__(self, model: Any):
        self.model = model

    def look(self, pixel_values: Float[Tensor, "b 3 h w"]) -> list[list[Level]]:
        """The levels of each picture by itself."""
        batch, _, height, width = pixel_values.shape
        nowhere_padded = torch.ones(batch, height, width, dtype=torch.long, device=pixel_values.device)
        maps, positions = self.model.model.backbone(pixel_values, nowhere_padded)
        levels = [Level(features, mask, code) for (features, mask), code in zip(maps, positions, strict=True)]
        return [[Level(*(part[i : i + 1] for part in level)) for level in levels] for i in range(batch)]

    def search(
        self, seen: Sequence[list[Level]], input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
    ) -> Answer:
        """The answer of the network for pictures of one size."""
        levels = [Level(*map(torch.cat, zip(*rows, strict=True))) for rows in zip(*seen, strict=True)]
        ready = _ReadyBackbone(levels, self.model.model.backbone.position_embedding)
        view = _with(self.model, model=_with(self.model.model, backbone=ready))
        # Of the pixels only the count is looked at: nothing is padded, on the coarser levels neither.
        pixels = input_ids.new_zeros(len(seen), 1, 1, 1, dtype=self.model.dtype)
        output = view(pixel_values=pixels, input_ids=input_ids, attention_mask=attention_mask)
        return Answer(output.logits, output.pred_boxes)


class _ReadyBackbone(nn.Module):
    """Stands in for a backbone that has run already."""

    def __init__(self, levels: Sequence[Level], position_embedding: nn.Module):
        super().__init__()
        self.levels = levels
        self.position_embedding = position_embedding

    def forward(self, _pixel_values: Tensor, _pixel_mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        return [(level.features, level.mask) for level in self.levels], [level.positions for level in self.levels]


def _with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A shallow copy of a module that has other children under the given names."""
    view = copy(module)
    view._modules = {**module._modules, **children}
    return view

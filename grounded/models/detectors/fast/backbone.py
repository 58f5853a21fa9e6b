"""A detector's network in two steps: encode an image once, then decode each prompt on its features."""

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class DetectorLogits(NamedTuple):
    """The output of a network for each of its q queries: logits for t tokens, and relative cxcywh boxes."""

    logits: Float[Tensor, "b q t"]
    pred_boxes: Float[Tensor, "b q 4"]


@runtime_checkable
class SplitNetwork(Protocol):
    """A network that encodes images before it is given prompts."""

    def encode_image(self, pixel_values: Float[Tensor, "b 3 h w"]) -> list[Any]:
        """Return the features of each image."""
        ...

    def decode_prompts(
        self, features: Sequence[Any], input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
    ) -> DetectorLogits:
        """Detect one prompt in each of b images, of which some may be the same."""
        ...


class FeatureMap(NamedTuple):
    """A feature map of the backbone, where it is no padding, and its position code."""

    features: Float[Tensor, "b c h w"]
    mask: Bool[Tensor, "b h w"]
    positions: Float[Tensor, "b d h w"]


class SharedBackbone:
    """A Grounding DINO of `transformers` whose backbone runs once for each image, and not for each prompt.

    The forward of the network always runs the backbone. So it is given one that has run already: `decode_prompts` works
    on a view of the network, a shallow copy that shares everything but the backbone. The network itself never changes.
    """

    def __init__(self, model: Any):
        self.model = model

    def encode_image(self, pixel_values: Float[Tensor, "b 3 h w"]) -> list[list[FeatureMap]]:
        """Return the feature maps of each image by itself."""
        batch, _, height, width = pixel_values.shape
        no_padding = torch.ones(batch, height, width, dtype=torch.long, device=pixel_values.device)
        maps, positions = self.model.model.backbone(pixel_values, no_padding)
        levels = [FeatureMap(features, mask, code) for (features, mask), code in zip(maps, positions, strict=True)]
        return [[FeatureMap(*(tensor[i : i + 1] for tensor in level)) for level in levels] for i in range(batch)]

    def decode_prompts(
        self, features: Sequence[list[FeatureMap]], input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
    ) -> DetectorLogits:
        """Return the output of the network for images of one size."""
        levels = [FeatureMap(*map(torch.cat, zip(*rows, strict=True))) for rows in zip(*features, strict=True)]
        backbone = _PrecomputedBackbone(levels, self.model.model.backbone.position_embedding)
        view = _copy_with(self.model, model=_copy_with(self.model.model, backbone=backbone))
        # Only the number of images is read: nothing is padded, on the coarser levels neither.
        pixels = input_ids.new_zeros(len(features), 1, 1, 1, dtype=self.model.dtype)
        output = view(pixel_values=pixels, input_ids=input_ids, attention_mask=attention_mask)
        return DetectorLogits(output.logits, output.pred_boxes)


class _PrecomputedBackbone(nn.Module):
    """Stands in for a backbone that has run already."""

    def __init__(self, levels: Sequence[FeatureMap], position_embedding: nn.Module):
        super().__init__()
        self.levels = levels
        self.position_embedding = position_embedding

    def forward(self, _pixel_values: Tensor, _pixel_mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        return [(level.features, level.mask) for level in self.levels], [level.positions for level in self.levels]


def _copy_with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """Return a shallow copy of a module that has other children under the given names."""
    view = copy(module)
    view._modules = {**module._modules, **children}
    return view

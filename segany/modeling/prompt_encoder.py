"""The prompt encoder: prompts to tokens (Segment Anything, section 3 and appendix A; text prompt of section 7.5).

Parameter names are those of Meta's published checkpoints; the text prompt adds `text_projection` and `text_type_embed`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import SegAnyConfig
from segany.errors import PromptError
from segany.modeling.layers import LayerNorm2d
from segany.modeling.prompt_maps import box_maps, click_maps
from segany.prompts import Prompts

BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = range(4)  # `point_embeddings`; the first two are also labels
PADDING_LABEL = -1


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """Encoded prompts.

    sparse  one token per point, box corner and text embedding
    dense   added to the image embedding; the first axis is 1 without a mask prompt, so that it broadcasts
    valid   False for tokens that nothing may attend to; None if all are valid
    """

    sparse: Float[Tensor, "n t c"]
    dense: Float[Tensor, "#n c h w"]
    valid: Bool[Tensor, "n t"] | None


class PromptEncoder(nn.Module):
    """Encode `Prompts` in model-frame pixels as tokens for the mask decoder."""

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        dim, hidden = config.prompt_dim, config.mask_channels
        self.config = config
        self.pe_layer = PositionCode(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = _downscaling(1, hidden, dim)
        if config.dense_prompts:
            self.click_downscaling = _downscaling(2, hidden, dim)
            # At first clicks change nothing, so that weights trained without these maps can go on with them.
            for parameter in self.click_downscaling[-1].parameters():
                nn.init.zeros_(parameter)
        self.no_mask_embed = nn.Embedding(1, dim)
        if config.text_dim is not None:
            self.text_projection = nn.Linear(config.text_dim, dim)
            self.text_type_embed = nn.Embedding(1, dim)

    def forward(self, prompts: Prompts) -> PromptTokens:
        """Encode n prompts.

        Raises:
            PromptError: a mask has the wrong size, the text has the wrong width, or the model has no text prompt.
        """
        weight = self.no_mask_embed.weight
        sparse = [weight.new_zeros(len(prompts), 0, self.config.prompt_dim)]
        valid = [torch.ones(len(prompts), 0, dtype=torch.bool, device=weight.device)]

        def add(tokens: Float[Tensor, "n t c"], keep: Bool[Tensor, "n t"] | None = None) -> None:
            sparse.append(tokens.to(weight.dtype))
            valid.append(torch.ones_like(tokens[..., 0], dtype=torch.bool) if keep is None else keep)

        if prompts.points is not None and prompts.point_labels is not None:
            add(self.encode_points(prompts.points, prompts.point_labels), prompts.point_labels != PADDING_LABEL)
            if prompts.boxes is None:
                # The published models add this token to points without a box, and attend to it.
                add(self.not_a_point_embed.weight.expand(len(prompts), 1, -1))
        if prompts.boxes is not None:
            add(self.encode_boxes(prompts.boxes))
        if prompts.text is not None:
            add(self.encode_text(prompts.text))

        all_valid = torch.cat(valid, dim=1)
        return PromptTokens(
            sparse=torch.cat(sparse, dim=1),
            dense=self._encode_dense(prompts),
            valid=None if bool(all_valid.all()) else all_valid,
        )

    def has_dense(self, prompts: Prompts) -> bool:
        """Whether these prompts change the image's cells, which prompts of one image cannot share then."""
        maps = self.config.dense_prompts and (prompts.boxes is not None or prompts.points is not None)
        return maps or prompts.masks is not None

    def dense_position_code(self) -> Float[Tensor, "1 c h w"]:
        """Position code of every cell of the image embedding, in float32."""
        side = self.config.grid_size
        centre = (torch.arange(side, device=self.no_mask_embed.weight.device) + 0.5) / side
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self.pe_layer(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]

    def _position_code(self, pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch c"]:
        # Pixel 0 covers 0..1, so its centre is at 0.5.
        return self.pe_layer((pixels + 0.5) / self.config.image_size)

    def encode_points(self, points: Float[Tensor, "n k 2"], labels: Int[Tensor, "n k"]) -> Float[Tensor, "n k c"]:
        """Return the tokens of k points for each of n prompts; of padding they mean nothing."""
        return self._position_code(points) + self._type_embeddings()[labels.clamp(min=BACKGROUND)]

    def encode_boxes(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2 c"]:
        """Return the tokens of two corners of each box, xyxy in pixels of the model frame."""
        return self._position_code(boxes.unflatten(1, (2, 2))) + self._type_embeddings()[[TOP_LEFT, BOTTOM_RIGHT]]

    def _type_embeddings(self) -> Float[Tensor, "4 c"]:
        return torch.cat(list(self.point_embeddings.parameters()))

    def encode_text(self, text: Float[Tensor, "n t d"]) -> Float[Tensor, "n t c"]:
        """Return the tokens of t text embeddings for each of n prompts. Raises PromptError for another width."""
        width = self.config.text_dim
        if width is None:
            raise PromptError("this model takes no text prompt (its config has text_dim None)")
        if text.shape[-1] != width:
            raise PromptError(f"text must be (n, t, {width}) for this model, got {tuple(text.shape)}")
        # CLIP embeddings are compared by direction only. Unit variance per channel matches the scale of other tokens.
        unit_variance = F.normalize(text, dim=-1) * math.sqrt(width)
        return self.text_projection(unit_variance.to(self.text_projection.weight.dtype)) + self.text_type_embed.weight

    def _encode_dense(self, prompts: Prompts) -> Float[Tensor, "#n c h w"]:
        masks, config = prompts.masks, self.config
        if masks is None and config.dense_prompts and prompts.boxes is not None:
            masks = box_maps(prompts.boxes, config.image_size, config.low_res_size)
        dense = self._encode_masks(masks)
        if config.dense_prompts and prompts.points is not None and prompts.point_labels is not None:
            dense = dense + self.encode_clicks(prompts.points, prompts.point_labels)
        return dense

    def encode_clicks(self, points: Float[Tensor, "n k 2"], labels: Int[Tensor, "n k"]) -> Float[Tensor, "n c h w"]:
        """What clicks add to the image's cells where `dense_prompts` is on; nothing where all are padding."""
        sizes = self.config.image_size, self.config.low_res_size
        maps = [click_maps(points, labels == label, *sizes) for label in (FOREGROUND, BACKGROUND)]
        codes = self.click_downscaling(torch.stack(maps, dim=1).to(self.no_mask_embed.weight.dtype))
        return codes * (labels != PADDING_LABEL).any(dim=1)[:, None, None, None]

    def _encode_masks(self, masks: Float[Tensor, "n 1 lh lw"] | None) -> Float[Tensor, "#n c h w"]:
        if masks is None:
            side = self.config.grid_size
            return self.no_mask_embed.weight[:, :, None, None].expand(-1, -1, side, side)
        side = self.config.low_res_size
        if masks.shape[-2:] != (side, side):
            raise PromptError(f"masks must be (n, 1, {side}, {side}) for this model, got {tuple(masks.shape)}")
        return self.mask_downscaling(masks.to(self.no_mask_embed.weight.dtype))


def _downscaling(channels: int, hidden: int, dim: int) -> nn.Sequential:
    """From maps at the size of low-resolution masks to codes of the embedding's cells."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden // 4, kernel_size=2, stride=2),
        LayerNorm2d(hidden // 4),
        nn.GELU(),
        nn.Conv2d(hidden // 4, hidden, kernel_size=2, stride=2),
        LayerNorm2d(hidden),
        nn.GELU(),
        nn.Conv2d(hidden, dim, kernel_size=1),
    )


class PositionCode(nn.Module):
    """Random Fourier features of positions in the unit square (Tancik et al., "Fourier Features", 2020).

    Always float32: in bfloat16 the phase of several turns would have no correct digits.
    """

    positional_encoding_gaussian_matrix: Float[Tensor, "2 half_c"]  # frequencies, in turns per half image

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PositionCode":
        """Let `.to`, `.half` and similar calls move the frequencies to a device without changing their dtype."""
        frequencies = self.positional_encoding_gaussian_matrix
        super()._apply(fn, recurse)
        moved = self.positional_encoding_gaussian_matrix
        if moved.dtype != frequencies.dtype:
            self.positional_encoding_gaussian_matrix = frequencies.to(moved.device)
        return self

    def forward(self, xy: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch c"]:
        with torch.autocast(xy.device.type, enabled=False):
            angle = 2 * math.pi * ((2 * xy.float() - 1) @ self.positional_encoding_gaussian_matrix)
            return torch.cat([angle.sin(), angle.cos()], dim=-1)

"""Tokens and image to mask logits and predicted IoU: Segment Anything, section 3 and appendix A.

Parameter names are those of Meta's published checkpoints.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from segany.config import SegAnyConfig
from segany.fast.upscaling import UpscalingWeights, upscale
from segany.modeling.layers import MLP, LayerNorm2d
from segany.modeling.prompt_encoder import PromptTokens
from segany.modeling.transformer import TwoWayTransformer


class MaskDecoder(nn.Module):
    """Predicts one mask for unambiguous prompts (token 0) and several for ambiguous ones (the other tokens)."""

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        dim, outputs = config.prompt_dim, 1 + config.num_multimask_outputs
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(outputs, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, dim // 8, depth=3) for _ in range(outputs))
        self.iou_prediction_head = MLP(dim, config.iou_hidden_dim, outputs, config.iou_depth)

    def forward(
        self,
        features: Float[Tensor, "#n c h w"],
        position_code: Float[Tensor, "#n c h w"],
        prompts: PromptTokens,
        multimask_output: bool | None,
    ) -> tuple[Float[Tensor, "n m lh lw"], Float[Tensor, "n m"]]:
        """Returns low-resolution mask logits (four per cell and side) and the predicted IoU of each mask.

        `multimask_output` True gives the masks for ambiguous prompts, False the single one, None all: single one first.
        """
        tokens, cells = self.attend(features, position_code, prompts)
        heads = list(self.output_hypernetworks_mlps)
        wanted = range(len(heads))[output_slice(multimask_output)]
        # (n, m, c / 8): each mask is a 1x1 convolution of the upscaled image. Token 0 is for the IoU.
        kernels = torch.stack([heads[index](tokens[:, 1 + index]) for index in wanted], dim=1)
        logits = upscale(cells.unflatten(1, features.shape[-2:]), kernels, UpscalingWeights.of(self.output_upscaling))
        return logits, self.iou_prediction_head(tokens[:, 0])[:, output_slice(multimask_output)]

    def attend(
        self, features: Float[Tensor, "#n c h w"], position_code: Float[Tensor, "#n c h w"], prompts: PromptTokens
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n l c"]]:
        """Tokens and image cells that have seen one another."""
        tokens, valid = self.add_output_tokens(prompts)
        image = features + prompts.dense  # stays shared, with first axis 1, where there is no mask prompt
        return self.transformer(tokens, to_cells(image), to_cells(position_code), valid)

    def add_output_tokens(self, prompts: PromptTokens) -> tuple[Float[Tensor, "n t c"], Bool[Tensor, "n t"] | None]:
        """The tokens that will hold the answers, then those of the prompts, and which of them may be attended to."""
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        output_tokens = output_tokens.expand(len(prompts.sparse), -1, -1)
        valid = prompts.valid
        if valid is not None:
            valid = torch.cat([valid.new_ones(output_tokens.shape[:2]), valid], dim=1)
        return torch.cat([output_tokens, prompts.sparse], dim=1), valid


def to_cells(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l c"]:
    """Channels-first map to a sequence of h * w cells, row by row."""
    return image.flatten(2).transpose(1, 2)


def output_slice(multimask_output: bool | None) -> slice:
    """Which of the mask tokens answer: the first for one mask, the others for several, all for None."""
    if multimask_output is None:
        return slice(None)
    return slice(1, None) if multimask_output else slice(0, 1)

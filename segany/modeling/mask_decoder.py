"""The mask decoder: prompt tokens and image features to mask logits and predicted IoU, with its two-way transformer.

Follows Segment Anything, section 3 and appendix A ("Lightweight mask decoder"). Parameter names are those of Meta's
published checkpoints. A cell is one position of the image embedding; l = h * w of them form a sequence.

The image features may be shared by all prompts (first axis 1). They stay shared, without copies, until the first block
has added the image-to-token attention of each prompt.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import SegAnyConfig
from segany.fast.upscaling import UpscalingWeights, upscale
from segany.modeling.layers import MLP, FeedForward, LayerNorm2d
from segany.modeling.prompt_encoder import PromptTokens


class MaskDecoder(nn.Module):
    """Predict one mask for unambiguous prompts (mask token 0) and several for ambiguous ones (the other tokens)."""

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
        """Return low-resolution mask logits, 4 x 4 per cell, and the predicted IoU of each mask.

        Args:
            features: image embeddings, one for all n prompts or one each.
            position_code: of the cells of the embedding.
            prompts: n encoded prompts.
            multimask_output: True gives the masks for ambiguous prompts, False the single mask, None all of them with
                the single mask first.
        """
        tokens, cells = self.attend(features, position_code, prompts)
        kernels, predicted_iou = self.predict_kernels(tokens, multimask_output)
        weights = UpscalingWeights.of(self.output_upscaling)
        return upscale(cells.unflatten(1, features.shape[-2:]), kernels, weights), predicted_iou

    def predict_kernels(
        self, tokens: Float[Tensor, "n t c"], multimask_output: bool | None
    ) -> tuple[Float[Tensor, "n m k"], Float[Tensor, "n m"]]:
        """From the tokens after the transformer, a kernel for each mask and its predicted IoU.

        Each mask is a 1x1 convolution of the upscaled image, which has k = c / 8 channels.
        """
        outputs = output_slice(multimask_output)
        heads = list(self.output_hypernetworks_mlps)
        # Token 0 is the IoU token.
        kernels = [heads[index](tokens[:, 1 + index]) for index in range(len(heads))[outputs]]
        return torch.stack(kernels, dim=1), self.iou_prediction_head(tokens[:, 0])[:, outputs]

    def count_outputs(self, multimask_output: bool | None) -> int:
        """Number of masks of each prompt."""
        return len(range(len(self.output_hypernetworks_mlps))[output_slice(multimask_output)])

    def attend(
        self, features: Float[Tensor, "#n c h w"], position_code: Float[Tensor, "#n c h w"], prompts: PromptTokens
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n l c"]]:
        """Tokens and image features after the two-way transformer."""
        tokens, valid = self.add_output_tokens(prompts)
        image = features + prompts.dense  # stays shared, with first axis 1, when there is no mask prompt
        return self.transformer(tokens, to_cells(image), to_cells(position_code), valid)

    @property
    def output_tokens(self) -> Float[Tensor, "t c"]:
        """IoU, then masks."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def add_output_tokens(self, prompts: PromptTokens) -> tuple[Float[Tensor, "n t c"], Bool[Tensor, "n t"] | None]:
        """The output tokens followed by the prompt tokens, and which of them may be attended to."""
        output_tokens = self.output_tokens.expand(len(prompts.sparse), -1, -1)
        valid = prompts.valid
        if valid is not None:
            valid = torch.cat([valid.new_ones(output_tokens.shape[:2]), valid], dim=1)
        return torch.cat([output_tokens, prompts.sparse], dim=1), valid


def to_cells(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l c"]:
    """Channels-first map to a sequence of l = h * w cells, row by row."""
    return image.flatten(2).transpose(1, 2)


def output_slice(multimask_output: bool | None) -> slice:
    """The mask tokens to use: the first for one mask, the others for several, all for None."""
    if multimask_output is None:
        return slice(None)
    return slice(1, None) if multimask_output else slice(0, 1)


class TwoWayTransformer(nn.Module):
    """Blocks that update tokens and image features in turn, then one last token-to-image attention."""

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        dim = config.prompt_dim
        self.layers = nn.ModuleList(TwoWayBlock(config, first=index == 0) for index in range(config.decoder_depth))
        self.final_attn_token_to_image = Attention(dim, config.decoder_heads, dim // config.attention_downsample)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Float[Tensor, "n t c"],
        image: Float[Tensor, "#n l c"],
        image_code: Float[Tensor, "#n l c"],
        valid: Bool[Tensor, "n t"] | None,
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "#n l c"]]:
        """Return updated tokens and image features.

        Args:
            tokens: output and prompt tokens.
            image: image features, one row per cell.
            image_code: position code of the cells, usually the same for all n.
            valid: False for tokens that nothing may attend to; None if all are valid.
        """
        token_code = tokens  # the initial tokens, added in every layer, carry position and type
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_code, image_code, valid)
        update = self.final_attn_token_to_image(tokens + token_code, image + image_code, image)
        return self.norm_final_attn(tokens + update), image


class TwoWayBlock(nn.Module):
    """Token self-attention, token-to-image attention, a feed-forward network, then image-to-token attention."""

    def __init__(self, config: SegAnyConfig, first: bool) -> None:
        super().__init__()
        dim, heads = config.prompt_dim, config.decoder_heads
        cross_dim = dim // config.attention_downsample
        self.first = first
        self.self_attn = Attention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, cross_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, config.decoder_mlp_dim, nn.ReLU())
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, cross_dim)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Float[Tensor, "n t c"],
        image: Float[Tensor, "#n l c"],
        token_code: Float[Tensor, "n t c"],
        image_code: Float[Tensor, "#n l c"],
        valid: Bool[Tensor, "n t"] | None,
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n l c"]]:
        tokens = self.norm1(self.attend_to_tokens(tokens, token_code, valid))
        coded_image = image + image_code
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_code, coded_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(coded_image, tokens + token_code, tokens, valid))
        return tokens, image

    def attend_to_tokens(
        self, tokens: Float[Tensor, "n t c"], token_code: Float[Tensor, "n t c"], valid: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n t c"]:
        if self.first:
            # Tokens still equal their code here; the published models replace them without a residual.
            return self.self_attn(tokens, tokens, tokens, valid)
        coded = tokens + token_code
        return tokens + self.self_attn(coded, coded, tokens, valid)


class Attention(nn.Module):
    """Multi-head attention with `inner_dim` channels."""

    def __init__(self, dim: int, heads: int, inner_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(
        self,
        q: Float[Tensor, "#n lq c"],
        k: Float[Tensor, "#n lk c"],
        v: Float[Tensor, "#n lk c"],
        valid: Bool[Tensor, "n lk"] | None = None,
    ) -> Float[Tensor, "n lq c"]:
        """Queries or keys shared by all n (first axis 1) are projected once. `valid` marks keys that may be used."""
        n = max(q.shape[0], k.shape[0])
        heads_q, heads_k, heads_v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(n, -1, -1, -1)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )  # (n, heads, l, head_dim)
        mask = None if valid is None else valid[:, None, None, :]
        out = F.scaled_dot_product_attention(heads_q, heads_k, heads_v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))

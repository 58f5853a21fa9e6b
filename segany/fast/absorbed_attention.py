"""Attention between a few prompt tokens and many image cells, without projecting the cells.

For one head: tokens x (t, c), image cells I (l, c), their position code P (l, c); W_q, W_k, W_v (d, c) and W_o (c, d).
Projecting the cells costs l * c * d multiplications. There are thousands of cells and about seven tokens, so the
projections are moved to the tokens. All steps are exact up to rounding:

    scores    (x W_q^T) ((I + P) W_k^T)^T  =  (x W_q^T W_k) I^T + (x W_q^T) (P W_k^T)^T
    values    A (I W_v^T)                  =  (A I) W_v^T
    output    (A V) W_o^T                  =  A (V W_o^T)

P W_k^T is the same for every image and prompt, and I + P is never formed. As long as the cells are the same for every
prompt, that is, until the end of the first block, they are projected once per image and shared (`project_*`). The
absorbed form is cheaper while tokens * heads stays below the width of the attention (`is_absorbing_cheaper`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.fast.blocks import blocks, cells_at_once
from segany.modeling.mask_decoder import Attention


def is_absorbing_cheaper(tokens: int, attention: Attention) -> bool:
    """Whether the absorbed form takes fewer multiplications than projecting the cells."""
    return tokens * attention.heads < attention.q_proj.out_features


@dataclass(frozen=True, eq=False)
class SharedImage:
    """Image features that are still the same for all prompts, with the first block's projections of them."""

    cells: Float[Tensor, "1 l c"]
    keys: Float[Tensor, "heads d l"]  # with position code, for token-to-image attention
    values: Float[Tensor, "heads l d"]  # without bias
    queries: Float[Tensor, "heads d l"]  # with position code, for image-to-token attention


class AttentionScores:
    """Scaled scores of tokens and image cells, (n, heads, t, l).

    Either tokens or cells can be the queries: only the order of the two projections differs.
    """

    def __init__(
        self, attention: Attention, tokens_are_queries: bool, code: Float[Tensor, "l c"], dtype: torch.dtype
    ) -> None:
        token_proj, image_proj = attention.q_proj, attention.k_proj
        if not tokens_are_queries:
            token_proj, image_proj = image_proj, token_proj
        self.heads = attention.heads
        head_dim = token_proj.out_features // self.heads
        self.token_weight = token_proj.weight * head_dim**-0.5  # the softmax scale is applied to the tokens
        self.token_bias = token_proj.bias * head_dim**-0.5
        self.image_weight = image_proj.weight.unflatten(0, (self.heads, head_dim))  # (heads, d, c)
        self.image_code = (self._by_head(code) + image_proj.bias.unflatten(0, (self.heads, head_dim, 1))).to(dtype)

    def project_image(self, cells: Float[Tensor, "l c"]) -> Float[Tensor, "heads d l"]:
        """Project cells shared by all prompts, position code included, for `from_shared`."""
        return self._by_head(cells.to(self.image_weight)).to(self.image_code) + self.image_code

    def from_shared(
        self, tokens: Float[Tensor, "n t c"], projected: Float[Tensor, "heads d l"]
    ) -> Float[Tensor, "n heads t l"]:
        """Scores with shared cells that `project_image` has projected."""
        return multiply_by_head(self._project_tokens(tokens).to(projected.dtype), projected)

    def __call__(self, tokens: Float[Tensor, "n t c"], cells: Float[Tensor, "n l c"]) -> Float[Tensor, "n heads t l"]:
        """Scores with the cells of each prompt."""
        projected = self._project_tokens(tokens)
        scores = multiply_by_head(projected.to(cells.dtype), self.image_code)
        absorbed = multiply_by_head(projected, self.image_weight).to(cells.dtype)  # (n, heads, t, c)
        scores.flatten(1, 2).baddbmm_(absorbed.flatten(1, 2), cells.mT)
        return scores

    def _project_tokens(self, tokens: Float[Tensor, "n t c"]) -> Float[Tensor, "n heads t d"]:
        return F.linear(tokens, self.token_weight, self.token_bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _by_head(self, cells: Float[Tensor, "l c"]) -> Float[Tensor, "heads d l"]:
        return self.image_weight @ cells.T


def multiply_by_head(x: Float[Tensor, "n heads t d"], y: Float[Tensor, "heads d l"]) -> Float[Tensor, "n heads t l"]:
    """x @ y, one product for each head: a broadcast product would copy y for each n. The result is contiguous."""
    product = x.transpose(0, 1).flatten(1, 2) @ y  # (heads, n * t, l)
    return product.unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1).contiguous()


class TokenToImageAttention:
    """Tokens attend to the image."""

    def __init__(self, attention: Attention, code: Float[Tensor, "l c"], dtype: torch.dtype) -> None:
        self.scores = AttentionScores(attention, tokens_are_queries=True, code=code, dtype=dtype)
        self.value_weight = attention.v_proj.weight.unflatten(0, (attention.heads, -1))  # (heads, d, c)
        self.value_bias = attention.v_proj.bias
        self.out_proj = attention.out_proj

    def project_values(self, cells: Float[Tensor, "l c"]) -> Float[Tensor, "heads l d"]:
        """Values of cells shared by all prompts, without their bias."""
        return cells.to(self.value_weight) @ self.value_weight.mT

    def __call__(
        self, tokens: Float[Tensor, "n t c"], image: SharedImage | Float[Tensor, "n l c"]
    ) -> Float[Tensor, "n t c"]:
        """Return the update of the tokens."""
        if isinstance(image, SharedImage):
            weights = self.scores.from_shared(tokens, image.keys).softmax(-1)
            return self._out(multiply_by_head(weights, image.values).to(tokens.dtype))
        weights = self.scores(tokens, image).softmax(-1)
        attended = (weights.flatten(1, 2) @ image).to(tokens.dtype).view(*weights.shape[:3], -1)  # (n, heads, t, c)
        return self._out(multiply_by_head(attended, self.value_weight.mT))

    def _out(self, heads: Float[Tensor, "n heads t d"]) -> Float[Tensor, "n t c"]:
        # The weights sum to one, so the bias of the values can be added after the weighted sum.
        return self.out_proj(heads.transpose(1, 2).flatten(2) + self.value_bias)


class ImageToTokenAttention:
    """The image attends to the tokens; the update is added to the cells, which are then normalised."""

    def __init__(
        self, attention: Attention, norm: nn.LayerNorm, code: Float[Tensor, "l c"], dtype: torch.dtype
    ) -> None:
        self.scores = AttentionScores(attention, tokens_are_queries=False, code=code, dtype=dtype)
        self.v_proj = attention.v_proj
        self.out_weight = attention.out_proj.weight.T.unflatten(0, (attention.heads, -1))  # (heads, d, c)
        # Every head's weights sum to one over the tokens, so the output bias can be added to the values of one head.
        self.out_bias = torch.zeros(attention.heads, 1, len(attention.out_proj.bias)).to(attention.out_proj.bias)
        self.out_bias[0, 0] = attention.out_proj.bias
        self.norm_weight, self.norm_bias, self.eps = norm.weight.to(dtype), norm.bias.to(dtype), norm.eps

    def __call__(
        self,
        image: SharedImage | Float[Tensor, "n l c"],
        keys: Float[Tensor, "n t c"],
        values: Float[Tensor, "n t c"],
        valid: Bool[Tensor, "n t"] | None,
    ) -> Float[Tensor, "n l c"]:
        """Return the updated cells of each prompt. Cells that are not shared are changed in place."""
        if isinstance(image, SharedImage):
            weights = self._weights(self.scores.from_shared(keys, image.queries), valid)
            cells = image.cells.expand(len(keys), -1, -1)
            result = torch.empty_like(cells, memory_format=torch.contiguous_format)
        else:
            weights = self._weights(self.scores(keys, image), valid)
            cells = result = image
        update = self._out(values, cells.dtype)
        # In blocks, so that intermediate values stay in the cache between reading and writing the cells.
        for block in blocks(cells.shape[1], cells_at_once(cells) // len(keys)):
            updated = torch.baddbmm(cells[:, block], weights[:, :, block].mT, update)
            result[:, block] = F.layer_norm(updated, self.norm_weight.shape, self.norm_weight, self.norm_bias, self.eps)
        return result

    def _weights(
        self, scores: Float[Tensor, "n heads t l"], valid: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n ht l"]:
        if valid is not None:
            scores = scores.masked_fill_(~valid[:, None, :, None], -torch.inf)
        return scores.softmax(2).flatten(1, 2)

    def _out(self, values: Float[Tensor, "n t c"], dtype: torch.dtype) -> Float[Tensor, "n ht c"]:
        heads = self.v_proj(values).unflatten(-1, (len(self.out_weight), -1)).transpose(1, 2)  # (n, heads, t, d)
        return (multiply_by_head(heads, self.out_weight) + self.out_bias).flatten(1, 2).to(dtype)

"""Attention between a few prompt tokens and many image cells, without projecting the cells.

For one head: tokens x (t, c), image cells I (l, c), their position code P (l, c); W_q, W_k, W_v (d, c) and W_o (c, d).
Projecting the cells costs l * c * d multiplications; there are thousands of cells and about seven tokens, so the
projections move to the tokens. All rearrangements are exact but for rounding:

    scores    (x W_q^T) ((I + P) W_k^T)^T  =  (x W_q^T W_k) I^T + (x W_q^T) (P W_k^T)^T
    values    A (I W_v^T)                  =  (A I) W_v^T
    output    (A V) W_o^T                  =  A (V W_o^T)

P W_k^T is the same for every picture and prompt; I + P is never formed. Where the cells are the same for every prompt,
as before the first block has written into them, they are projected once for the picture and shared (`project_*`).
This pays while tokens * heads stays below the attention's width, see `pays`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.fast.blocks import blocks, cells_at_once
from segany.modeling.transformer import Attention


def pays(tokens: int, attention: Attention) -> bool:
    """Whether the absorbed form takes fewer multiplications than projecting the cells."""
    return tokens * attention.heads < attention.q_proj.out_features


@dataclass(frozen=True, eq=False)
class SharedImage:
    """An image that all prompts still see alike: its cells, and the first block's projections of them."""

    cells: Float[Tensor, "1 l c"]
    keys: Float[Tensor, "heads d l"]  # with position code
    values: Float[Tensor, "heads l d"]  # without bias
    queries: Float[Tensor, "heads d l"]  # with position code


class Scores:
    """Scaled scores of tokens against coded image cells, (n, heads, t, l).

    Either side may be the one that asks: only the order of the two projections differs.
    """

    def __init__(self, attention: Attention, tokens_ask: bool, code: Float[Tensor, "l c"], dtype: torch.dtype) -> None:
        on_tokens, on_image = attention.q_proj, attention.k_proj
        if not tokens_ask:
            on_tokens, on_image = on_image, on_tokens
        self.heads = attention.heads
        head_dim = on_tokens.out_features // self.heads
        self.token_weight = on_tokens.weight * head_dim**-0.5  # the softmax scale goes with the tokens
        self.token_bias = on_tokens.bias * head_dim**-0.5
        self.image_weight = on_image.weight.unflatten(0, (self.heads, head_dim))  # (heads, d, c)
        self.image_code = (self._by_head(code) + on_image.bias.unflatten(0, (self.heads, head_dim, 1))).to(dtype)

    def project_image(self, cells: Float[Tensor, "l c"]) -> Float[Tensor, "heads d l"]:
        """What cells shared by all prompts contribute, code included: the cells side of `from_shared`."""
        return self._by_head(cells.to(self.image_weight)).to(self.image_code) + self.image_code

    def from_shared(
        self, tokens: Float[Tensor, "n t c"], projected: Float[Tensor, "heads d l"]
    ) -> Float[Tensor, "n heads t l"]:
        """Scores against shared cells that `project_image` has seen."""
        return by_head(self._project_tokens(tokens).to(projected.dtype), projected)

    def __call__(self, tokens: Float[Tensor, "n t c"], cells: Float[Tensor, "n l c"]) -> Float[Tensor, "n heads t l"]:
        """Scores against each prompt's own cells."""
        projected = self._project_tokens(tokens)
        scores = by_head(projected.to(cells.dtype), self.image_code)
        absorbed = by_head(projected, self.image_weight).to(cells.dtype)  # (n, heads, t, c)
        scores.flatten(1, 2).baddbmm_(absorbed.flatten(1, 2), cells.mT)
        return scores

    def _project_tokens(self, tokens: Float[Tensor, "n t c"]) -> Float[Tensor, "n heads t d"]:
        return F.linear(tokens, self.token_weight, self.token_bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _by_head(self, cells: Float[Tensor, "l c"]) -> Float[Tensor, "heads d l"]:
        return self.image_weight @ cells.T


def by_head(x: Float[Tensor, "n heads t d"], y: Float[Tensor, "heads d l"]) -> Float[Tensor, "n heads t l"]:
    """x @ y, one product for each head: a broadcast product would copy y for each n. The result is contiguous."""
    product = x.transpose(0, 1).flatten(1, 2) @ y  # (heads, n * t, l)
    return product.unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1).contiguous()


class TokensToImage:
    """Tokens look at the image."""

    def __init__(self, attention: Attention, code: Float[Tensor, "l c"], dtype: torch.dtype) -> None:
        self.scores = Scores(attention, tokens_ask=True, code=code, dtype=dtype)
        self.value_weight = attention.v_proj.weight.unflatten(0, (attention.heads, -1))  # (heads, d, c)
        self.value_bias = attention.v_proj.bias
        self.out_proj = attention.out_proj

    def project_values(self, cells: Float[Tensor, "l c"]) -> Float[Tensor, "heads l d"]:
        """Values of cells shared by all prompts, without their bias."""
        return cells.to(self.value_weight) @ self.value_weight.mT

    def __call__(
        self, tokens: Float[Tensor, "n t c"], image: SharedImage | Float[Tensor, "n l c"]
    ) -> Float[Tensor, "n t c"]:
        if isinstance(image, SharedImage):
            weights = self.scores.from_shared(tokens, image.keys).softmax(-1)
            return self._out(by_head(weights, image.values).to(tokens.dtype))
        weights = self.scores(tokens, image).softmax(-1)
        seen = (weights.flatten(1, 2) @ image).to(tokens.dtype).view(*weights.shape[:3], -1)  # (n, heads, t, c)
        return self._out(by_head(seen, self.value_weight.mT))

    def _out(self, heads: Float[Tensor, "n heads t d"]) -> Float[Tensor, "n t c"]:
        # Weights add up to one, so the bias of the values passes through.
        return self.out_proj(heads.transpose(1, 2).flatten(2) + self.value_bias)


class ImageToTokens:
    """The image looks at the tokens, adds what it sees to its cells and normalises them."""

    def __init__(
        self, attention: Attention, norm: nn.LayerNorm, code: Float[Tensor, "l c"], dtype: torch.dtype
    ) -> None:
        self.scores = Scores(attention, tokens_ask=False, code=code, dtype=dtype)
        self.v_proj = attention.v_proj
        self.out_weight = attention.out_proj.weight.T.unflatten(0, (attention.heads, -1))  # (heads, d, c)
        # Every head's weights add up to one over the tokens, so the output's bias can ride on any one head.
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
        """Returns each prompt's own cells; those that are its own already change in place."""
        if isinstance(image, SharedImage):
            weights = self._weights(self.scores.from_shared(keys, image.queries), valid)
            cells = image.cells.expand(len(keys), -1, -1)
            result = torch.empty_like(cells, memory_format=torch.contiguous_format)
        else:
            weights = self._weights(self.scores(keys, image), valid)
            cells = result = image
        update = self._out(values, cells.dtype)
        # In blocks, so that what lies between reading and writing the cells stays in the cache.
        for block in blocks(cells.shape[1], cells_at_once(cells) // len(keys)):
            seen = torch.baddbmm(cells[:, block], weights[:, :, block].mT, update)
            result[:, block] = F.layer_norm(seen, self.norm_weight.shape, self.norm_weight, self.norm_bias, self.eps)
        return result

    def _weights(
        self, scores: Float[Tensor, "n heads t l"], valid: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n ht l"]:
        if valid is not None:
            scores = scores.masked_fill_(~valid[:, None, :, None], -torch.inf)
        return scores.softmax(2).flatten(1, 2)

    def _out(self, values: Float[Tensor, "n t c"], dtype: torch.dtype) -> Float[Tensor, "n ht c"]:
        heads = self.v_proj(values).unflatten(-1, (len(self.out_weight), -1)).transpose(1, 2)  # (n, heads, t, d)
        return (by_head(heads, self.out_weight) + self.out_bias).flatten(1, 2).to(dtype)

"""Two-way attention between prompt tokens and the image: Segment Anything, appendix A, "Lightweight mask decoder".

The image side may hold one image shared by all prompts (first axis 1). It stays shared, without copies, until the first
block has written the prompts' answers into it. Parameter names are those of Meta's published checkpoints.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import SegAnyConfig
from segany.modeling.layers import FeedForward


class TwoWayTransformer(nn.Module):
    """Blocks that update tokens and image in turn, then one last look of the tokens at the image."""

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
        """Returns updated tokens and image.

        `image_code` is the position code of the l cells, usually the same for all n; `valid` is False for tokens that
        nothing may attend to.
        """
        token_code = tokens  # the first tokens remind every later layer of position and kind
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_code, image_code, valid)
        update = self.final_attn_token_to_image(tokens + token_code, image + image_code, image)
        return self.norm_final_attn(tokens + update), image


class TwoWayBlock(nn.Module):
    """Tokens attend to tokens, tokens to the image, a feed-forward network, then the image to the tokens."""

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
            # Tokens still are their own code here; the published models then replace them without a residual.
            return self.self_attn(tokens, tokens, tokens, valid)
        coded = tokens + token_code
        return tokens + self.self_attn(coded, coded, tokens, valid)


class Attention(nn.Module):
    """Multi-head attention that works at `inner_dim` channels."""

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
        """Queries or keys may be shared by all n (first axis 1): they are projected once. `valid` marks usable keys."""
        n = max(q.shape[0], k.shape[0])
        heads_q, heads_k, heads_v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(n, -1, -1, -1)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )  # (n, heads, l, head_dim)
        mask = None if valid is None else valid[:, None, None, :]
        out = F.scaled_dot_product_attention(heads_q, heads_k, heads_v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))

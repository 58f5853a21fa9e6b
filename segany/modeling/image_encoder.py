"""The image encoder of Segment Anything: a plain ViT with windowed attention and a few global attention blocks.

Follows Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (windows, neck), and Li et al.,
"MViTv2" (decomposed relative positions). Parameter names are those of Meta's published checkpoints.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segany.config import SegAnyConfig
from segany.modeling.layers import FeedForward, LayerNorm2d
from segany.modeling.relative_attention import RelativeAttention

_TOKENS_AT_ONCE = 1024  # on a CPU: enough for full speed, few enough for their activations to stay in the cache


class ImageEncoder(nn.Module):
    """Encode normalised pixels of the square model frame as an image embedding with one cell per patch."""

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        grid, dim, out_dim = config.grid_size, config.encoder_dim, config.prompt_dim
        self.patch_embed = PatchEmbedding(config.patch_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, dim))
        self.blocks = nn.ModuleList(
            Block(config, window_size=None if index in config.global_blocks else config.window_size)
            for index in range(config.encoder_depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out_dim, kernel_size=1, bias=False),
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )
        self._initialise()

    def _initialise(self) -> None:
        """Usual ViT initialisation: truncated normal with std 0.02. Relative positions stay zero."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        return self.forward_early(pixels)[0]

    def forward_early(self, pixels: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b c h w"], Tensor | None]:
        """The image embedding, and the output (b, dim, h, w) of the first block with global attention, for SAM-HQ."""
        x = self.patch_embed(pixels) + self.pos_embed  # (b, h, w, dim)
        early = None
        for block in self.blocks:
            x = block(x)
            if early is None and isinstance(block, Block) and block.window_size is None:
                early = x.permute(0, 3, 1, 2)
        return self.neck(x.permute(0, 3, 1, 2)), early


class PatchEmbedding(nn.Module):
    """Split the image into square patches and project each of them."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b h w c"]:
        return self.proj(pixels).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm transformer block. With `window_size` None it attends over the whole grid."""

    def __init__(self, config: SegAnyConfig, window_size: int | None) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelativeAttention(dim, config.encoder_heads, window_size or config.grid_size)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, config.encoder_mlp_dim, nn.GELU())

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        if self.window_size is None:
            return in_bands(self._transform, self._attend(x), multiple=1)
        # Windows are independent, so each row of windows can pass through the whole block by itself.
        return in_bands(lambda band: self._transform(self._attend(band)), x, multiple=self.window_size)

    def _attend(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + self.attn(self.norm1(x))

    def _transform(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + self.mlp(self.norm2(x))


def in_bands(function: Callable[[Tensor], Tensor], x: Float[Tensor, "b h w c"], multiple: int) -> Tensor:
    """Apply `function` to bands of rows on a CPU, and to the whole grid elsewhere, in training and in compiled code.

    `function` must process every `multiple` rows of every grid independently, so the result is exact. On a CPU,
    allocating large activations takes about as long as computing them, while small ones reuse the same memory. Training
    keeps all activations anyway, and compilers plan memory themselves.
    """
    if x.device.type != "cpu" or x.requires_grad or torch.compiler.is_compiling():
        return function(x)
    rows = multiple * max(1, _TOKENS_AT_ONCE // (multiple * x.shape[2]))
    bands = [function(band) for image in x.split(1) for band in image.split(rows, dim=1)]
    return torch.cat(bands, dim=1).reshape(x.shape)

"""The image encoder of Segment Anything: a plain ViT whose blocks attend within windows, with a few global ones.

Follows Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (windows, neck), and Li et al.,
"MViTv2" (decomposed relative positions). Parameter names are those of Meta's published checkpoints.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import SegAnyConfig
from segany.layers import FeedForward, LayerNorm2d


class ImageEncoder(nn.Module):
    """Normalised square pixels to an image embedding with one cell per patch."""

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
        """The usual ViT start: truncated normal of std 0.02. Relative positions stay zero, as they were made."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        x = self.patch_embed(pixels) + self.pos_embed  # (b, h, w, dim)
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class PatchEmbedding(nn.Module):
    """Cut the picture into square patches and project each of them."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b h w c"]:
        return self.proj(pixels).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm transformer block. `window_size` None attends over the whole grid."""

    def __init__(self, config: SegAnyConfig, window_size: int | None) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelativeAttention(dim, config.encoder_heads, window_size or config.grid_size)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, config.encoder_mlp_dim, nn.GELU())

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        if self.window_size is None:
            return self.attn(x)
        windows = split_windows(x, self.window_size)
        return join_windows(self.attn(windows), x.shape[1], x.shape[2])


class RelativeAttention(nn.Module):
    """Self-attention over an s x s grid, biased by row and column distance.

    The bias of query q at (y, x) for a key at (y', x') is q . rel_pos_h[y - y'] + q . rel_pos_w[x - x'].
    """

    def __init__(self, dim: int, heads: int, grid_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # One row per signed distance, from -(s - 1) to s - 1.
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid_size - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid_size - 1, dim // heads))

    def forward(self, x: Float[Tensor, "b s s c"]) -> Float[Tensor, "b s s c"]:
        batch, side, _, dim = x.shape
        qkv = self.qkv(x).reshape(batch, side * side, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (b, heads, s * s, head_dim)
        # Written out: the fused kernel falls back to a slower path where the bias itself needs a gradient.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self._position_bias(q, side)
        out = scores.softmax(dim=-1) @ v  # (b, heads, s * s, head_dim)
        return self.proj(out.transpose(1, 2).reshape(batch, side, side, dim))

    def _position_bias(self, q: Float[Tensor, "b n l d"], side: int) -> Float[Tensor, "b n l l"]:
        q = q.unflatten(2, (side, side))  # (b, heads, y, x, head_dim)
        rows = by_distance(self.rel_pos_h, side)  # (y, y', head_dim)
        columns = by_distance(self.rel_pos_w, side)  # (x, x', head_dim)
        row_bias = torch.einsum("bnyxd,ykd->bnyxk", q, rows)
        column_bias = torch.einsum("bnyxd,xkd->bnyxk", q, columns)
        bias = row_bias[..., :, None] + column_bias[..., None, :]  # (b, heads, y, x, y', x')
        return bias.flatten(4, 5).flatten(2, 3)


def by_distance(table: Float[Tensor, "distances d"], side: int) -> Float[Tensor, "s s d"]:
    """Entry [i, j] is the row of `table` for the signed distance i - j."""
    position = torch.arange(side, device=table.device)
    return table[position[:, None] - position[None, :] + side - 1]


def split_windows(x: Float[Tensor, "b h w c"], size: int) -> Float[Tensor, "m size size c"]:
    """Cut a grid into size x size windows, row by row; zeros fill up the right and bottom edges."""
    _, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (b, rows, size, columns, size, c)
    return x.transpose(2, 3).reshape(-1, size, size, channels)


def join_windows(windows: Float[Tensor, "m size size c"], height: int, width: int) -> Float[Tensor, "b h w c"]:
    """Inverse of `split_windows` for a height x width grid: put the windows back and drop the padding."""
    size, channels = windows.shape[2], windows.shape[3]
    rows, columns = -(-height // size), -(-width // size)
    x = windows.reshape(-1, rows, columns, size, size, channels).transpose(2, 3)  # (b, rows, size, columns, size, c)
    return x.reshape(-1, rows * size, columns * size, channels)[:, :height, :width]

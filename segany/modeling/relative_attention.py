"""Self-attention over a square grid of tokens with decomposed relative position biases.

Follows Li et al., "MViTv2", section 4.1. With s = 1 / sqrt(head_dim), the score of query i at (y, x) for key j at
(y', x') is

    s q_i . k_j + q_i . rel_pos_h[y - y'] + q_i . rel_pos_w[x - x']

The last two terms take few values: `row_scores` over y' and `column_scores` over x'. Expanded to all keys they would
take 0.8 GB for twelve heads on a 64 x 64 grid, so none of the forms of attention below expands them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_SCORES_AT_ONCE = 1 << 20  # per CPU thread: 4 MB in float32, which fit its cache
_WIDTH_MULTIPLE = 8  # fused GPU kernels need queries, keys and values of such a width

# b windows (or whole grids) of l = s x s tokens, row by row, under n heads.
Heads = Float[Tensor, "b n l d"]  # queries, keys or values
Biases = Float[Tensor, "b n l s"]  # bias of each query for the keys of each row, or of each column


class RelativeAttention(nn.Module):
    """Multi-head self-attention within side x side windows of a grid; global if the side equals that of the grid.

    Windows at the right and bottom edge are padded with zeros, which serve as keys like any others. Their key and value
    are the bias of the projection, qkv(0) = bias, so the projections run on real tokens only. This is exact, because
    the output of padding is dropped.
    """

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.side = side
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # One row per signed distance, from -(s - 1) to s - 1.
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        _, height, width, dim = x.shape
        windows = split_windows(self.qkv(x), self.side, fill=self.qkv.bias)  # (m, side, side, 3 * dim)
        qkv = windows.reshape(-1, self.side**2, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (m, heads, side * side, head_dim)
        # Autocast would compute the scores in float32, with twice the memory and time.
        with torch.autocast(x.device.type, enabled=False):
            out = attend(q, k, v, *self._position_scores(q))
        out = out.transpose(1, 2).reshape(-1, self.side, self.side, dim)
        return self.proj(join_windows(out, height, width))

    def _position_scores(self, q: Heads) -> tuple[Biases, Biases]:
        q = q.unflatten(2, (self.side, self.side))
        rows = by_distance(self.rel_pos_h.to(q.dtype), self.side)  # (y, y', head_dim)
        columns = by_distance(self.rel_pos_w.to(q.dtype), self.side)  # (x, x', head_dim)
        row_scores = torch.einsum("bnyxd,ykd->bnyxk", q, rows)
        column_scores = torch.einsum("bnyxd,xkd->bnyxk", q, columns)
        return row_scores.flatten(2, 3), column_scores.flatten(2, 3)


def attend(q: Heads, k: Heads, v: Heads, row_scores: Biases, column_scores: Biases) -> Heads:
    """Attention within each window, in the form measured to be fastest. All forms are equal up to rounding."""
    operands = (q, k, v, row_scores, column_scores)
    return _fastest_form(*operands)(*operands)


def _fastest_form(*operands: Tensor) -> Callable[..., Tensor]:
    if operands[0].device.type != "cpu":
        return fused_attention
    if any(operand.requires_grad for operand in operands):
        return plain_attention  # on a CPU the fused kernel has the slower backward pass
    if operands[0].dtype == torch.float32 and not torch.compiler.is_compiling():
        return chunked_attention  # on a CPU wider products are expensive in float32, but cheap in bfloat16
    return fused_attention


def augment(
    q: Heads, k: Heads, row_scores: Biases, column_scores: Biases
) -> tuple[Float[Tensor, "b n l a"], Float[Tensor, "b n l a"]]:
    """Wider queries and keys whose product is the biased score, padded to a width a that fused kernels support.

    q' = [s q, row_scores, column_scores, 0] and k' = [k, onehot(y), onehot(x), 0], so that
    q'_i . k'_j = s q_i . k_j + row_scores[i, y_j] + column_scores[i, x_j]. Exact: each one-hot code selects one number.
    """
    side = row_scores.shape[-1]
    one_hot = torch.eye(side, dtype=k.dtype, device=k.device)
    position = torch.cat([one_hot.repeat_interleave(side, dim=0), one_hot.repeat(side, 1)], dim=1)
    position = position.expand(*k.shape[:2], -1, -1)
    width = q.shape[-1] + 2 * side
    width += -width % _WIDTH_MULTIPLE
    return _join([q * q.shape[-1] ** -0.5, row_scores, column_scores], width), _join([k, position], width)


def _join(parts: list[Tensor], width: int) -> Tensor:
    """Concatenate along the last axis and pad with zeros to `width`."""
    missing = width - sum(part.shape[-1] for part in parts)
    return torch.cat([*parts, parts[0].new_zeros(1).expand(*parts[0].shape[:-1], missing)], dim=-1)


def plain_attention(q: Heads, k: Heads, v: Heads, row_scores: Biases, column_scores: Biases) -> Heads:
    """softmax(q' k'^T) v, written out."""
    wide_q, wide_k = augment(q, k, row_scores, column_scores)
    return (wide_q @ wide_k.transpose(-2, -1)).softmax(dim=-1) @ v


def fused_attention(q: Heads, k: Heads, v: Heads, row_scores: Biases, column_scores: Biases) -> Heads:
    """softmax(q' k'^T) v in one kernel, which never stores the scores; it needs v to be as wide as q' and k'."""
    wide_q, wide_k = augment(q, k, row_scores, column_scores)
    wide_v = _join([v], wide_q.shape[-1])
    return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., : v.shape[-1]]


def chunked_attention(
    q: Heads,
    k: Heads,
    v: Heads,
    row_scores: Biases,
    column_scores: Biases,
    scores_at_once: int | None = None,
) -> Heads:
    """softmax(s q k^T + bias) v in chunks of heads and queries whose bias fits the cache of a CPU."""
    out = torch.empty(q.shape, dtype=q.dtype)
    length = q.shape[2]
    budget = scores_at_once or _SCORES_AT_ONCE * torch.get_num_threads()
    heads_at_once, queries_at_once = max(1, budget // length**2), max(1, budget // length)
    # Heads of all windows along one axis; each operand is (heads, queries or keys, ...).
    flat = [operand.flatten(0, 1).split(heads_at_once) for operand in (out, q, k, v, row_scores, column_scores)]
    for some_out, some_q, some_k, some_v, some_rows, some_columns in zip(*flat, strict=True):
        chunks = [operand.split(queries_at_once, dim=1) for operand in (some_out, some_q, some_rows, some_columns)]
        for chunk_out, chunk_q, rows, columns in zip(*chunks, strict=True):
            bias = (rows[..., :, None] + columns[..., None, :]).flatten(2)
            chunk_out.copy_(F.scaled_dot_product_attention(chunk_q[None], some_k[None], some_v[None], bias[None])[0])
    return out


def by_distance(table: Float[Tensor, "distances d"], side: int) -> Float[Tensor, "s s d"]:
    """Entry [i, j] is the row of `table` for the signed distance i - j."""
    position = torch.arange(side, device=table.device)
    return table[position[:, None] - position[None, :] + side - 1]


def split_windows(x: Float[Tensor, "b h w c"], size: int, fill: Float[Tensor, " c"]) -> Float[Tensor, "m size size c"]:
    """Split a grid into size x size windows, row by row; `fill` pads cells beyond the right and bottom edge."""
    batch, height, width, channels = x.shape
    right, bottom = -width % size, -height % size
    fill = fill.to(x.dtype)
    if right:
        x = torch.cat([x, fill.expand(batch, height, right, channels)], dim=2)
    if bottom:
        x = torch.cat([x, fill.expand(batch, bottom, width + right, channels)], dim=1)
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (b, rows, size, columns, size, c)
    return x.transpose(2, 3).reshape(-1, size, size, channels)


def join_windows(windows: Float[Tensor, "m size size c"], height: int, width: int) -> Float[Tensor, "b h w c"]:
    """Inverse of `split_windows` for a height x width grid: join the windows and drop the padding."""
    size, channels = windows.shape[2], windows.shape[3]
    rows, columns = -(-height // size), -(-width // size)
    x = windows.reshape(-1, rows, columns, size, size, channels).transpose(2, 3)  # (b, rows, size, columns, size, c)
    return x.reshape(-1, rows * size, columns * size, channels)[:, :height, :width]

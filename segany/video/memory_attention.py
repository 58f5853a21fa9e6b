"""Memory attention: the cells of a frame read from the memories of other frames (SAM 2, section 4).

Queries and keys are turned by their position (Heo et al., Rotary Position Embedding for Vision Transformer, 2024), so
that attention sees how far a memory lies from where the cell is now. Object pointers have no position.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import SegAnyConfig
from segany.video.config import MemoryConfig

_BASE = 10_000.0  # the longest wavelength of the position code, in cells, over 2 pi


class MemoryAttention(nn.Module):
    """Layers of self-attention among the cells of the frame, and cross-attention to its memories."""

    def __init__(self, image: SegAnyConfig, config: MemoryConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(MemoryAttentionLayer(image, config) for _ in range(config.attention_depth))
        self.norm = nn.LayerNorm(image.prompt_dim)

    def forward(
        self,
        features: Float[Tensor, "#n c h w"],
        memories: Float[Tensor, "n k d"],
        memory_code: Float[Tensor, "n k d"],
        memory_size: tuple[int, int],
        pointers: int,
    ) -> Float[Tensor, "n c h w"]:
        """Return features of the frame that know of each object's memories.

        Args:
            features: of the frame, one for all n objects or one each.
            memories: cells of the remembered frames, frame after frame and row after row, then the tokens of pointers.
            memory_code: added to them in keys alone: how long ago each was.
            memory_size: (height, width) of each memory in its own cells.
            pointers: how many of the k tokens, the last, come from object pointers.
        """
        height, width = features.shape[-2:]
        cells = features.flatten(2).transpose(1, 2).expand(len(memories), -1, -1)  # (n, h * w, c)
        turns = position_angles(height, width, 1, self.config.attention_dim, features.device)
        memory_turns = position_angles(
            *memory_size, self.config.memory_stride, self.config.attention_dim, features.device
        )
        frames = (memories.shape[1] - pointers) // len(memory_turns)
        memory_turns = memory_turns.repeat(frames, 1, 1)
        keys = memories + memory_code
        for layer in self.layers:
            cells = layer(cells, keys, memories, turns, memory_turns)
        return self.norm(cells).transpose(1, 2).unflatten(2, (height, width))


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to memories, and a feed-forward network, each on normalised cells."""

    def __init__(self, image: SegAnyConfig, config: MemoryConfig) -> None:
        super().__init__()
        dim, inner = image.prompt_dim, config.attention_dim
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attn = RotaryAttention(dim, dim, inner)
        self.cross_attn = RotaryAttention(dim, config.memory_dim, inner)
        self.linear1 = nn.Linear(dim, config.attention_mlp_dim)
        self.linear2 = nn.Linear(config.attention_mlp_dim, dim)

    def forward(
        self,
        cells: Float[Tensor, "n l c"],
        keys: Float[Tensor, "n k d"],
        memories: Float[Tensor, "n k d"],
        turns: Float[Tensor, "l a 2"],
        memory_turns: Float[Tensor, "m a 2"],
    ) -> Float[Tensor, "n l c"]:
        normed = self.norm1(cells)
        cells = cells + self.self_attn(normed, normed, normed, turns, turns)
        cells = cells + self.cross_attn(self.norm2(cells), keys, memories, turns, memory_turns)
        return cells + self.linear2(F.relu(self.linear1(self.norm3(cells))))


class RotaryAttention(nn.Module):
    """Attention with one head, whose queries and keys are turned by their positions."""

    def __init__(self, dim: int, key_dim: int, inner_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(key_dim, inner_dim)
        self.v_proj = nn.Linear(key_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(
        self,
        q: Float[Tensor, "n l c"],
        k: Float[Tensor, "n k d"],
        v: Float[Tensor, "n k d"],
        q_turns: Float[Tensor, "l a 2"],
        k_turns: Float[Tensor, "m a 2"],
    ) -> Float[Tensor, "n l c"]:
        """Attend from each of l queries to k keys, of which the first m have a position."""
        queries, keys = turn(self.q_proj(q), q_turns), self.k_proj(k)
        placed = len(k_turns)
        if placed < keys.shape[1]:
            keys = torch.cat([turn(keys[:, :placed], k_turns), keys[:, placed:]], dim=1)
        else:
            keys = turn(keys, k_turns)
        out = F.scaled_dot_product_attention(queries[:, None], keys[:, None], self.v_proj(v)[:, None])
        return self.out_proj(out[:, 0])


def position_angles(height: int, width: int, stride: int, dim: int, device: torch.device) -> Float[Tensor, "l a 2"]:
    """Cosine and sine of the angles by which dim / 2 pairs of channels are turned: half of them by x, half by y.

    Args:
        height: of the map, in its cells.
        width: likewise.
        stride: cells of the embedding per cell of the map along a side; positions are those of the centres.
        dim: channels.
        device: of the result.
    """
    frequencies = _BASE ** -(torch.arange(0, dim // 2, 2, device=device, dtype=torch.float32) / (dim // 2))
    y, x = (
        (torch.arange(side, device=device, dtype=torch.float32) * stride + (stride - 1) / 2) for side in (height, width)
    )
    angles = torch.cat(
        [
            (x[None, :, None] * frequencies).expand(height, -1, -1),
            (y[:, None, None] * frequencies).expand(-1, width, -1),
        ],
        dim=-1,
    ).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def turn(tokens: Float[Tensor, "n l d"], turns: Float[Tensor, "l a 2"]) -> Float[Tensor, "n l d"]:
    """Turn each pair of channels (2 i, 2 i + 1) by its angle."""
    even, odd = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turns.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

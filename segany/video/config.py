"""The sizes of the video memory."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from segany.config import SegAnyConfig, require_multiple


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Everything needed to build a `VideoMemory` without its weights, besides the configuration of the image model.

    The names follow SAM 2 (Ravi et al., 2024). Its values, where they differ, stand beside ours, which suit an
    embedding of 128 channels on a CPU.

    Raises:
        ValueError: sizes do not fit together.
    """

    memory_dim: int = 64  # channels of a memory cell
    # Embedding cells per memory cell along a side; 1 in SAM 2. Neighbouring cells remember nearly the same, and a
    # quarter of them is a quarter of the work of attending (Xiong et al., Efficient Track Anything, 2024).
    memory_stride: int = 2
    recent_frames: int = 6  # memories of the latest frames that are attended to, beside those of prompted frames
    prompted_frames: int = (
        4  # memories of prompted frames that are attended to: the first and the nearest; all in SAM 2
    )
    pointers: int = 16  # object pointers that are attended to, the latest
    attention_depth: int = 4  # layers of memory attention
    attention_dim: int = 64  # channels of queries and keys; those of the embedding, 256, in SAM 2
    attention_mlp_dim: int = 512  # 2048 in SAM 2
    fuser_depth: int = 2  # convolutional blocks that fuse a frame's embedding with its mask
    fuser_kernel: int = 7
    mask_channels: int = 16  # hidden channels of the convolutions on the mask
    # The mask enters as scale * probability + bias.
    mask_scale: float = 20.0
    mask_bias: float = -10.0

    def __post_init__(self) -> None:
        require_multiple("attention_dim", self.attention_dim, "4", 4)  # pairs of channels turn with x, and with y
        require_multiple("mask_channels", self.mask_channels, "4", 4)
        for field in fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, got {getattr(self, field.name)}")

    def check_fits(self, image: SegAnyConfig) -> None:
        """Raise ValueError unless object pointers of the image model can be split into memory tokens."""
        require_multiple("prompt_dim", image.prompt_dim, "memory_dim", self.memory_dim)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values that can be written as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MemoryConfig":
        """Inverse of `to_dict`.

        Raises:
            ValueError: keys are unknown.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"MemoryConfig: unknown keys {unknown}")
        return cls(**values)

"""Sizes of a SegAny model: one frozen value, and the presets that have a name."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SegAnyConfig:
    """Everything needed to build a `SegAny` without its weights.

    The defaults are those of the published Segment Anything models, so a preset states only what differs between them.

    Raises ValueError where sizes do not fit together.
    """

    image_size: int = 1024  # side of the square model frame, in pixels
    patch_size: int = 16  # the embedding has image_size / patch_size cells a side
    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    mlp_ratio: float = 4.0
    global_blocks: tuple[int, ...]  # blocks that attend over the whole image; all others stay within windows
    window_size: int = 14  # side of a window, in embedding cells
    prompt_dim: int = 256  # channels of the image embedding and of prompt tokens
    mask_channels: int = 16  # hidden channels of the mask-prompt convolutions
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    attention_downsample: int = 2  # cross-attention works at prompt_dim / attention_downsample channels
    num_multimask_outputs: int = 3  # whole, part and subpart cover most ambiguous points
    iou_hidden_dim: int = 256
    iou_depth: int = 3
    text_dim: int | None = None  # width of CLIP embeddings; None is the published SAM, which has no text prompt
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, on the 0..255 scale
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        self._require_multiple("image_size", self.image_size, "patch_size", self.patch_size)
        self._require_multiple("encoder_dim", self.encoder_dim, "encoder_heads", self.encoder_heads)
        # The mask head works at prompt_dim / 8 channels.
        self._require_multiple("prompt_dim", self.prompt_dim, "8", 8)
        divisor = self.attention_downsample * self.decoder_heads
        self._require_multiple("prompt_dim", self.prompt_dim, "attention_downsample * decoder_heads", divisor)
        outside = [index for index in self.global_blocks if not 0 <= index < self.encoder_depth]
        if outside:
            raise ValueError(f"global_blocks must lie in 0..{self.encoder_depth - 1}, got {outside}")

    @staticmethod
    def _require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
        if value <= 0 or divisor <= 0 or value % divisor:
            raise ValueError(f"{name} must be a positive multiple of {divisor_name} ({divisor}), got {value}")

    @property
    def grid_size(self) -> int:
        """Side of the image embedding, in cells."""
        return self.image_size // self.patch_size

    @property
    def low_res_size(self) -> int:
        """Side of the low-resolution mask logits: four per embedding cell."""
        return 4 * self.grid_size

    @property
    def encoder_mlp_dim(self) -> int:
        return int(self.encoder_dim * self.mlp_ratio)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, so that the result can be written as JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SegAnyConfig":
        """Inverse of `to_dict`. Raises ValueError that names unknown or missing keys."""
        fields = dataclasses.fields(cls)
        unknown = sorted(set(values) - {field.name for field in fields})
        required = {field.name for field in fields if field.default is dataclasses.MISSING}
        missing = sorted(required - set(values))
        if unknown or missing:
            raise ValueError(f"SegAnyConfig: unknown keys {unknown}, missing keys {missing}")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)


PRESETS: dict[str, SegAnyConfig] = {
    # Small enough to train and run on a laptop CPU; embedding 32x32, low-resolution masks 128x128.
    "tiny": SegAnyConfig(
        image_size=256,
        patch_size=8,
        encoder_dim=192,
        encoder_depth=6,
        encoder_heads=3,
        mlp_ratio=3.0,
        global_blocks=(2, 5),
        window_size=8,  # divides the 32-cell grid, so no window is padded
        prompt_dim=128,
        decoder_heads=4,
        decoder_mlp_dim=512,
        iou_hidden_dim=128,
        text_dim=128,
    ),
    "vit_b": SegAnyConfig(encoder_dim=768, encoder_depth=12, encoder_heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": SegAnyConfig(encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SegAnyConfig(encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_blocks=(7, 15, 23, 31)),
}

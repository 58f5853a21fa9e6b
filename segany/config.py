"""The configuration of a SegAny model and the named presets."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TinyViTConfig:
    """Sizes of a TinyViT image encoder (Wu et al., 2022), a pyramid of stages; the defaults are those of MobileSAM.

    The first stage has no attention, so `heads` and `window_sizes` have one entry for each stage after it.

    Raises:
        ValueError: sizes do not fit together.
    """

    dims: tuple[int, ...] = (64, 128, 160, 320)  # channels of each stage
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage
    heads: tuple[int, ...] = (4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 14, 7)  # side of the windows, in cells of the stage
    mlp_ratio: float = 4.0
    conv_ratio: float = 4.0  # hidden channels per channel in the blocks of the first stage

    def __post_init__(self) -> None:
        stages = len(self.dims)
        if stages < 2 or len(self.depths) != stages or {len(self.heads), len(self.window_sizes)} != {stages - 1}:
            raise ValueError(
                f"dims and depths must have one entry for each of two stages or more, heads and window_sizes one less, "
                f"got {stages}, {len(self.depths)}, {len(self.heads)} and {len(self.window_sizes)} entries"
            )
        for name in ("dims", "depths", "window_sizes"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        require_multiple("dims[0]", self.dims[0], "2", 2)  # the first convolution makes half of them
        for dim, heads in zip(self.dims[1:], self.heads, strict=True):
            require_multiple("dims", dim, "heads", heads)

    @property
    def patch_size(self) -> int:
        """Side of an embedding cell in pixels: 4 in the first stage, doubled by every later stage but the last."""
        return 4 * 2 ** (len(self.dims) - 2)


@dataclass(frozen=True, kw_only=True)
class EfficientNetLiteConfig:
    """Sizes of an EfficientNet-Lite image encoder (Tan and Le, 2019) and of the attention on top of it.

    The defaults are EfficientNet-Lite2. `dims`, `depths`, `kernel_sizes` and `strides` have one entry for each stage.
    Only the first stage does not expand its channels.

    Raises:
        ValueError: sizes do not fit together, or the strides do not give maps at strides of 4, 8, 16 and 32.
    """

    stem_dim: int = 32
    dims: tuple[int, ...] = (16, 24, 48, 88, 120, 208, 352)  # channels of each stage
    depths: tuple[int, ...] = (1, 3, 3, 4, 4, 5, 1)  # blocks of each stage
    kernel_sizes: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage; the stem has 2
    expansion: int = 6  # hidden channels per channel of a block
    attention_dim: int = 192  # of the transformer blocks at a stride of 16
    attention_depth: int = 3
    attention_heads: int = 6
    attention_mlp_ratio: int = 3

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("dims", "depths", "kernel_sizes", "strides")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all stages must have one entry in each list, got {lengths}")
        if self.strides[:1] != (1,) or self.strides.count(2) != 4 or set(self.strides) - {1, 2}:
            raise ValueError(f"strides must begin with 1 and hold four times 2, else 1, got {self.strides}")
        require_multiple("attention_dim", self.attention_dim, "attention_heads", self.attention_heads)

    @property
    def patch_size(self) -> int:
        """Side of an embedding cell in pixels."""
        return 8


@dataclass(frozen=True, kw_only=True)
class SegAnyConfig:
    """Everything needed to build a `SegAny` without its weights.

    The defaults are shared by the published Segment Anything models, so a preset sets only the fields that differ.

    Raises:
        ValueError: sizes do not fit together.
    """

    image_size: int = 1024  # side of the square model frame, in pixels
    patch_size: int = 16  # the embedding has image_size / patch_size cells per side
    tiny_vit: TinyViTConfig | None = None  # the image encoder, instead of a plain ViT with the sizes below
    efficientnet_lite: EfficientNetLiteConfig | None = None  # likewise
    encoder_dim: int = 0  # required for a plain ViT, like the next two
    encoder_depth: int = 0
    encoder_heads: int = 0
    global_blocks: tuple[int, ...] = ()  # blocks with global attention; all others attend within windows
    mlp_ratio: float = 4.0
    window_size: int = 14  # side of a window, in embedding cells
    prompt_dim: int = 256  # channels of the image embedding and of prompt tokens
    mask_channels: int = 16  # hidden channels of the mask-prompt convolutions
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    attention_downsample: int = 2  # cross-attention has prompt_dim / attention_downsample channels
    num_multimask_outputs: int = 3  # whole, part and subpart, enough for most ambiguous points
    iou_hidden_dim: int = 256
    iou_depth: int = 3
    hq: bool = False  # SAM-HQ: one more output token, which sees features of an early layer of the image encoder
    hq_token_only: bool = False  # give SAM-HQ's mask by itself, instead of its sum with that of Segment Anything
    text_dim: int | None = None  # width of CLIP embeddings; None is the published SAM, which has no text prompt
    dense_prompts: bool = False  # boxes and clicks are given to the image's cells as maps too, beside their tokens
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, in 0..255
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        require_multiple("image_size", self.image_size, "patch_size", self.patch_size)
        others = {name: getattr(self, name) for name in _OTHER_ENCODERS if getattr(self, name) is not None}
        if len(others) > 1:
            raise ValueError(f"there must be one image encoder, got {' and '.join(others)}")
        for name, encoder in others.items():
            self._check_other_encoder(name, encoder)
        if not others:
            self._check_plain_vit()
        if self.efficientnet_lite is not None:
            require_multiple("image_size", self.image_size, "32", 32)
        if self.hq or self.hq_token_only:
            self._check_hq()
        # The mask head has prompt_dim / 8 channels.
        require_multiple("prompt_dim", self.prompt_dim, "8", 8)
        divisor = self.attention_downsample * self.decoder_heads
        require_multiple("prompt_dim", self.prompt_dim, "attention_downsample * decoder_heads", divisor)

    def _check_hq(self) -> None:
        if not self.hq:
            raise ValueError("hq_token_only is an option of SAM-HQ, but hq is off")
        if self.tiny_vit is None and not self.global_blocks:
            raise ValueError("hq takes features of the first block with global attention, but global_blocks is empty")
        # Of a deeper TinyViT the second stage would not have the resolution of the image embedding.
        if self.efficientnet_lite is not None or (self.tiny_vit is not None and len(self.tiny_vit.dims) > 4):
            raise ValueError("hq needs a plain ViT, or a TinyViT of at most four stages")

    def _check_plain_vit(self) -> None:
        require_multiple("encoder_dim", self.encoder_dim, "encoder_heads", self.encoder_heads)
        outside = [index for index in self.global_blocks if not 0 <= index < self.encoder_depth]
        if outside:
            raise ValueError(f"global_blocks must lie in 0..{self.encoder_depth - 1}, got {outside}")

    def _check_other_encoder(self, name: str, encoder: TinyViTConfig | EfficientNetLiteConfig) -> None:
        given = [field for field in _PLAIN_VIT if getattr(self, field)]
        if given:
            raise ValueError(f"{', '.join(given)} describe a plain ViT, which {name} takes the place of")
        if self.patch_size != encoder.patch_size:
            raise ValueError(f"patch_size must be that of {name}, {encoder.patch_size}, got {self.patch_size}")

    @property
    def grid_size(self) -> int:
        """Side of the image embedding, in cells."""
        return self.image_size // self.patch_size

    @property
    def low_res_size(self) -> int:
        """Side of the low-resolution mask logits: 4 x 4 per embedding cell."""
        return 4 * self.grid_size

    @property
    def encoder_mlp_dim(self) -> int:
        return int(self.encoder_dim * self.mlp_ratio)

    @property
    def early_dim(self) -> int:
        """Channels of the early features that SAM-HQ takes from the image encoder."""
        return self.encoder_dim if self.tiny_vit is None else self.tiny_vit.dims[:3][-1]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values that can be written as JSON."""
        values = dataclasses.asdict(self, dict_factory=_plain)
        # What a plain Segment Anything does not have is left out, as it always has been: fingerprints stay the same.
        return {key: value for key, value in values.items() if key not in _LEFT_OUT or value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SegAnyConfig":
        """Inverse of `to_dict`.

        Raises:
            ValueError: keys are unknown or missing.
        """
        others: dict[str, Any] = {
            name: _from_dict(encoder, values[name])
            for name, encoder in _OTHER_ENCODERS.items()
            if values.get(name) is not None
        }
        return _from_dict(cls, {**values, **others}, required=() if others else _PLAIN_VIT)


# Encoders other than a plain ViT, by the field that describes them.
_OTHER_ENCODERS: dict[str, type] = {"tiny_vit": TinyViTConfig, "efficientnet_lite": EfficientNetLiteConfig}
# Fields that are written only where they are set.
_LEFT_OUT = (*_OTHER_ENCODERS, "hq", "hq_token_only", "dense_prompts")
# Fields that a plain ViT requires and another encoder must not set.
_PLAIN_VIT = ("encoder_dim", "encoder_depth", "encoder_heads", "global_blocks")


def require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise ValueError unless `value` is a positive multiple of `divisor`."""
    if value <= 0 or divisor <= 0 or value % divisor:
        raise ValueError(f"{name} must be a positive multiple of {divisor_name} ({divisor}), got {value}")


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in items}


def _from_dict(cls: type[_T], values: dict[str, Any], required: Collection[str] = ()) -> _T:
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown, missing = sorted(set(values) - names), sorted(set(required) - set(values))
    if unknown or missing:
        raise ValueError(f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


PRESETS: dict[str, SegAnyConfig] = {
    # Small enough to train and run on a laptop CPU; embedding 48x48, low-resolution masks 192x192.
    "tiny": SegAnyConfig(
        image_size=384,
        patch_size=8,
        encoder_dim=192,
        encoder_depth=6,
        encoder_heads=3,
        mlp_ratio=3.0,
        global_blocks=(2, 5),
        window_size=8,  # divides the 48-cell grid, so that no window is padded
        prompt_dim=128,
        decoder_heads=4,
        decoder_mlp_dim=512,
        iou_hidden_dim=128,
        text_dim=128,
    ),
    # MobileSAM (Zhang et al., 2023).
    "vit_t": SegAnyConfig(tiny_vit=TinyViTConfig()),
    "vit_b": SegAnyConfig(encoder_dim=768, encoder_depth=12, encoder_heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": SegAnyConfig(encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SegAnyConfig(encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_blocks=(7, 15, 23, 31)),
}

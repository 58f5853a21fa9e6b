"""MobileSAM put together from public implementations, with random weights, and its state dict in MobileSAM's names."""

import re
from dataclasses import replace

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

from segany import SegAnyConfig
from segany.config import TinyViTConfig
from tests.segany.reference import SMALL, meta_sam, perturb

# Grids of 64, 32, 16 and 16 cells: no window fits the grid of its stage.
SMALL_MOBILE = replace(
    SMALL,
    encoder_dim=0,
    encoder_depth=0,
    encoder_heads=0,
    global_blocks=(),
    mlp_ratio=4.0,
    window_size=14,
    tiny_vit=TinyViTConfig(
        dims=(16, 32, 40, 64), depths=(2, 1, 2, 1), heads=(2, 5, 4), window_sizes=(7, 14, 7), conv_ratio=3.0
    ),
)

_MOBILE_SAM_NAMES = (
    (r"^patch_embed\.conv1\.", "patch_embed.seq.0."),
    (r"^patch_embed\.conv2\.", "patch_embed.seq.2."),
    (r"^head\.norm\.", "norm_head."),
    (r"^head\.fc\.", "head."),
    (r"^stages\.", "layers."),
    (r"\.conv\.weight$", ".c.weight"),
)


class TimmEncoder(nn.Module):
    """The TinyViT of the `timm` package up to its classifier, then the neck of the `segment-anything` package.

    MobileSAM halves the resolution once less than TinyViT: the convolution that leads into the last stage has stride 1.
    """

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        assert config.tiny_vit is not None
        sizes, dim = config.tiny_vit, config.prompt_dim
        self.img_size = config.image_size  # where the segment-anything package looks for it
        self.trunk = TinyVit(
            num_classes=10,
            embed_dims=sizes.dims,
            depths=sizes.depths,
            num_heads=(1, *sizes.heads),  # the first stage has no attention
            window_sizes=(1, *sizes.window_sizes),
            mlp_ratio=sizes.mlp_ratio,
            mbconv_expand_ratio=sizes.conv_ratio,
            drop_path_rate=0.0,
        )
        self.trunk.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(sizes.dims[-1], dim, kernel_size=1, bias=False),
            LayerNorm2d(dim),
            nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(dim),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.neck(self.trunk.stages(self.trunk.patch_embed(pixels)))


def timm_encoder(config: SegAnyConfig, seed: int = 0) -> TimmEncoder:
    """The reference in evaluation mode, with random weights and random statistics of its batch normalisations."""
    torch.manual_seed(seed)
    encoder = TimmEncoder(config)
    perturb(encoder, seed=seed)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked.fill_(100_000)
    return encoder


def mobile_sam_names(encoder: TimmEncoder, classifier: bool = True) -> dict[str, Tensor]:
    """The reference's state dict as MobileSAM's image encoder would store it, with or without the unused classifier."""
    state = {_rename(key): value for key, value in encoder.trunk.state_dict().items()}
    state |= {f"neck.{key}": value for key, value in encoder.neck.state_dict().items()}
    return {key: value for key, value in state.items() if classifier or not _is_classifier(key)}


def mobile_sam(config: SegAnyConfig) -> Sam:
    """The model of the `segment-anything` package with the reference as its image encoder, and random weights."""
    sam = perturb(meta_sam(replace(SMALL, image_size=config.image_size)))
    sam.image_encoder = timm_encoder(config)
    return sam


def mobile_sam_file(sam: Sam) -> dict[str, Tensor]:
    """The state dict of `mobile_sam` as a `mobile_sam.pt` would hold it."""
    others = {key: value for key, value in sam.state_dict().items() if not key.startswith("image_encoder.")}
    return {f"image_encoder.{key}": value for key, value in mobile_sam_names(sam.image_encoder).items()} | others


def _is_classifier(key: str) -> bool:
    return key.split(".")[0] in ("norm_head", "head")


def _rename(key: str) -> str:
    # There a stage begins with its change of resolution, here the stage before ends with it.
    key = re.sub(r"^stages\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.", key)
    for pattern, replacement in _MOBILE_SAM_NAMES:
        key = re.sub(pattern, replacement, key)
    return key

"""Meta's own SAM 2 files (`sam2_hiera_tiny.pt`, `sam2.1_hiera_large.pt`, ...): their names and sizes for transformers.

The two implementations compute the same and name their tensors differently; the sizes that no tensor tells, such as
which blocks attend to the whole image, are those of the four published models.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grounded.errors import CheckpointError

_POSITION_CODE = "prompt_encoder.shared_embedding.positional_embedding"
_POINTS = "sam_prompt_encoder.point_embeddings."
# Of Hiera (Ryali et al., 2023) in SAM 2's configurations, by channels and number of blocks.
_BACKBONES: dict[tuple[int, int], dict[str, Any]] = {
    (96, 12): {"blocks_per_stage": [1, 2, 7, 2], "global_attention_blocks": [5, 7, 9]},
    (96, 16): {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    (112, 24): {"blocks_per_stage": [2, 3, 16, 3], "global_attention_blocks": [12, 16, 20]},
    (144, 48): {
        "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
    },
}
_HEADS = {96: 1, 112: 2, 144: 2}  # of the first stage, by its channels
# Layers of perceptrons with three of them, which transformers calls first, inner and last.
_PERCEPTRON = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
_PERCEPTRONS = r"(iou_prediction_head|pred_obj_score_head|output_hypernetworks_mlps\.\d+|object_pointer_proj)"

# Applied in this order, each to what the ones before have made of a name.
_RENAMINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
        (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
        (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", _POSITION_CODE),
        (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
        (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
        (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
        (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
        (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
        (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
        (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
        (r"\.dwconv\.", ".depthwise_conv."),
        (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
        (r"\.gamma$", ".scale"),
        (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
        (r"^no_mem_embed$", "no_memory_embedding"),
        (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
        (r"^no_obj_ptr$", "no_object_pointer"),
        (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
        (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
        (r"^obj_ptr_proj\.", "object_pointer_proj."),
        (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
        (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
        (r"\.out_proj\.", ".o_proj."),
        (r"\.norm(?=[\d._])", ".layer_norm"),
    )
)


def is_original(names: Mapping[str, Any]) -> bool:
    """Whether tensors have Meta's names of SAM 2."""
    return any(name.startswith("image_encoder.trunk.") for name in names)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a model by Meta under the names that transformers has for them."""
    renamed = {_rename(name): value for name, value in state.items() if not name.startswith(_POINTS)}
    points = [state[f"{_POINTS}{label}.weight"] for label in range(4) if f"{_POINTS}{label}.weight" in state]
    if points:  # background, foreground and the two corners of a box
        renamed["prompt_encoder.point_embed.weight"] = torch.cat(points)
    if _POSITION_CODE in renamed:
        renamed["shared_image_embedding.positional_embedding"] = renamed[_POSITION_CODE]
    return renamed


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMINGS:
        name = pattern.sub(replacement, name)
    name = re.sub(rf"{_PERCEPTRONS}\.layers\.([012])\.", lambda m: f"{m[1]}.{_PERCEPTRON[m[2]]}.", name)
    return re.sub(r"(?<=^memory_encoder\.mask_downsampler\.)encoder\.(\d+)\.", _rename_downsampler, name)


def _rename_downsampler(match: re.Match[str]) -> str:
    # A convolution, a norm and an activation in each of four layers, then the last convolution.
    layer, part = divmod(int(match[1]), 3)
    return "final_conv." if layer == 4 else f"layers.{layer}.{('conv', 'layer_norm')[part]}."


def read_settings(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the settings of a `Sam2VideoConfig` for tensors under Meta's names.

    Args:
        state: of the whole model.
        source: the file, for messages.

    Raises:
        CheckpointError: the image encoder is none of the published ones.
    """
    patches = state.get("image_encoder.trunk.patch_embed.proj.weight")
    background = state.get("image_encoder.trunk.pos_embed")
    blocks = {match[1] for name in state if (match := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name))}
    size = (0 if patches is None else len(patches), len(blocks))
    if size not in _BACKBONES or background is None:
        published = ", ".join(f"{channels} with {count}" for channels, count in _BACKBONES)
        raise CheckpointError(
            f"{source} holds a SAM 2 whose image encoder has {size[0]} channels with {size[1]} blocks; published are "
            f"{published}"
        )
    channels, heads = [size[0] << stage for stage in range(4)], [_HEADS[size[0]] << stage for stage in range(4)]
    backbone = {
        "hidden_size": size[0],
        "embed_dim_per_stage": channels,
        "num_attention_heads": heads[0],
        "num_attention_heads_per_stage": heads,
        "window_positional_embedding_background_size": list(background.shape[-2:]),
        **_BACKBONES[size],
    }
    return {
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": {"model_type": "sam2_hiera_det_model", **backbone},
            "backbone_channel_list": channels[::-1],
        },
        # SAM 2.1 has these two, SAM 2 has not.
        "enable_occlusion_spatial_embedding": "no_obj_embed_spatial" in state,
        "enable_temporal_pos_encoding_for_object_pointers": "obj_ptr_tpos_proj.weight" in state,
    }

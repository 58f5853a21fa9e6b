"""Convert state dicts of Segment Anything to Meta's and MobileSAM's names, and infer the configuration from shapes."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segany.config import SegAnyConfig, TinyViTConfig

POSITION_CODE = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
TEXT_PREFIX = "prompt_encoder.text_"

# Applied in this order, each to the result of the previous ones.
_HUGGING_FACE_RENAMES = (
    (r"^shared_image_embedding\.positional_embedding$", POSITION_CODE),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", POSITION_CODE),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"\.neck\.conv1\.", ".neck.0."),
    (r"\.neck\.layer_norm1\.", ".neck.1."),
    (r"\.neck\.conv2\.", ".neck.2."),
    (r"\.neck\.layer_norm2\.", ".neck.3."),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    # SAM-HQ
    (r"\.hq_token\.", ".hf_token."),
    (r"\.compress_vit_conv1\.", ".compress_vit_feat.0."),
    (r"\.compress_vit_norm\.", ".compress_vit_feat.1."),
    (r"\.compress_vit_conv2\.", ".compress_vit_feat.3."),
    (r"\.encoder_conv1\.", ".embedding_encoder.0."),
    (r"\.encoder_norm\.", ".embedding_encoder.1."),
    (r"\.encoder_conv2\.", ".embedding_encoder.3."),
    (r"\.mask_conv1\.", ".embedding_maskfeature.0."),
    (r"\.mask_norm\.", ".embedding_maskfeature.1."),
    (r"\.mask_conv2\.", ".embedding_maskfeature.3."),
)
_HUGGING_FACE_HEAD = re.compile(
    r"(?P<head>mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hq_mask_mlp))"
    r"\.(?:(?P<first>proj_in)|(?P<last>proj_out)|layers\.(?P<middle>\d+))\.(?P<kind>weight|bias)"
)


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict, of a whole model or of its mask decoder alone, has the names of Hugging Face."""
    return any(key.startswith("vision_encoder.") or key == "mask_decoder.upscale_conv1.weight" for key in state)


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a `facebook/sam-vit-*` or `syscv-community/sam-hq-vit-*` state dict to Meta's names.

    The position code is stored there twice, or once if the tied copy was omitted; both copies get the same name here.
    """
    return {meta_name(key, 1 + _count(state, f"{_head_of(key)}.layers")): value for key, value in state.items()}


def meta_name(key: str, last: int) -> str:
    """Meta's name for a tensor of Hugging Face; `last` is the index of the last layer, if it lies in a head's MLP."""
    match = _HUGGING_FACE_HEAD.fullmatch(key)
    if match is None:
        for pattern, replacement in _HUGGING_FACE_RENAMES:
            key = re.sub(pattern, replacement, key)
        return key
    index = 0 if match["first"] else last if match["last"] else 1 + int(match["middle"])
    return f"{match['head'].replace('hq_mask_mlp', 'hf_mlp')}.layers.{index}.{match['kind']}"


def meta_name_beside(key: str, state: Mapping[str, Tensor]) -> str:
    """Meta's name for a tensor of Hugging Face that belongs to a model with the `state`, which has Meta's names."""
    head = meta_name(f"{_head_of(key)}.proj_in.weight", 0).removesuffix(".layers.0.weight")
    return meta_name(key, _count(state, f"{head}.layers") - 1)


def _head_of(key: str) -> str:
    match = _HUGGING_FACE_HEAD.fullmatch(key)
    return match["head"] if match else key


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of numbered modules under `prefix`."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for key in state if (match := pattern.match(key))})


def is_mobile_sam(state: Mapping[str, Tensor]) -> bool:
    return "image_encoder.patch_embed.seq.0.c.weight" in state


def from_mobile_sam(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the tensors of a `mobile_sam.pt` that its encoder does not use.

    These are the classifier of the TinyViT and, in some copies of the file, the indices of the attention biases.
    """
    unused = re.compile(r"image_encoder\.(?:(?:norm_)?head\..*|.*\.attention_bias_idxs)")
    return {key: value for key, value in state.items() if not unused.fullmatch(key)}


def config_from_shapes(state: Mapping[str, Tensor], decoder_heads: int = 8) -> SegAnyConfig:
    """Infer the configuration of a state dict with Meta's or MobileSAM's names.

    Shapes define everything except `decoder_heads`, which is 8 in every published model, and the image size of a
    MobileSAM, which is 1024 in the published one.

    Raises:
        KeyError: a tensor is missing; names the first.
        ValueError: shapes do not fit together.
    """
    encoder_sizes = _tiny_vit_sizes(state) if is_mobile_sam(state) else _plain_vit_sizes(state)
    text = state.get(f"{TEXT_PREFIX}projection.weight")
    return SegAnyConfig(
        **encoder_sizes,
        prompt_dim=state["image_encoder.neck.0.weight"].shape[0],
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        decoder_heads=decoder_heads,
        **decoder_sizes(state),
        text_dim=None if text is None else text.shape[1],
    )


def decoder_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `SegAnyConfig` for the mask decoder in a state dict with Meta's names.

    Raises:
        KeyError: a tensor is missing; names the first.
    """
    decoder = "mask_decoder"
    layer = f"{decoder}.transformer.layers.0"
    outputs, prompt_dim = state[f"{decoder}.mask_tokens.weight"].shape
    return {
        "decoder_depth": _count(state, f"{decoder}.transformer.layers"),
        "decoder_mlp_dim": state[f"{layer}.mlp.lin1.weight"].shape[0],
        "attention_downsample": prompt_dim // state[f"{layer}.cross_attn_token_to_image.q_proj.weight"].shape[0],
        "num_multimask_outputs": outputs - 1,
        "iou_hidden_dim": state[f"{decoder}.iou_prediction_head.layers.0.weight"].shape[0],
        "iou_depth": _count(state, f"{decoder}.iou_prediction_head.layers"),
        "hq": f"{decoder}.hf_token.weight" in state,
    }


def _plain_vit_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `SegAnyConfig` for the image encoder of a Segment Anything."""
    encoder = "image_encoder"
    _, grid_size, _, encoder_dim = state[f"{encoder}.pos_embed"].shape
    patch_size = state[f"{encoder}.patch_embed.proj.weight"].shape[-1]
    depth = _count(state, f"{encoder}.blocks")
    # Attention over s x s cells has 2 s - 1 relative positions per axis.
    spans = [(len(state[f"{encoder}.blocks.{index}.attn.rel_pos_h"]) + 1) // 2 for index in range(depth)]
    windows = {span for span in spans if span != grid_size}
    if len(windows) > 1:
        sides = sorted(windows)
        raise ValueError(
            f"all windows must be of one size, got {sides}, or the image size is at odds: {grid_size * patch_size} px "
            f"by the position embedding and {sides[-1] * patch_size} px by the attention of the global blocks"
        )
    head_dim = state[f"{encoder}.blocks.0.attn.rel_pos_h"].shape[1]
    return {
        "image_size": grid_size * patch_size,
        "patch_size": patch_size,
        "encoder_dim": encoder_dim,
        "encoder_depth": depth,
        "encoder_heads": encoder_dim // head_dim,
        "mlp_ratio": state[f"{encoder}.blocks.0.mlp.lin1.weight"].shape[0] / encoder_dim,
        "global_blocks": tuple(index for index, span in enumerate(spans) if span == grid_size),
        "window_size": windows.pop() if windows else grid_size,
    }


def _tiny_vit_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `SegAnyConfig` for the image encoder of a MobileSAM."""
    layers = "image_encoder.layers"
    stages = range(_count(state, layers))
    widths = ["image_encoder.patch_embed.seq.2", *(f"{layers}.{index}.downsample.conv3" for index in stages[:-1])]
    dims = tuple(state[f"{name}.c.weight"].shape[0] for name in widths)
    biases = [state[f"{layers}.{index}.blocks.0.attn.attention_biases"].shape for index in stages[1:]]
    tiny_vit = TinyViTConfig(
        dims=dims,
        depths=tuple(_count(state, f"{layers}.{index}.blocks") for index in stages),
        heads=tuple(heads for heads, _ in biases),
        window_sizes=tuple(math.isqrt(distances) for _, distances in biases),
        mlp_ratio=state[f"{layers}.1.blocks.0.mlp.fc1.weight"].shape[0] / dims[1],
        conv_ratio=state[f"{layers}.0.blocks.0.conv1.c.weight"].shape[0] / dims[0],
    )
    return {"tiny_vit": tiny_vit, "patch_size": tiny_vit.patch_size}

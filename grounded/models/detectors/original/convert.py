"""Convert original Grounding DINO checkpoints to folders in the layout of the Hugging Face hub.

Parameters keep their values; they are renamed, and the joint projections of queries, keys and values are cut in three.
"""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig
from transformers.models.grounding_dino import GroundingDinoImageProcessor

from grounded.errors import CheckpointError, ConfigError
from grounded.models.detectors.checkpoint import check_filled, quiet
from grounded.models.detectors.original.checkpoint import HIDDEN_DIM, MAX_TEXT_LEN, Architecture, OriginalCheckpoint
from grounded.utils.files import atomic_folder, check_folder, output_errors, set_usual_mode


class _Part(NamedTuple):
    """Parameters whose names match `original` go to `converted`; within the rest of the name `inner` is replaced."""

    original: str
    converted: str
    inner: tuple[tuple[str, str], ...] = ()


_BACKBONE = "model.backbone.conv_encoder.model."
# The names of the Swin that `transformers` 4 had: every version reads them.
_SWIN = (
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.relative_position_bias_table", "attention.self.relative_position_bias_table"),
    ("attn.qkv.", "attention.self.qkv."),
    ("attn.proj.", "attention.output.dense."),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
)
_DEFORMABLE = (("norm1.", "self_attn_layer_norm."), ("norm2.", "final_layer_norm."), ("linear", "fc"))
_ENHANCER = (("norm1.", "layer_norm_before."), ("norm2.", "layer_norm_after."), ("linear", "fc"))
_FUSION = (
    ("gamma_v", "vision_param"),
    ("gamma_l", "text_param"),
    ("layer_norm_v.", "layer_norm_vision."),
    ("layer_norm_l.", "layer_norm_text."),
    ("v_proj.", "vision_proj."),
    ("l_proj.", "text_proj."),
)
_DECODER = (
    ("cross_attn.", "encoder_attn."),
    ("ca_text.", "encoder_attn_text."),
    ("catext_norm.", "encoder_attn_text_layer_norm."),
    ("norm1.", "encoder_attn_layer_norm."),
    ("norm2.", "self_attn_layer_norm."),
    ("norm3.", "final_layer_norm."),
    ("linear", "fc"),
)
_PARTS = (
    _Part(r"backbone\.0\.patch_embed\.proj\.", f"{_BACKBONE}embeddings.patch_embeddings.projection."),
    _Part(r"backbone\.0\.patch_embed\.norm\.", f"{_BACKBONE}embeddings.norm."),
    _Part(r"backbone\.0\.layers\.", f"{_BACKBONE}encoder.layers.", _SWIN),
    *(_Part(rf"backbone\.0\.norm{i}\.", f"{_BACKBONE}hidden_states_norms.stage{i + 1}.") for i in range(4)),
    _Part(r"bert\.", "model.text_backbone."),
    _Part(r"feat_map\.", "model.text_projection."),
    _Part(r"input_proj\.", "model.input_proj_vision."),
    _Part(r"transformer\.level_embed$", "model.level_embed"),
    _Part(r"transformer\.tgt_embed\.", "model.query_position_embeddings."),
    _Part(r"transformer\.enc_output", "model.enc_output"),  # and enc_output_norm
    _Part(r"transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    _Part(r"transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer.", _DEFORMABLE),
    _Part(r"transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer.", _ENHANCER),
    _Part(r"transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer.", _FUSION),
    _Part(r"transformer\.decoder\.layers\.", "model.decoder.layers.", _DECODER),
    _Part(r"transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    _Part(r"transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    _Part(r"transformer\.decoder\.bbox_embed\.", "model.decoder.bbox_embed."),
    _Part(r"bbox_embed\.", "bbox_embed."),
)
# Computed by each package itself, or not part of the converted network.
_LEFT_OUT = re.compile(r".*relative_position_index|bert\.pooler\..*")
_JOINT = re.compile(r"(.*?)(?:qkv\.|in_proj_)(weight|bias)")


def convert(
    checkpoint: str | PathLike[str],
    out_folder: str | PathLike[str],
    tokenizer: str | PathLike[str] | None = None,
) -> Path:
    """Write an original .pth checkpoint as a folder that `GroundingDino.from_pretrained` loads.

    The folder is either complete or absent. The original package is not needed.

    Args:
        checkpoint: the .pth file, or a folder with one.
        out_folder: a folder that is new or empty.
        tokenizer: a folder with the files of a BERT tokenizer; None looks beside the checkpoint.

    Returns:
        the folder, with config.json, model.safetensors, preprocessor_config.json and tokenizer.json.

    Raises:
        ConfigError: the folder has contents, or the JSON file beside the checkpoint is wrong.
        CheckpointError: the file is missing, damaged or of another network, or there is no tokenizer.
        OutputError: the folder cannot be written.
    """
    out = Path(out_folder).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"the output must be a new or an empty folder, got {out}")
    check_folder(out.parent)  # before the large file is read
    original = OriginalCheckpoint.open(checkpoint, tokenizer)
    try:
        converted = convert_weights(original.weights)
    except KeyError as error:
        raise CheckpointError(
            f"{original.path} holds a parameter that no Grounding DINO has: {error.args[0]}"
        ) from error
    with quiet():
        model, report = GroundingDinoForObjectDetection.from_pretrained(
            None,
            config=to_config(original.architecture),
            state_dict=converted,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
        )
        check_filled(str(original.path), report["missing_keys"], {entry[0] for entry in report["mismatched_keys"]})
        with atomic_folder(out) as folder, output_errors(out):
            for part in (model, GroundingDinoImageProcessor(), original.tokenizer):
                part.save_pretrained(folder)
            for file in folder.iterdir():
                set_usual_mode(file)  # safetensors makes files private to the user
    return out


def convert_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename parameters from the original package to `transformers`.

    Raises:
        KeyError: a name is not one of a Grounding DINO.
    """
    converted = {}
    for key, value in weights.items():
        if _LEFT_OUT.fullmatch(key):
            continue
        name = _convert_name(key)
        joint = _JOINT.fullmatch(name)
        if joint is None:
            converted[name] = value
            continue
        for projection, share in zip(("query", "key", "value"), value.chunk(3), strict=True):
            converted[f"{joint[1]}{projection}.{joint[2]}"] = share.clone()
    return converted


def to_config(architecture: Architecture) -> GroundingDinoConfig:
    """Return the sizes of an original network as a configuration of `transformers`."""
    a = architecture
    return GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=a.embed_dim,
            depths=list(a.depths),
            num_heads=list(a.num_heads),
            window_size=a.window_size,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=a.text_vocab_size,
            hidden_size=a.text_hidden_size,
            num_hidden_layers=a.text_layers,
            num_attention_heads=a.text_heads,
            intermediate_size=a.text_feedforward,
            max_position_embeddings=a.text_positions,
        ),
        max_text_len=MAX_TEXT_LEN,
        num_queries=a.num_queries,
        num_feature_levels=a.num_feature_levels,
        d_model=HIDDEN_DIM,
        encoder_layers=a.enc_layers,
        encoder_ffn_dim=a.dim_feedforward,
        encoder_attention_heads=a.nheads,
        encoder_n_points=a.enc_n_points,
        decoder_layers=a.dec_layers,
        decoder_ffn_dim=a.dim_feedforward,
        decoder_attention_heads=a.nheads,
        decoder_n_points=a.dec_n_points,
    )


def _convert_name(key: str) -> str:
    for part in _PARTS:
        match = re.match(part.original, key)
        if match is not None:
            rest = key[match.end() :]
            for original, converted in part.inner:
                rest = rest.replace(original, converted)
            return match.expand(part.converted) + rest
    raise KeyError(key)

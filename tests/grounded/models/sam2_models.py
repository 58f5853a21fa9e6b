"""Small models of SAM 2's family with random weights, in the layout of the Hugging Face hub and in Meta's."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 64  # of the images of a model in pixels; 112 for SAM 3, whose patches are 14 pixels wide
# Few frames, so that a short clip is longer than the memory.
MEMORY = {"num_maskmem": 4, "max_object_pointers_in_encoder": 6}


def config(kind: str) -> Any:
    """The configuration of a small model for videos."""
    import transformers

    if kind == "sam2":
        return transformers.Sam2VideoConfig(vision_config=_hiera(), image_size=SIDE, **_memory(SIDE, 16))
    if kind == "edgetam":
        perceiver = {"num_latents": 4, "num_latents_2d": 4, "hidden_size": 64, "mlp_intermediate_size": 16}
        return transformers.EdgeTamVideoConfig(
            vision_config=_repvit(),
            image_size=SIDE,
            memory_attention_rope_k_sizes=[2, 2],
            memory_attention_mlp_hidden_size=32,
            perceiver_resampler_attention_head_dim=64,
            perceiver_resampler_num_layers=1,
            **{f"perceiver_resampler_{name}": value for name, value in perceiver.items()},
            **_memory(SIDE, 16),
        )
    return transformers.Sam3TrackerVideoConfig(vision_config=_vit(112), image_size=112, **_memory(112, 14))


def build(kind: str, seed: int = 0) -> Any:
    """A small model for videos. No parameter is zero, and objects are in sight more often than not."""
    import transformers

    names = {"sam2": "Sam2VideoModel", "edgetam": "EdgeTamVideoModel", "sam3": "Sam3TrackerVideoModel"}
    torch.manual_seed(seed)
    model = getattr(transformers, names[kind])(config(kind)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("vision_encoder"):
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(1.0)
        # Meta's models have one position code for both.
        model.shared_image_embedding.positional_embedding.copy_(
            model.prompt_encoder.shared_embedding.positional_embedding
        )
    return model


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a small model as `save_pretrained` does. Returns the folder."""
    build(kind, seed).save_pretrained(folder)
    return folder


def save_published_size(folder: Path) -> tuple[Path, Path]:
    """Write a SAM 2.1 of the published size tiny, random weights, as a folder of transformers and as a file of Meta."""
    import transformers

    torch.manual_seed(0)
    model = transformers.Sam2VideoModel(transformers.Sam2VideoConfig()).eval()
    model.shared_image_embedding.positional_embedding.copy_(model.prompt_encoder.shared_embedding.positional_embedding)
    model.save_pretrained(folder / "folder")
    torch.save({"model": to_meta_names(model.state_dict())}, folder / "sam2.1_hiera_tiny.pt")
    return folder / "folder", folder / "sam2.1_hiera_tiny.pt"


def save_sam3_video(folder: Path) -> Any:
    """Write a SAM 3 for videos as it is published: the detector with its text encoder, and the tracker. Returns it."""
    import transformers

    tracker, layers = config("sam3").to_dict(), {"num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "projection_dim": 16}
    detector = {
        "vision_config": tracker["vision_config"],
        "text_config": {**text, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8},
        "geometry_encoder_config": {"hidden_size": 128, **layers},
        "detr_encoder_config": {"hidden_size": 128, **layers},
        "detr_decoder_config": {"hidden_size": 128, "num_queries": 5, **layers},
        "mask_decoder_config": {"hidden_size": 128, "num_attention_heads": 2},
    }
    torch.manual_seed(0)
    settings = transformers.Sam3VideoConfig(detector_config=detector, tracker_config=tracker)
    model = transformers.Sam3VideoModel(settings).eval()
    model.save_pretrained(folder)
    return model


def clip(count: int, height: int = 48, width: int = 80) -> list[Image.Image]:
    """Frames in which a square moves over a background."""
    ground = np.random.default_rng(0).integers(0, 120, (6, 10, 3), dtype=np.uint8)
    frames = []
    for number in range(count):
        frame = np.array(Image.fromarray(ground).resize((width, height), Image.Resampling.BICUBIC))
        x = 4 + 2 * number % (width - 24)
        frame[12:32, x : x + 20] = (230, 200, 40)
        frames.append(Image.fromarray(frame))
    return frames


def mask(x: int, y: int = 12, height: int = 48, width: int = 80) -> np.ndarray:
    """A square of 20 pixels, (height, width) bool."""
    square = np.zeros((height, width), bool)
    square[y : y + 20, x : x + 20] = True
    return square


def to_meta_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `Sam2VideoModel` under Meta's names, written down independently of the renaming."""
    renamed = {}
    for name, value in state.items():
        if name == "prompt_encoder.point_embed.weight":
            for label in range(4):
                renamed[f"sam_prompt_encoder.point_embeddings.{label}.weight"] = value[label : label + 1].clone()
        elif name != "shared_image_embedding.positional_embedding":  # the same as that of the prompt encoder
            renamed[_meta_name(name)] = value.clone()
    return renamed


def _meta_name(name: str) -> str:
    whole = {
        "memory_temporal_positional_encoding": "maskmem_tpos_enc",
        "no_memory_embedding": "no_mem_embed",
        "no_memory_positional_encoding": "no_mem_pos_enc",
        "no_object_pointer": "no_obj_ptr",
        "occlusion_spatial_embedding_parameter": "no_obj_embed_spatial",
        "prompt_encoder.shared_embedding.positional_embedding": (
            "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        ),
    }
    if name in whole:
        return whole[name]
    top, rest = name.split(".", 1)
    if top == "vision_encoder":
        rest = re.sub(r"^neck\.convs\.(\d)\.", r"neck.convs.\1.conv.", rest)
        rest = rest.replace("backbone.", "trunk.").replace("layer_norm", "norm").replace("projection", "proj")
        return "image_encoder." + rest.replace("mlp.proj_in", "mlp.layers.0").replace("mlp.proj_out", "mlp.layers.1")
    if top == "temporal_positional_encoding_projection_layer":
        return f"obj_ptr_tpos_proj.{rest}"
    if top in ("object_pointer_proj", "mask_decoder"):
        two = "transformer" in rest  # layers in each perceptron
        last = "layers.1" if two else "layers.2"
        # In this order, since one takes the name that another has left.
        rest = re.sub(r"(?<!transformer\.)layers\.0\.(?=weight|bias)", "layers.1.", rest)
        rest = re.sub(r"(?<![qkvo]_)proj_in\.", "layers.0.", rest)
        rest = re.sub(r"proj_out\.", f"{last}.", rest)
        for ours, theirs in (("upscale_conv1", "0"), ("upscale_layer_norm", "1"), ("upscale_conv2", "3")):
            rest = rest.replace(ours, f"output_upscaling.{theirs}")
        rest = rest.replace("o_proj", "out_proj").replace("layer_norm", "norm")
        return ("obj_ptr_proj." if top == "object_pointer_proj" else "sam_mask_decoder.") + rest
    if top == "prompt_encoder":
        places = {"conv1": 0, "layer_norm1": 1, "conv2": 3, "layer_norm2": 4, "conv3": 6}
        return "sam_prompt_encoder." + re.sub(
            r"(?<!no_)mask_embed\.(\w+)", lambda match: f"mask_downscaling.{places[match[1]]}", rest
        )
    if top == "memory_encoder":
        rest = re.sub(r"layers\.(\d)\.conv\.", lambda match: f"encoder.{3 * int(match[1])}.", rest)
        if rest.startswith("mask_downsampler"):
            rest = re.sub(r"layers\.(\d)\.layer_norm", lambda match: f"encoder.{3 * int(match[1]) + 1}", rest)
            return f"memory_encoder.{rest.replace('final_conv', 'encoder.12')}"
        for ours, theirs in (
            ("memory_fuser", "fuser"),
            ("depthwise_conv", "dwconv"),
            ("pointwise_conv", "pwconv"),
            ("scale", "gamma"),
            ("layer_norm", "norm"),
            ("feature_projection", "pix_feat_proj"),
        ):
            rest = rest.replace(ours, theirs)
        return "memory_encoder." + re.sub(r"^projection", "out_proj", rest)
    return f"{top}.{rest.replace('o_proj', 'out_proj').replace('layer_norm', 'norm')}"


def _hiera() -> dict[str, Any]:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1],
        "global_attention_blocks": [3],
        "window_size_per_stage": [4, 4, 4, 2],
        "window_positional_embedding_background_size": [4, 4],
        "image_size": [SIDE, SIDE],
    }
    return {"model_type": "sam2_vision_model", "backbone_config": backbone, **_neck()}


def _repvit() -> dict[str, Any]:
    layers = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "do_pooling": False,
        "num_classes": 2,
        "model_args": {**layers, "embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]},
    }
    return {"model_type": "edgetam_vision_model", "backbone_config": backbone, **_neck()}


def _vit(side: int) -> dict[str, Any]:
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    return {"model_type": "sam3_vision_model", "fpn_hidden_size": 128, "backbone_config": backbone}


def _neck() -> dict[str, Any]:
    sizes = [[SIDE // stride, SIDE // stride] for stride in (4, 8, 16)]
    return {"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": sizes, "fpn_hidden_size": 128}


def _memory(side: int, patch: int) -> dict[str, Any]:
    return {
        "prompt_encoder_config": {
            "hidden_size": 128,
            "image_size": side,
            "patch_size": patch,
            "mask_input_channels": 8,
        },
        "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        "memory_attention_hidden_size": 128,
        "memory_attention_num_layers": 1,
        "memory_attention_rope_feat_sizes": [side // patch, side // patch],
        "memory_encoder_hidden_size": 128,
        "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": 128,
        "memory_fuser_embed_dim": 128,
        "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
        **MEMORY,
    }


def meta_shapes(channels: int, blocks: int, background: int = 7) -> dict[str, Tensor]:
    """Tensors of Meta's image encoder that tell its size."""
    trunk = "image_encoder.trunk."
    state = {f"{trunk}blocks.{block}.norm1.weight": torch.zeros(1) for block in range(blocks)}
    return {
        f"{trunk}patch_embed.proj.weight": torch.zeros(channels, 3, 7, 7),
        f"{trunk}pos_embed": torch.zeros(1, channels, background, background),
        **state,
    }

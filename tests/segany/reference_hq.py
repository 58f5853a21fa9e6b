"""Public implementations of SAM-HQ with small sizes and random weights."""

import warnings
from dataclasses import replace
from functools import partial

import pytest
from torch import nn
from transformers import SamHQConfig, SamHQMaskDecoderConfig, SamHQModel, SamHQPromptEncoderConfig, SamHQVisionConfig

from segany import SegAnyConfig
from tests.segany import reference
from tests.segany.reference import SMALL, meta_sam, perturb
from tests.segany.reference_tiny_vit import SMALL_MOBILE

# Importing the package puts its own TinyViT into timm's registry, in the place of timm's, which other tests use.
with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
    warnings.simplefilter("ignore")
    patch.setattr("timm.models.registry.register_model", lambda function: function)
    import segment_anything_hq
    from segment_anything_hq.modeling import (
        ImageEncoderViT,
        MaskDecoderHQ,
        PromptEncoder,
        Sam,
        TinyViT,
        TwoWayTransformer,
    )

SamPredictor = segment_anything_hq.SamPredictor
SamAutomaticMaskGenerator = segment_anything_hq.SamAutomaticMaskGenerator

# The first of two blocks with global attention is the one whose features are fused.
SMALL_HQ = replace(SMALL, hq=True, encoder_depth=4, global_blocks=(1, 3))
# The package fixes TinyViT's grid to 64 cells, so the image has the published size.
SMALL_HQ_TINY = replace(SMALL_MOBILE, hq=True, image_size=1024)


def sam_hq(config: SegAnyConfig) -> Sam:
    """The model of the `segment-anything-hq` package at the sizes of `config`, with perturbed weights."""
    grid, dim, side = config.grid_size, config.prompt_dim, config.image_size
    if config.tiny_vit is None:
        encoder = ImageEncoderViT(
            img_size=side,
            patch_size=config.patch_size,
            embed_dim=config.encoder_dim,
            depth=config.encoder_depth,
            num_heads=config.encoder_heads,
            mlp_ratio=config.mlp_ratio,
            out_chans=dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window_size,
            global_attn_indexes=config.global_blocks,
        )
    else:
        sizes = config.tiny_vit
        encoder = TinyViT(
            img_size=side,
            embed_dims=list(sizes.dims),
            depths=list(sizes.depths),
            num_heads=[1, *sizes.heads],
            window_sizes=[7, *sizes.window_sizes],
            mlp_ratio=sizes.mlp_ratio,
            mbconv_expand_ratio=sizes.conv_ratio,
            drop_path_rate=0.0,
        )
        encoder.layers[2].downsample.conv2.c.stride = (1, 1)  # as the package decides for the published width alone
        # The package fixes the width of the neck.
        encoder.neck = meta_sam(replace(SMALL, encoder_dim=sizes.dims[-1], prompt_dim=dim)).image_encoder.neck
    transformer = TwoWayTransformer(
        depth=config.decoder_depth,
        embedding_dim=dim,
        num_heads=config.decoder_heads,
        mlp_dim=config.decoder_mlp_dim,
        attention_downsample_rate=config.attention_downsample,
    )
    decoder = MaskDecoderHQ(
        transformer_dim=dim,
        transformer=transformer,
        num_multimask_outputs=config.num_multimask_outputs,
        iou_head_depth=config.iou_depth,
        iou_head_hidden_dim=config.iou_hidden_dim,
        vit_dim=config.early_dim,
    )
    prompts = PromptEncoder(
        embed_dim=dim,
        image_embedding_size=(grid, grid),
        input_image_size=(side, side),
        mask_in_chans=config.mask_channels,
    )
    sam = Sam(encoder, prompts, decoder, list(config.pixel_mean), list(config.pixel_std))
    return perturb(sam.eval(), std=0.1 if config.tiny_vit is None else 0.05)


def hugging_face_sam_hq(config: SegAnyConfig) -> SamHQModel:
    """The model of the `transformers` package at the sizes of `config`, with perturbed weights."""
    plain = reference.hugging_face_sam(replace(config, hq=False)).config
    decoder = {**plain.mask_decoder_config.to_dict(), "vit_dim": config.early_dim}
    parts = (
        (SamHQVisionConfig, plain.vision_config.to_dict()),
        (SamHQPromptEncoderConfig, plain.prompt_encoder_config.to_dict()),
        (SamHQMaskDecoderConfig, decoder),
    )
    built = [part(**{key: value for key, value in values.items() if key != "model_type"}) for part, values in parts]
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    return reference.with_usual_position_code(perturb(SamHQModel(SamHQConfig(**dict(zip(names, built, strict=True))))))

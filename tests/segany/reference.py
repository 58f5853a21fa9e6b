"""Public implementations of Segment Anything with small sizes and random weights, and prompts to compare on."""

from functools import partial

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from segany import Prompts, SegAny, SegAnyConfig

# The 16-cell grid is not a multiple of the 7-cell window, so windows are padded as in the published models.
SMALL = SegAnyConfig(
    image_size=256,
    patch_size=16,
    encoder_dim=64,
    encoder_depth=3,
    encoder_heads=2,
    global_blocks=(1,),
    window_size=7,
    prompt_dim=64,
    decoder_mlp_dim=96,
    iou_hidden_dim=48,
)
SMALL_TEXT = SegAnyConfig(**{**vars(SMALL), "text_dim": 24})

PROMPT_KINDS = ("points", "box", "points and box", "mask", "points and mask", "box and mask")


def perturb(module: nn.Module, std: float = 0.1, seed: int = 0) -> nn.Module:
    """Add noise to every parameter, so that none keeps an initial zero or one that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)
    return module.eval()


def meta_sam(config: SegAnyConfig) -> Sam:
    """The model of the `segment-anything` package at the sizes of `config`, with the package's own initial weights."""
    grid, dim = config.grid_size, config.prompt_dim
    encoder = ImageEncoderViT(
        img_size=config.image_size,
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
    prompt_encoder = PromptEncoder(
        embed_dim=dim,
        image_embedding_size=(grid, grid),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=config.mask_channels,
    )
    transformer = TwoWayTransformer(
        depth=config.decoder_depth,
        embedding_dim=dim,
        num_heads=config.decoder_heads,
        mlp_dim=config.decoder_mlp_dim,
        attention_downsample_rate=config.attention_downsample,
    )
    decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=transformer,
        num_multimask_outputs=config.num_multimask_outputs,
        iou_head_depth=config.iou_depth,
        iou_head_hidden_dim=config.iou_hidden_dim,
    )
    return Sam(encoder, prompt_encoder, decoder, list(config.pixel_mean), list(config.pixel_std)).eval()


def segany_like(sam: Sam, config: SegAnyConfig) -> SegAny:
    """Our model with the weights of the reference."""
    model = SegAny(config).eval()
    model.load_state_dict(sam.state_dict())
    return model


def hugging_face_sam(config: SegAnyConfig) -> SamModel:
    """The model of the `transformers` package at the sizes of `config`, with perturbed weights."""
    vision = SamVisionConfig(
        hidden_size=config.encoder_dim,
        output_channels=config.prompt_dim,
        num_hidden_layers=config.encoder_depth,
        num_attention_heads=config.encoder_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        mlp_ratio=config.mlp_ratio,
        window_size=config.window_size,
        global_attn_indexes=list(config.global_blocks),
        num_pos_feats=config.prompt_dim // 2,
        initializer_range=0.02,  # the default, 1e-10, makes every embedding vanish
    )
    prompts = SamPromptEncoderConfig(
        hidden_size=config.prompt_dim,
        image_size=config.image_size,
        patch_size=config.patch_size,
        mask_input_channels=config.mask_channels,
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=config.prompt_dim,
        mlp_dim=config.decoder_mlp_dim,
        num_hidden_layers=config.decoder_depth,
        num_attention_heads=config.decoder_heads,
        attention_downsample_rate=config.attention_downsample,
        num_multimask_outputs=config.num_multimask_outputs,
        iou_head_depth=config.iou_depth,
        iou_head_hidden_dim=config.iou_hidden_dim,
        layer_norm_eps=1e-5,  # that of the published weights' own implementation
    )
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    return with_usual_position_code(perturb(model))


def with_usual_position_code(model: nn.Module) -> nn.Module:
    """Exchange the position code: its default scale, half the encoder's width, belongs to no published weights."""
    shape = model.shared_image_embedding.positional_embedding.shape
    code = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    model.shared_image_embedding.positional_embedding.data = code
    model.prompt_encoder.shared_embedding.positional_embedding.data = code
    return model


def random_prompts(kind: str, n: int, size: tuple[int, int], low_res_size: int, seed: int = 0) -> Prompts:
    """n prompts of one of PROMPT_KINDS for an image of `size` (height, width)."""
    random = np.random.default_rng(seed)
    extent = np.array([size[1], size[0]], dtype=np.float32)
    fields: dict[str, np.ndarray] = {}
    if "points" in kind:
        fields["points"] = random.random((n, 3, 2), dtype=np.float32) * extent
        fields["point_labels"] = random.integers(0, 2, (n, 3))
    if "box" in kind:
        corners = np.sort(random.random((n, 2, 2), dtype=np.float32), axis=1) * extent
        fields["boxes"] = corners.reshape(n, 4)
    if "mask" in kind:
        fields["masks"] = random.normal(size=(n, 1, low_res_size, low_res_size)) * 4
    return Prompts(**fields)


def sam_arguments(prompts: Prompts) -> dict[str, Tensor | tuple[Tensor, Tensor] | None]:
    """The arguments of the reference's prompt encoder."""
    points = None if prompts.points is None else (prompts.points, prompts.point_labels)
    return {"points": points, "boxes": prompts.boxes, "masks": prompts.masks}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference within `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    scale = expected.abs().max()
    assert scale > 1e-2, "a reference this small proves nothing"
    assert (actual - expected).abs().max() <= tolerance * scale

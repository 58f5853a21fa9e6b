"""The memory modules of SAM 2 as `transformers` has them, with the weights of ours."""

from torch import nn
from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoConfig
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoMemoryAttention, Sam2VideoMemoryEncoder

from segany.video.memory import VideoMemory

_RENAMES = (
    ("out_proj", "o_proj"),
    ("cross_attn.", "cross_attn_image."),
    ("norm1.", "layer_norm1."),
    ("norm2.", "layer_norm2."),
    ("norm3.", "layer_norm3."),
    ("mask_downscaling.0.", "mask_downsampler.layers.0.conv."),
    ("mask_downscaling.1.", "mask_downsampler.layers.0.layer_norm."),
    ("mask_downscaling.3.", "mask_downsampler.layers.1.conv."),
    ("mask_downscaling.4.", "mask_downsampler.layers.1.layer_norm."),
    ("mask_downscaling.6.", "mask_downsampler.final_conv."),
    ("fuser.", "memory_fuser.layers."),
    ("depthwise.", "depthwise_conv."),
    (".norm.", ".layer_norm."),
    ("expand.", "pointwise_conv1."),
    ("reduce.", "pointwise_conv2."),
)


def _config(memory: VideoMemory, size: tuple[int, int]) -> Sam2VideoConfig:
    ours, dim = memory.config, memory.image.prompt_dim
    config = Sam2VideoConfig(
        memory_attention_hidden_size=dim,
        memory_attention_num_layers=ours.attention_depth,
        memory_attention_downsample_rate=dim // ours.attention_dim,
        memory_attention_feed_forward_hidden_size=ours.attention_mlp_dim,
        memory_attention_rope_feat_sizes=[size[1], size[0]],
        memory_encoder_hidden_size=dim,
        memory_encoder_output_channels=ours.memory_dim,
        mask_downsampler_embed_dim=dim,
        mask_downsampler_total_stride=4,
        memory_fuser_num_layers=ours.fuser_depth,
        memory_fuser_embed_dim=dim,
        memory_fuser_intermediate_dim=4 * dim,
    )
    config._attn_implementation = "sdpa"
    return config


def _filled(module: nn.Module, ours: nn.Module) -> nn.Module:
    state = {}
    for key, value in ours.state_dict().items():
        for name, theirs in _RENAMES:
            key = key.replace(name, theirs)
        state[key.replace("norm.", "layer_norm.") if key.startswith("norm.") else key] = value
    module.load_state_dict(state)
    return module.eval()


def memory_attention(memory: VideoMemory, size: tuple[int, int]) -> nn.Module:
    return _filled(Sam2VideoMemoryAttention(_config(memory, size)), memory.memory_attention)


def memory_encoder(memory: VideoMemory, size: tuple[int, int]) -> nn.Module:
    return _filled(Sam2VideoMemoryEncoder(_config(memory, size)), memory.memory_encoder)

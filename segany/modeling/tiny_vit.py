"""The image encoder of MobileSAM: a TinyViT with a convolutional first stage and windowed attention after it.

Follows Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", with the changes of Zhang et
al., "Faster Segment Anything" (MobileSAM): the last stage keeps the resolution of the previous one, and Segment
Anything's neck replaces the classifier. Parameter names are those of MobileSAM's published checkpoint.

Maps are channels-last in memory throughout, so that convolutions and linear layers alternate without copies.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import SegAnyConfig, TinyViTConfig
from segany.modeling.image_encoder import in_bands
from segany.modeling.layers import LayerNorm2d
from segany.modeling.relative_attention import join_windows, split_windows

_CELLS_AT_ONCE = 4096  # outputs of a band on a CPU: few enough for its activations to stay in the cache


class TinyViT(nn.Module):
    """Encode pixels of the square model frame as an image embedding with one cell per `config.patch_size` pixels."""

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        if config.tiny_vit is None:
            raise ValueError("the configuration describes a plain ViT: tiny_vit is None")
        sizes, out_dim = config.tiny_vit, config.prompt_dim
        self.patch_embed = PatchEmbedding(sizes.dims[0])
        self.layers = nn.ModuleList(Stage(sizes, index) for index in range(len(sizes.dims)))
        self.neck = nn.Sequential(
            nn.Conv2d(sizes.dims[-1], out_dim, kernel_size=1, bias=False),
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        return self.forward_early(pixels)[0]

    def forward_early(
        self, pixels: Float[Tensor, "b 3 s s"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b d eh ew"]]:
        """The image embedding, and the output of the second stage with its downsampling, for SAM-HQ."""
        x = self.patch_embed(pixels.contiguous(memory_format=torch.channels_last))
        stages = [x := layer(x) for layer in self.layers]
        return self.neck(x), stages[1]


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation.

    Outside training the two are fused to one convolution: with g = weight / sqrt(running_var + eps),

        norm(c * x) = (g c) * x + (bias - g running_mean)

    This differs by rounding only. The product g c is cheap compared with the convolution, so it is not cached, and it
    is computed in float32, so that a bfloat16 encoder rounds it only once.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_dim, out_dim, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        mean, variance = self.bn.running_mean, self.bn.running_var
        if self.training or mean is None or variance is None:
            return self.bn(self.c(x))
        gain = self.bn.weight.float() * (variance.float() + self.bn.eps).rsqrt()
        weight = (self.c.weight * gain[:, None, None, None]).to(x.dtype)
        bias = (self.bn.bias - gain * mean).to(x.dtype)
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)


class PatchEmbedding(nn.Module):
    """Two convolutions that each halve the resolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, dim // 2, kernel_size=3, stride=2), nn.GELU(), ConvNorm(dim // 2, dim, kernel_size=3, stride=2)
        )

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        return self.seq(pixels) if self.training else in_overlapping_bands(self.seq, pixels, stride=4)


class Stage(nn.Module):
    """Blocks at one resolution, followed, except in the last stage, by the downsampling to the next one."""

    def __init__(self, sizes: TinyViTConfig, index: int) -> None:
        super().__init__()
        dim, last = sizes.dims[index], len(sizes.dims) - 1
        self.blocks = nn.ModuleList(
            ConvBlock(dim, int(dim * sizes.conv_ratio))
            if index == 0
            else AttentionBlock(dim, sizes.heads[index - 1], sizes.window_sizes[index - 1], int(dim * sizes.mlp_ratio))
            for _ in range(sizes.depths[index])
        )
        # MobileSAM's only change of resolution: TinyViT halves it once more before the last stage.
        stride = 1 if index == last - 1 else 2
        self.downsample = nn.Identity() if index == last else PatchMerging(dim, sizes.dims[index + 1], stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class PatchMerging(nn.Module):
    """Change to the channels of the next stage, and reduce the resolution by `stride`."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = ConvNorm(dim, out_dim)
        self.conv2 = ConvNorm(out_dim, out_dim, kernel_size=3, stride=stride, groups=out_dim)
        self.conv3 = ConvNorm(out_dim, out_dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self._convolve(x) if self.training else in_overlapping_bands(self._convolve, x, self.stride)

    def _convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class ConvBlock(nn.Module):
    """Inverted residual (Sandler et al., "MobileNetV2"): expand, depthwise convolution, project."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, hidden_dim)
        self.conv2 = ConvNorm(hidden_dim, hidden_dim, kernel_size=3, groups=hidden_dim)
        self.conv3 = ConvNorm(hidden_dim, dim)
        nn.init.zeros_(self.conv3.bn.weight)  # a new block starts as the identity

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self._convolve(x) if self.training else in_overlapping_bands(self._convolve, x)

    def _convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class AttentionBlock(nn.Module):
    """Attention within windows, a depthwise convolution across their edges, and a two-layer network."""

    def __init__(self, dim: int, heads: int, window_size: int, mlp_dim: int) -> None:
        super().__init__()
        self.attn = BiasedAttention(dim, heads, window_size)
        self.local_conv = ConvNorm(dim, dim, kernel_size=3, groups=dim)
        self.mlp = NormFeedForward(dim, mlp_dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = in_bands(self._attend, x.permute(0, 2, 3, 1), multiple=self.attn.window_size)
        x = self.local_conv(x.permute(0, 3, 1, 2))
        x = in_bands(self._transform, x.permute(0, 2, 3, 1), multiple=1)
        return x.permute(0, 3, 1, 2)

    def _attend(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + self.attn(x)

    def _transform(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + self.mlp(x)


class BiasedAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each distance in rows and columns.

    A grid that is not a multiple of the window is padded with zero cells before the normalisation, which serve as keys
    like any others. They all have the query, key and value of the normalisation's bias, so these are computed once, and
    the projections run on real cells only. This is exact, because the output of zero cells is dropped.

    A window as large as the grid makes attention global; a larger one is padded.
    """

    def __init__(self, dim: int, heads: int, window_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.window_size = window_size
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)  # for each head its query, key and value
        self.proj = nn.Linear(dim, dim)
        # Column `window_size * rows + columns` is for cells that are this many rows and columns apart.
        self.attention_biases = nn.Parameter(torch.zeros(heads, window_size**2))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        _, height, width, dim = x.shape
        size = self.window_size
        windows = split_windows(self.qkv(self.norm(x)), size, fill=self.qkv(self.norm.bias))
        q, k, v = windows.reshape(-1, size**2, self.heads, 3 * dim // self.heads).transpose(1, 2).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias_matrix()[None].to(q.dtype))
        return self.proj(join_windows(out.transpose(1, 2).reshape(-1, size, size, dim), height, width))

    def bias_matrix(self) -> Float[Tensor, "heads l l"]:
        """The bias of each query for each key, in a window of l cells."""
        size = self.window_size
        position = torch.arange(size, device=self.attention_biases.device)
        distance = (position[:, None] - position[None, :]).abs()
        table = self.attention_biases.unflatten(1, (size, size))
        matrix = table[:, distance][..., distance]  # (heads, y, y', x, x')
        return matrix.transpose(2, 3).reshape(self.heads, size**2, size**2)


class NormFeedForward(nn.Module):
    """Layer normalisation and two-layer network."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


def in_overlapping_bands(
    convolve: Callable[[Tensor], Tensor], x: Float[Tensor, "b c h w"], stride: int = 1
) -> Float[Tensor, "b d h2 w2"]:
    """Apply `convolve` to overlapping bands of rows on a CPU, so that its activations stay in the cache.

    An output row must depend only on the `stride` input rows at its position and on at most `stride` rows on either
    side. Each band is computed with `stride` extra rows at both ends, and their outputs are dropped, because they were
    computed with padding instead of real rows. The result differs by rounding only.
    """
    if x.device.type != "cpu" or x.requires_grad or torch.compiler.is_compiling():
        return convolve(x)
    height, width = x.shape[2:]
    rows = stride * max(1, _CELLS_AT_ONCE * stride // width)
    bands = []
    for image in x.split(1):
        for top in range(0, height, rows):
            start = max(0, top - stride)
            band = convolve(image[:, :, start : top + rows + stride]).permute(0, 2, 3, 1)
            first = (top - start) // stride
            bands.append(band[:, first : first + rows // stride])
    out = torch.cat(bands, dim=1)  # (1, b * h2, w2, d), or (0, h2, w2, d) without images
    return out.reshape(len(x), height // stride, *out.shape[2:]).permute(0, 3, 1, 2)

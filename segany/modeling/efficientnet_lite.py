"""A small image encoder for photographs: EfficientNet-Lite with a feature pyramid and a few transformer blocks.

The backbone is EfficientNet (Tan and Le, 2019) in its Lite form, without squeeze-and-excitation and with ReLU6, and has
the parameter names of timm's `tf_efficientnet_lite*`, so that weights trained on ImageNet load unchanged. Maps at a
stride of 16 and 32 are summed and pass through global attention; the result is added to those at a stride of 8 and 4
(Lin et al., "Feature Pyramid Networks", 2017) and smoothed. The embedding has one cell per 8 pixels.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import EfficientNetLiteConfig, SegAnyConfig
from segany.modeling.layers import LayerNorm2d

_EPSILON = 1e-3  # of the batch normalisation in TensorFlow, where the published weights come from


class EfficientNetLiteEncoder(nn.Module):
    """Encode pixels of the square model frame as an image embedding with one cell per 8 pixels."""

    def __init__(self, config: SegAnyConfig) -> None:
        super().__init__()
        if config.efficientnet_lite is None:
            raise ValueError("the configuration describes another encoder: efficientnet_lite is None")
        sizes, out_dim, wide = config.efficientnet_lite, config.prompt_dim, config.efficientnet_lite.attention_dim
        self.backbone = EfficientNetLite(sizes)
        c4, c8, c16, c32 = self.backbone.feature_dims
        self.down4 = nn.Conv2d(c4, out_dim, kernel_size=2, stride=2)
        self.at8, self.at16, self.at32 = nn.Conv2d(c8, out_dim, 1), nn.Conv2d(c16, wide, 1), nn.Conv2d(c32, wide, 1)
        cells = (config.image_size // 16) ** 2
        self.position = nn.Parameter(torch.randn(1, cells, wide) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                wide,
                sizes.attention_heads,
                wide * sizes.attention_mlp_ratio,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(sizes.attention_depth)
        )
        self.norm = nn.LayerNorm(wide)
        self.up16 = nn.Conv2d(wide, out_dim, 1)
        self.out = nn.Sequential(
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
            nn.GELU(),
            nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )
        self.skip = nn.Sequential(LayerNorm2d(out_dim))

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        x4, x8, x16, x32 = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        x = self.at16(x16) + _resize(self.at32(x32), x16)
        tokens = x.flatten(2).transpose(1, 2) + self.positions(x.shape[-1])  # (b, cells, wide)
        for block in self.blocks:
            tokens = block(tokens)
        x = self.norm(tokens).transpose(1, 2).unflatten(2, x16.shape[-2:])
        y = self.at8(x8) + self.down4(x4) + _resize(self.up16(x), x8)
        return self.out(y) + self.skip(y)

    def positions(self, side: int) -> Float[Tensor, "1 l c"]:
        """The codes of side x side cells; training may show smaller images than the model frame."""
        stored = round(self.position.shape[1] ** 0.5)
        if side == stored:
            return self.position
        square = self.position.transpose(1, 2).unflatten(2, (stored, stored))
        return F.interpolate(square, size=(side, side), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


class EfficientNetLite(nn.Module):
    """The convolutional backbone: feature maps at strides of 4, 8, 16 and 32."""

    def __init__(self, sizes: EfficientNetLiteConfig) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, sizes.stem_dim, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes.stem_dim, eps=_EPSILON)
        stages = []
        for index, (in_dim, dim) in enumerate(pairwise((sizes.stem_dim, *sizes.dims))):
            expansion = 1 if index == 0 else sizes.expansion
            stride, kernel_size = sizes.strides[index], sizes.kernel_sizes[index]
            dims = [in_dim, *[dim] * sizes.depths[index]]
            strides = [stride, *[1] * (sizes.depths[index] - 1)]
            blocks = (
                InvertedResidual(a, b, kernel_size, step, expansion)
                for (a, b), step in zip(pairwise(dims), strides, strict=True)
            )
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        # A map is taken from the last stage before the resolution falls again.
        ends = [i for i in range(1, len(sizes.dims)) if i + 1 == len(sizes.dims) or sizes.strides[i + 1] == 2]
        self.feature_stages = tuple(ends)
        self.feature_dims = tuple(sizes.dims[i] for i in ends)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> list[Float[Tensor, "b _ _ _"]]:
        x = F.relu6(_conv_norm(pixels, self.conv_stem, self.bn1))
        features = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in self.feature_stages:
                features.append(x)
        return features


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project (Sandler et al., "MobileNetV2", 2018).

    Without expansion the first convolution is left out, and the names of the others move up, as in timm.
    """

    def __init__(self, in_dim: int, dim: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden, self.expands = in_dim * expansion, expansion > 1
        self.has_skip = stride == 1 and in_dim == dim
        depthwise = nn.Conv2d(hidden, hidden, kernel_size, stride, groups=hidden, bias=False)
        if self.expands:
            self.conv_pw, self.bn1 = nn.Conv2d(in_dim, hidden, 1, bias=False), nn.BatchNorm2d(hidden, eps=_EPSILON)
            self.conv_dw, self.bn2 = depthwise, nn.BatchNorm2d(hidden, eps=_EPSILON)
            self.conv_pwl, self.bn3 = nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim, eps=_EPSILON)
        else:
            self.conv_dw, self.bn1 = depthwise, nn.BatchNorm2d(hidden, eps=_EPSILON)
            self.conv_pw, self.bn2 = nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim, eps=_EPSILON)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        y = x
        if self.expands:
            y = F.relu6(_conv_norm(y, self.conv_pw, self.bn1))
            y = F.relu6(_conv_norm(y, self.conv_dw, self.bn2))
            y = _conv_norm(y, self.conv_pwl, self.bn3)
        else:
            y = F.relu6(_conv_norm(y, self.conv_dw, self.bn1))
            y = _conv_norm(y, self.conv_pw, self.bn2)
        return x + y if self.has_skip else y


def _conv_norm(x: Float[Tensor, "b c h w"], conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Float[Tensor, "b d h2 w2"]:
    """Convolve with TensorFlow's padding, then normalise; outside training in one convolution, as in `tiny_vit`."""
    x = _pad_as_tensorflow(x, conv.kernel_size[0], conv.stride[0])
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or mean is None or variance is None:
        return norm(conv(x))
    gain = norm.weight.float() * (variance.float() + norm.eps).rsqrt()
    weight = (conv.weight * gain[:, None, None, None]).to(x.dtype)
    bias = (norm.bias - gain * mean).to(x.dtype)
    return F.conv2d(x, weight, bias, conv.stride, groups=conv.groups)


def _pad_as_tensorflow(x: Float[Tensor, "b c h w"], kernel_size: int, stride: int) -> Float[Tensor, "b c h2 w2"]:
    """Pad so that the output has ceil(side / stride) pixels; where that takes an odd number, one more at the end."""
    height, width = (max((-(-n // stride) - 1) * stride + kernel_size - n, 0) for n in x.shape[-2:])
    if height == width == 0:
        return x
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def _resize(x: Float[Tensor, "b c h w"], like: Float[Tensor, "b _ h2 w2"]) -> Float[Tensor, "b c h2 w2"]:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

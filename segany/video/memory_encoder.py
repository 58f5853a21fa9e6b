"""The memory encoder: the embedding of a frame and the mask of an object in it become a memory (SAM 2, section 4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from segany.config import SegAnyConfig
from segany.modeling.layers import LayerNorm2d
from segany.video.config import MemoryConfig


class MemoryEncoder(nn.Module):
    """Reduce the mask to the cells of the embedding, add the two, and fuse them by convolutions."""

    def __init__(self, image: SegAnyConfig, config: MemoryConfig) -> None:
        super().__init__()
        dim, hidden = image.prompt_dim, config.mask_channels
        self.config = config
        # Low-resolution logits have 4 x 4 values per cell.
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, hidden // 4, kernel_size=3, stride=2, padding=1),
            LayerNorm2d(hidden // 4),
            nn.GELU(),
            nn.Conv2d(hidden // 4, hidden, kernel_size=3, stride=2, padding=1),
            LayerNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, dim, kernel_size=1),
        )
        self.feature_projection = nn.Conv2d(dim, dim, kernel_size=1)
        self.fuser = nn.Sequential(*(FuserBlock(dim, config.fuser_kernel) for _ in range(config.fuser_depth)))
        self.projection = nn.Conv2d(dim, config.memory_dim, kernel_size=1)

    def forward(
        self, features: Float[Tensor, "#n c h w"], logits: Float[Tensor, "n 1 lh lw"]
    ) -> Float[Tensor, "n d mh mw"]:
        """Return one memory for each of n objects.

        Args:
            features: of the frame, without what memory attention added; one for all objects or one each.
            logits: low-resolution mask logits of each object, lh = 4 h and lw = 4 w.
        """
        mask = logits.sigmoid() * self.config.mask_scale + self.config.mask_bias
        fused = self.fuser(self.feature_projection(features) + self.mask_downscaling(mask))
        stride = self.config.memory_stride
        # At an odd border the mean is over the cells that are there.
        return F.avg_pool2d(self.projection(fused), stride, ceil_mode=True, count_include_pad=False)


class FuserBlock(nn.Module):
    """A ConvNeXt block (Liu et al., 2022): depthwise convolution, then a feed-forward network on each cell."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.reduce = nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, cells: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        update = self.norm(self.depthwise(cells)).permute(0, 2, 3, 1)  # (n, h, w, c)
        update = self.scale * self.reduce(F.gelu(self.expand(update)))
        return cells + update.permute(0, 3, 1, 2)

"""A text prompt that needs no training: heat maps of phrases by CLIP, as points and coarse masks for a segmenter.

Patches are embedded by the value path of CLIP's last attention block, without attention, as in MaskCLIP (Zhou et al.,
2022). The residual and the MLP of that block are left out: they add features that all patches share, which hide their
own (ClearCLIP, Lan et al., 2024). Windows of several sizes slide over the image, and the embedding of each window
decides whether the phrase is in it at all, for which patches alone are too noisy.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, normalize

from grounded.config import ScoringConfig
from grounded.data.protocols import DensePrompts, ImageTextEncoder
from grounded.errors import ConfigError
from segany.precision import own_precision

_CELLS = 64  # of a heat map along the longer side of the image
_COARSE_GRID = 8  # patches along a side, up to which a third, finer size of windows pays
_CENTRE = 0.5  # standard deviation of a window's weight, in half windows: patches at its edge see an object cut off
_GREY = (128, 128, 128)
_BATCH = 32  # windows in one forward

# Chosen on drawn scenes for the bundled segmenter.
_PEAKS, _TROUGHS = 2, 1  # foreground and background points for each phrase
_HIGH = 0.7  # heat of a foreground point, as a share of the highest: lower peaks are often other things
_EDGE = 0.25  # heat at the edge of an object, likewise
_APART = 0.12  # least distance of two peaks, as a share of the longer side of the map
_STEEPNESS = 4.0  # heat changes slowly; a segmenter's own logits, which mask prompts imitate, do not
_LARGEST_LOGIT = 8.0
_EPS = 1e-6


@runtime_checkable
class OpenClipEncoder(ImageTextEncoder, Protocol):
    """An encoder that shows its `open_clip` model, with the transform from a PIL image to (3, h, w)."""

    @property
    def model(self) -> Any: ...
    @property
    def preprocess(self) -> Callable[[Any], Tensor]: ...
    @property
    def device(self) -> torch.device: ...


class DenseClip:
    """Heat maps of phrases.

    Args:
        encoder: of a model whose image tower is a vision transformer of `open_clip` itself.
        config: gives the negatives that a phrase competes with in every patch.

    Raises:
        ConfigError: the model has another image tower.
    """

    def __init__(self, encoder: OpenClipEncoder, config: ScoringConfig | None = None):
        self.encoder = encoder
        self.config = config or ScoringConfig()
        self.tower = _checked_tower(encoder.model)

    def prompts(self, image: Image.Image, phrases: Sequence[str]) -> DensePrompts:
        """Return points and a coarse mask for each phrase in an RGB image: `heat_prompts` of `heat_maps`."""
        return heat_prompts(self.heat_maps(image, phrases), (image.height, image.width))

    @torch.no_grad()
    @own_precision()
    def heat_maps(self, image: Image.Image, phrases: Sequence[str]) -> Float[Tensor, "p gh gw"]:
        """Return the probability that each part of an RGB image shows each phrase.

        A map covers the whole image; its longer side has 64 cells, and cells are square but for rounding. A phrase
        never changes the map of another one.
        """
        columns, rows = (max(1, round(side * _CELLS / max(image.size))) for side in image.size)
        if not phrases:
            return torch.zeros(0, rows, columns, device=self.encoder.device)
        sizes = [_CELLS, _CELLS // 2, _CELLS // 4][: 3 if max(self.tower.grid_size) <= _COARSE_GRID else 2]
        # The smallest window fills the model's input; larger ones are made smaller.
        cell = ceil(max(self.tower.image_size) / sizes[-1])
        frame = Image.new("RGB", (_CELLS * cell, _CELLS * cell), _GREY)
        resized = image.resize((columns * cell, rows * cell), Image.Resampling.BILINEAR, reducing_gap=3.0)
        frame.paste(resized, (0, 0))
        maps = []
        for size in sizes:
            corners = [(x, y) for y in _window_starts(rows, size) for x in _window_starts(columns, size)]
            maps.append(self._heat(frame, size, corners, phrases)[:, :rows, :columns])
        return torch.stack(maps).mean(dim=0)

    def _heat(
        self, frame: Image.Image, size: int, corners: Sequence[tuple[int, int]], phrases: Sequence[str]
    ) -> Float[Tensor, "p side side"]:
        """The maps of the frame from windows of one size, averaged where they overlap. Positions are in cells."""
        device, cell = self.encoder.device, frame.width // _CELLS
        heat = torch.zeros(len(phrases), _CELLS, _CELLS, device=device)
        total = torch.zeros(_CELLS, _CELLS, device=device)
        weight = _make_window_weight(size).to(device)
        for start in range(0, len(corners), _BATCH):
            batch = corners[start : start + _BATCH]
            windows = [frame.crop((x * cell, y * cell, (x + size) * cell, (y + size) * cell)) for x, y in batch]
            pixels = torch.stack([self.encoder.preprocess(window) for window in windows]).to(device)
            maps = interpolate(self._probabilities(pixels, phrases), (size, size), mode="bilinear")
            for (x, y), window in zip(batch, maps, strict=True):
                heat[:, y : y + size, x : x + size] += window * weight
                total[y : y + size, x : x + size] += weight
        return heat / total.clamp(min=torch.finfo(total.dtype).tiny)

    def _probabilities(self, pixels: Float[Tensor, "b 3 h w"], phrases: Sequence[str]) -> Float[Tensor, "b p g1 g2"]:
        """Of each phrase in each patch: the mean of the patch's log-odds and of its window's, as a probability."""
        features = self.tower.forward_intermediates(pixels, indices=2, output_fmt="NLC")
        patches = _embed_values(self.tower, features["image_intermediates"][0])  # (b, g1 g2, c)
        whole = normalize(features["image_features"], dim=-1)[:, None]  # (b, 1, c)
        both = [self.encoder.log_odds(embeddings, phrases, self.config) for embeddings in (patches, whole)]
        return ((both[0] + both[1]) / 2).sigmoid().transpose(1, 2).unflatten(2, self.tower.grid_size)


def heat_prompts(heat: Float[Tensor, "p gh gw"], image_size: tuple[int, int]) -> DensePrompts:
    """Turn heat maps into prompts.

    Foreground points are the highest peaks, at a distance from each other; background points are where heat is lowest.
    The coarse mask holds log-odds of the heat relative to a quarter of its peak, since the probabilities of CLIP depend
    on the phrase while their places hardly do. They are made steeper, and lie between -8 and 8.

    Args:
        heat: probabilities that cover the whole image, of at least one cell.
        image_size: (height, width) in pixels.
    """
    top = heat.amax(dim=(1, 2), keepdim=True)
    peaks, high = _find_peaks(heat, _PEAKS)
    troughs, low = _find_peaks(-heat, _TROUGHS)
    size = heat.new_tensor([image_size[1] / heat.shape[2], image_size[0] / heat.shape[1]])
    points = (torch.cat([peaks, troughs], dim=1) + 0.5) * size
    # A map that is flat has its trough where it has its peak.
    foreground, background = high >= top[:, 0] * _HIGH, -low < top[:, 0] * _EDGE
    labels = torch.cat([foreground.long() * 2 - 1, background.long() - 1], dim=1)
    logits = _STEEPNESS * (heat.logit(eps=_EPS) - (top * _EDGE).logit(eps=_EPS))
    return DensePrompts(points, labels, logits.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT))


def _checked_tower(model: Any) -> VisionTransformer:
    tower = getattr(model, "visual", None)
    wanted = "dense-clip needs a vision transformer of open_clip such as ViT-B-32, without attention pooling"
    if not isinstance(tower, VisionTransformer):
        raise ConfigError(f"{wanted}, got {type(tower).__name__}")
    if tower.attn_pool is not None:
        raise ConfigError(f"{wanted}, got one with it")
    blocks = tower.transformer.resblocks
    if len(blocks) < 2 or not isinstance(getattr(blocks[-1], "attn", None), nn.MultiheadAttention):
        raise ConfigError(f"{wanted}, of two or more usual blocks, got {len(blocks)} of {type(blocks[-1]).__name__}")
    return tower


def _embed_values(tower: VisionTransformer, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
    """Return embeddings of unit length of tokens before the last block, as if each attended to itself alone."""
    block = tower.transformer.resblocks[-1]
    width = block.attn.embed_dim
    # The weights of queries, keys and values are stacked.
    values = linear(block.ln_1(tokens), block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :])
    return normalize(tower.ln_post(block.ls_1(block.attn.out_proj(values))) @ tower.proj, dim=-1)


def _window_starts(extent: int, size: int) -> list[int]:
    """First cells of windows that cover an extent, each overlapping the next by half or more."""
    gaps = ceil(max(0, extent - size) / (size / 2))
    return [round(index * (extent - size) / gaps) for index in range(gaps + 1)] if gaps else [0]


def _make_window_weight(size: int) -> Float[Tensor, "{size} {size}"]:
    offsets = (torch.arange(size) + 0.5) / size * 2 - 1
    weight = torch.exp(-((offsets / _CENTRE) ** 2) / 2)
    return weight[:, None] * weight


def _find_peaks(
    values: Float[Tensor, "p gh gw"], count: int
) -> tuple[Float[Tensor, "p {count} 2"], Float[Tensor, "p {count}"]]:
    """Find the (x, y) cells of the highest values, highest first and apart from each other, and the values there.

    Where all of a small map is near the points already found, the values are -inf.
    """
    rows, columns = values.shape[1:]
    grid = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1).to(values)
    cells, heights = [], []
    for _ in range(count):
        height, index = values.flatten(1).max(dim=1)  # (p), (p)
        cell = grid.flatten(0, 1)[index]  # (p, 2)
        distance = (grid - cell[:, None, None]).norm(dim=-1)  # (p, gh, gw)
        values = values.masked_fill(distance < _APART * max(rows, columns), -torch.inf)
        cells.append(cell)
        heights.append(height)
    return torch.stack(cells, dim=1), torch.stack(heights, dim=1)

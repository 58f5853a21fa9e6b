"""Score masks with CLIP: a square crop around each mask against phrases and a fixed set of negatives."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image, ImageFilter
from scipy.special import expit
from torch import Tensor

from grounded.config import ScoringConfig
from grounded.data.protocols import ImageTextEncoder
from segany.utils.rle import RLE, decode_columns, rle_area, rle_boxes

_GREY = (128, 128, 128)
# Pixels of a crop's side: more than any CLIP takes in, and little enough that batches of crops stay small.
_LARGEST = 512
# Standard deviation as a share of the side: shapes around the mask vanish, their colours stay.
_BLUR = 0.08

_Box = tuple[int, int, int, int]  # x0 y0 x1 y1


class ClipRegionScorer:
    """A `RegionScorer` by CLIP on a crop of each mask."""

    def __init__(self, encoder: ImageTextEncoder, config: ScoringConfig | None = None):
        self.encoder = encoder
        self.config = config or ScoringConfig()

    def score(self, image: Image.Image, rles: Sequence[RLE], phrases: Sequence[str]) -> Float32[np.ndarray, "n p"]:
        """Return the probability of each phrase for each mask, as `embed` and `probabilities` do together."""
        return self.probabilities(self.embed(image, rles), phrases)

    def embed(self, image: Image.Image, rles: Sequence[RLE]) -> Float[Tensor, "n c"]:
        """Return one embedding of unit length per mask, or zeros for an empty mask.

        Args:
            image: upright RGB.
            rles: masks of its size. They are decoded one at a time, and only within their boxes.

        Raises:
            ValueError: a mask is not of the size of the image.
        """
        for index, rle in enumerate(rles):
            if tuple(rle["size"]) != (image.height, image.width):
                raise ValueError(f"mask {index} must be {[image.height, image.width]}, got {list(rle['size'])}")
        nonempty = np.flatnonzero(rle_area(rles)).tolist()
        crops = self.encoder.encode_images(square_crop(image, rles[index], self.config) for index in nonempty)
        embeddings = crops.new_zeros(len(rles), crops.shape[1])
        embeddings[nonempty] = crops
        return embeddings

    def probabilities(self, embeddings: Float[Tensor, "n c"], phrases: Sequence[str]) -> Float32[np.ndarray, "n p"]:
        """Return the probability of each phrase for each mask embedded by `embed`, 0 for an empty one.

        For a phrase of cosine c it is exp(c / T) over the sum of that and of exp(c_k / T) for the negatives k that are
        no synonyms of it. Other phrases do not enter, so they cannot change it.
        """
        log_odds = self.encoder.log_odds(embeddings, phrases, self.config)
        # Element by element: the last bits of PyTorch's sigmoid depend on how many elements there are.
        probabilities = expit(log_odds.cpu().numpy())
        return np.where(embeddings.any(dim=1, keepdim=True).cpu().numpy(), probabilities, np.float32(0))


def square_crop(image: Image.Image, rle: RLE, config: ScoringConfig) -> Image.Image:
    """Cut a square out of an RGB image around a mask that is not empty, `config.margin` wider than its box.

    Pixels beyond the image are grey, and those beyond the mask follow `config.background`. A large crop is made
    smaller.
    """
    left, top, right, bottom = rle_boxes([rle])[0].tolist()
    extent = ceil(max(right - left, bottom - top) * (1 + 2 * config.margin))
    left, top = floor((left + right - extent) / 2), floor((top + bottom - extent) / 2)
    region = max(left, 0), max(top, 0), min(left + extent, image.width), min(top + extent, image.height)
    side = min(extent, _LARGEST)
    x0, y0, x1, y1 = (
        round((value - start) * side / extent) for value, start in zip(region, (left, top) * 2, strict=True)
    )
    size = max(1, x1 - x0), max(1, y1 - y0)
    pixels = _resize_region(image, region, size)
    if config.background != "keep":
        hidden = Image.new("RGB", size, _GREY)
        if config.background == "blur":
            hidden = pixels.filter(ImageFilter.GaussianBlur(_BLUR * side))
        # Masks are encoded column by column; a large one is transposed only when it has been made small.
        alpha = Image.fromarray(decode_columns(rle, region) * np.uint8(255))
        transposed = _resize_region(alpha, (0, 0, *alpha.size), size[::-1]).transpose(Image.Transpose.TRANSPOSE)
        pixels = Image.composite(pixels, hidden, transposed)
    canvas = Image.new("RGB", (side, side), _GREY)
    canvas.paste(pixels, (x0, y0))
    return canvas


def _resize_region(image: Image.Image, region: _Box, size: tuple[int, int]) -> Image.Image:
    """Resize a region to (width, height), without ever copying it at its full size."""
    return image.resize(size, Image.Resampling.BILINEAR, box=region, reducing_gap=3.0)

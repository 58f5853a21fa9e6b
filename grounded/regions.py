"""What CLIP sees inside masks: each as a square crop, compared with phrases and with a fixed bank of negatives."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image, ImageFilter
from pycocotools import mask as coco_mask
from scipy.special import expit
from torch import Tensor

from grounded.settings import ScoringConfig
from grounded.types import ImageTextEncoder
from segany.masks import RLE

_GREY = (128, 128, 128)
# Pixels of a crop's side: more than any CLIP takes in, and little enough that batches of crops stay small.
_LARGEST = 512
# Standard deviation as a share of the side: shapes of the surroundings vanish, their colours stay.
_BLUR = 0.08

_Box = tuple[int, int, int, int]  # x0 y0 x1 y1


class ClipRegionScorer:
    """A `RegionScorer` that shows CLIP a crop of each mask."""

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
            rles: masks of its size. They are decoded one at a time, and only around what they show.

        Raises:
            ValueError: a mask is not of the size of the image.
        """
        for index, rle in enumerate(rles):
            if tuple(rle["size"]) != (image.height, image.width):
                raise ValueError(f"mask {index} must be {[image.height, image.width]}, got {list(rle['size'])}")
        shown = [index for index, rle in enumerate(rles) if coco_mask.area(rle) > 0]
        crops = self.encoder.encode_images(square_crop(image, rles[index], self.config) for index in shown)
        embeddings = crops.new_zeros(len(rles), crops.shape[1])
        embeddings[shown] = crops
        return embeddings

    def probabilities(self, embeddings: Float[Tensor, "n c"], phrases: Sequence[str]) -> Float32[np.ndarray, "n p"]:
        """Return the probability of each phrase for each mask that `embed` embedded, 0 for an empty one.

        For a phrase of cosine c it is exp(c / T) over the sum of that and of exp(c_k / T) for the negatives k that do
        not mean the same. Other phrases do not enter, so they cannot change it.
        """
        log_odds = self.encoder.log_odds(embeddings, phrases, self.config)
        # Element by element: the last bits of PyTorch's sigmoid depend on how many elements there are.
        probabilities = expit(log_odds.cpu().numpy())
        return np.where(embeddings.any(dim=1, keepdim=True).cpu().numpy(), probabilities, np.float32(0))


def square_crop(image: Image.Image, rle: RLE, config: ScoringConfig) -> Image.Image:
    """Cut a square out of an RGB image around a mask that is not empty, `config.margin` wider than its box.

    What lies beyond the picture is grey, and what lies beyond the mask is as `config.background` says. A large crop is
    made smaller.
    """
    x, y, width, height = coco_mask.toBbox(rle)
    extent = ceil(max(width, height) * (1 + 2 * config.margin))
    left, top = floor(x + (width - extent) / 2), floor(y + (height - extent) / 2)
    region = max(left, 0), max(top, 0), min(left + extent, image.width), min(top + extent, image.height)
    side = min(extent, _LARGEST)
    x0, y0, x1, y1 = (
        round((value - start) * side / extent) for value, start in zip(region, (left, top) * 2, strict=True)
    )
    size = max(1, x1 - x0), max(1, y1 - y0)
    pixels = _cut(image, region, size)
    if config.background != "keep":
        hidden = Image.new("RGB", size, _GREY)
        if config.background == "blur":
            hidden = pixels.filter(ImageFilter.GaussianBlur(_BLUR * side))
        # Masks are encoded column by column; turned after it is small, a large one is read once.
        alpha = Image.fromarray(_decode_columns(rle, region) * np.uint8(255))
        turned = _cut(alpha, (0, 0, *alpha.size), size[::-1]).transpose(Image.Transpose.TRANSPOSE)
        pixels = Image.composite(pixels, hidden, turned)
    canvas = Image.new("RGB", (side, side), _GREY)
    canvas.paste(pixels, (x0, y0))
    return canvas


def _cut(image: Image.Image, region: _Box, size: tuple[int, int]) -> Image.Image:
    """Resize a region, without ever copying it at its full size."""
    return image.resize(size, Image.Resampling.BILINEAR, box=region, reducing_gap=3.0)


def _decode_columns(rle: RLE, region: _Box) -> UInt8[np.ndarray, "w h"]:
    """Decode a part of a mask, column by column: 1 inside. Other columns are not written at all."""
    x0, y0, x1, y1 = region
    height = rle["size"][0]
    ends = _run_lengths(rle["counts"]).cumsum() - x0 * height  # runs of background and foreground, in turn
    starts, stops = ends[:-1:2], ends[1::2]
    columns = np.zeros(((x1 - x0) * height), np.uint8)
    touching = (stops > 0) & (starts < len(columns))
    for start, stop in zip(starts[touching].clip(min=0), stops[touching], strict=True):
        columns[start:stop] = 1
    return columns.reshape(-1, height)[:, y0:y1]


def _run_lengths(counts: str) -> Int[np.ndarray, "r"]:
    """Undo the compression of `pycocotools`.

    A number is written in characters of 5 bits, lowest first; a sixth bit says that more follow, and the highest bit of
    the last is the sign. From the fourth on, numbers are differences to the run before the last.
    """
    characters = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(characters & 32 == 0)
    first = np.append(0, last[:-1] + 1)
    length = last - first + 1
    shifts = 5 * (np.arange(len(characters)) - np.repeat(first, length))
    numbers = np.add.reduceat((characters & 31) << shifts, first)
    numbers -= np.where(characters[last] & 16, np.int64(1) << 5 * length, 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers

"""Upsample low-resolution mask logits to the original image in one resize, and measure masks without upsampling them.

Segment Anything resizes masks twice, bilinearly: to the model frame, whose padding is then cropped away, and to the
original size. Both steps are linear and separable, so together they are a product with two matrices that depend only on
the sizes:

    restored = W_rows @ low_res @ W_columnsᵀ

The result differs by rounding only. A row of either matrix has at most three weights, and those of neighbouring rows
are close together: 64 outputs need a dozen inputs. So the product is computed in blocks of outputs, each with the band
of inputs that it reads (`Bands`), and one strip of the image at a time, which stays in the cache of a CPU.

Weights are positive and sum to one. If all inputs of a tile (a block of rows in a block of columns) are above a
threshold, so are its outputs. Areas and boxes are therefore computed only in tiles with inputs on both sides of a
threshold (`ComposedResize.measure`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from segany.fast.blocks import blocks
from segany.utils.masks import occupied_to_boxes

BLOCK = 64  # outputs along one axis: smaller blocks take more calls, larger ones have longer bands
# Pixels of a strip, for all masks processed together, by device type. On a CPU, one mask at a time.
_PIXELS_AT_ONCE = {"cpu": 1}
_PIXELS_AT_ONCE_ELSEWHERE = 1 << 24


@dataclass(frozen=True, eq=False)
class Bands:
    """One axis of a resize, in blocks of outputs.

    weights  of the inputs in each output; the last block is padded with outputs of 0
    inputs   indices of the consecutive inputs that each block reads
    starts   index of the first input of each block
    sizes    number of outputs in each block
    """

    weights: Float[Tensor, "blocks out band"]
    inputs: Int[Tensor, "blocks band"]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @staticmethod
    @lru_cache(maxsize=128)
    @torch.inference_mode(False)
    def build(cells: int, image_size: int, resized: int, original: int, device: torch.device) -> "Bands":
        """Compose the resizes from `cells` to `image_size` pixels, cropped to `resized`, and to `original` pixels.

        The matrix is found by resizing unit vectors, so its weights are those that PyTorch itself uses.
        """
        units = torch.eye(cells, dtype=torch.float32, device="cpu")
        frame = F.interpolate(units[None], image_size, mode="linear")[..., :resized]
        matrix = F.interpolate(frame, original, mode="linear")[0].T  # (original, cells)
        parts = F.pad(matrix, (0, 0, 0, -original % BLOCK)).unflatten(0, (-1, BLOCK))  # (blocks, out, cells)
        used = (parts != 0).any(1).byte()
        first, last = used.argmax(1), cells - 1 - used.flip(1).argmax(1)
        band = int((last - first).max()) + 1
        starts = first.clamp(max=int(last.max()) + 1 - band)
        inputs = starts[:, None] + torch.arange(band)
        weights = parts.gather(2, inputs[:, None].expand(-1, BLOCK, -1))
        sizes = tuple(min(BLOCK, original - start) for start in range(0, original, BLOCK))
        return Bands(weights.to(device), inputs.to(device), tuple(starts.tolist()), sizes)

    @property
    def length(self) -> int:
        """Total number of outputs."""
        return sum(self.sizes)


@dataclass(frozen=True, eq=False)
class Measurement:
    """Stability score and box of n masks, as `masks.stability_score` and `masks.masks_to_boxes` define them."""

    stability_score: Float[Tensor, "n"]
    boxes: Float[Tensor, "n 4"]  # xyxy in pixels of the original image


@dataclass(frozen=True, eq=False)
class ComposedResize:
    """Both bilinear resizes as one, for logits that cover at least the part of the model frame with the image."""

    rows: Bands
    columns: Bands

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the original image."""
        return self.rows.length, self.columns.length

    def restore_logits(self, low_res: Float[Tensor, "n h w"]) -> Float[Tensor, "n height width"]:
        """Logits at the size of the original image."""
        logits = low_res.new_empty(len(low_res), *self.size)
        with _without_autocast(low_res):
            for masks, rows, strip in self._strips(low_res):
                logits[masks, rows] = strip
        return logits

    def restore_masks(self, low_res: Float[Tensor, "n h w"]) -> Bool[Tensor, "n height width"]:
        """Masks at the size of the original image: where `restore_logits` is above zero."""
        restored = torch.empty((len(low_res), *self.size), dtype=torch.bool, device=low_res.device)
        with _without_autocast(low_res):
            for masks, rows, strip in self._strips(low_res):
                restored[masks, rows] = strip.gt_(0)  # on a CPU, comparing in float and converting is faster
        return restored

    def restore_mask_columns(self, low_res: Float[Tensor, "n h w"]) -> Bool[Tensor, "n width height"]:
        """The masks of `restore_masks` column by column, the order of run-length encoding."""
        return ComposedResize(self.columns, self.rows).restore_masks(low_res.mT)

    def measure(self, low_res: Float[Tensor, "n h w"], offset: float) -> Measurement:
        """Stability score and box of each mask, for thresholds `offset` above and below zero.

        In every strip only the span from the first to the last tile with inputs on both sides of a threshold is
        computed.
        """
        # Column by column, as masks are restored for encoding, so that rounding is the same.
        resize, low_res = ComposedResize(self.columns, self.rows), low_res.mT.contiguous()
        if len(low_res) == 0:
            return Measurement(low_res.new_zeros(0), low_res.new_zeros(0, 4))
        with _without_autocast(low_res):
            groups = [_MaskExtents(resize, low_res[masks], offset) for masks in resize._groups(low_res)]
        inner, outer = (torch.cat(areas) for areas in zip(*(group.areas for group in groups), strict=True))
        # `resize` is transposed, so its rows are the columns of the image.
        columns = torch.cat([group.rows for group in groups]) > 0
        rows = torch.cat([group.columns for group in groups]) > 0
        return Measurement(inner / outer.clamp(min=1), occupied_to_boxes(columns, rows))

    def _groups(self, low_res: Float[Tensor, "n h w"]) -> Iterator[slice]:
        """Masks to process together."""
        at_once = _PIXELS_AT_ONCE.get(low_res.device.type, _PIXELS_AT_ONCE_ELSEWHERE)
        return blocks(len(low_res), at_once // (BLOCK * self.columns.length))

    def _strips(self, low_res: Float[Tensor, "n h w"]) -> Iterator[tuple[slice, slice, Float[Tensor, "_ _ width"]]]:
        """Yield slices of masks and of the image's rows, with their logits."""
        for masks in self._groups(low_res):
            wide = self.resize_columns(low_res[masks])
            for block, size in enumerate(self.rows.sizes):
                yield masks, slice(BLOCK * block, BLOCK * block + size), self.strip(wide, block)

    def resize_columns(self, low_res: Float[Tensor, "n h w"]) -> Float[Tensor, "n h width"]:
        """Resize the rows of the logits to the width of the image."""
        rows, band = low_res.flatten(0, 1), self.columns.weights.shape[2]
        parts = [
            rows[:, start : start + band] @ weights[:size].T
            for start, size, weights in zip(self.columns.starts, self.columns.sizes, self.columns.weights, strict=True)
        ]
        return torch.cat(parts, 1).unflatten(0, low_res.shape[:2])

    def strip(self, wide: Float[Tensor, "n h span"], block: int) -> Float[Tensor, "n out span"]:
        """One block of the image's rows, from the result of `resize_columns`."""
        start, size = self.rows.starts[block], self.rows.sizes[block]
        weights = self.rows.weights[block, :size]
        return weights @ wide[:, start : start + weights.shape[1]]


def _without_autocast(low_res: Tensor) -> torch.autocast:
    """Compute in the dtype of the logits also under autocast: bfloat16 would move pixels across a threshold."""
    return torch.autocast(low_res.device.type, enabled=False)


class _MaskExtents:
    """Areas, rows and columns of a few masks, computed without upsampling all of their pixels.

    areas          pixels above the upper threshold, and pixels above the lower one
    rows, columns  a lower bound of the highest logit in each; above zero exactly where the highest logit is
    """

    areas: list[Int[Tensor, "n"]]
    rows: Float[Tensor, "n height"]
    columns: Float[Tensor, "n width"]

    def __init__(self, resize: ComposedResize, low_res: Float[Tensor, "n h w"], offset: float) -> None:
        self._thresholds = (offset, -offset)
        lowest, highest = _extremes(resize, low_res)
        undecided = [(lowest <= threshold) != (highest <= threshold) for threshold in (0.0, *self._thresholds)]
        spans = _spans(torch.stack(undecided).any(0).any(0))
        for block, span in spans:
            lowest[:, block, span] = -torch.inf  # counted pixel by pixel below
        self._count_tiles(resize, lowest)
        wide = resize.resize_columns(low_res) if spans else low_res
        for block, span in spans:
            first, last = BLOCK * span.start, BLOCK * span.stop
            self._count_pixels(resize.strip(wide[..., first:last], block), BLOCK * block, first)

    def _count_tiles(self, resize: ComposedResize, lowest: Float[Tensor, "n r c"]) -> None:
        """Count whole tiles, each on the same side of every threshold as its lowest input."""
        rows, columns = (torch.tensor(axis.sizes, device=lowest.device) for axis in (resize.rows, resize.columns))
        self.areas = [((lowest > threshold) * rows[:, None] * columns).sum((1, 2)) for threshold in self._thresholds]
        self.rows = lowest.amax(2).repeat_interleave(rows, 1, output_size=resize.rows.length)
        self.columns = lowest.amax(1).repeat_interleave(columns, 1, output_size=resize.columns.length)

    def _count_pixels(self, logits: Float[Tensor, "n out span"], top: int, left: int) -> None:
        """Count the pixels of one span of a strip that starts at row `top` and column `left`."""
        above = torch.empty_like(logits)
        for area, threshold in zip(self.areas, self._thresholds, strict=True):
            area += torch.gt(logits, threshold, out=above).sum((1, 2)).long()  # sums of ones are exact up to 2**24
        for bounds, start, highest in ((self.rows, top, logits.amax(2)), (self.columns, left, logits.amax(1))):
            part = bounds[:, start : start + highest.shape[1]]
            torch.maximum(part, highest, out=part)


def _extremes(
    resize: ComposedResize, low_res: Float[Tensor, "n h w"]
) -> tuple[Float[Tensor, "n r c"], Float[Tensor, "n r c"]]:
    """The lowest and the highest input of every tile."""
    bands = low_res[:, resize.rows.inputs]  # (n, r, band, w)
    columns = resize.columns.inputs
    return bands.amin(2)[..., columns].amin(3), bands.amax(2)[..., columns].amax(3)


def _spans(selected: Bool[Tensor, "r c"]) -> list[tuple[int, slice]]:
    """For each strip with selected tiles, its index and the span from the first to the last of them."""
    first, last = selected.byte().argmax(1), selected.shape[1] - selected.flip(1).byte().argmax(1)
    ends = torch.stack([selected.any(1).long(), first, last], 1).tolist()
    return [(block, slice(start, stop)) for block, (found, start, stop) in enumerate(ends) if found]

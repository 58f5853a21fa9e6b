"""Low-resolution mask logits to logits of the original picture in one resize, and what is measured on the result.

Segment Anything resizes masks twice, bilinearly: to the model frame, whose padding is then cut away, and to the
original size. Both are linear, and treat rows and columns apart, so together they are a product with two matrices that
depend on sizes alone:

    restored = W_rows @ low_res @ W_columnsᵀ

Rounding is all that changes. A row of either matrix has three weights at most, and those of neighbouring rows lie close
together: 64 outputs need a dozen inputs. So the product is taken in blocks of outputs, each with the band of inputs
that it reads (`Bands`), and one strip of the picture at a time, which stays in the cache of a CPU.

Weights are positive and sum to one: where all inputs of a tile (a block of rows in a block of columns) are above a cut,
so are its outputs. Areas and boxes are therefore measured only where a cut passes (`ComposedResize.measure`).
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

BLOCK = 64  # outputs along one axis: fewer take more calls, more take longer bands
# Pixels of a strip, for all masks that are worked on together. A CPU takes one mask at a time.
_PIXELS_AT_ONCE = {"cpu": 1}
_PIXELS_AT_ONCE_ELSEWHERE = 1 << 24


@dataclass(frozen=True, eq=False)
class Bands:
    """One axis of a resize, in blocks of outputs.

    weights  of the inputs in each output; the last block is filled up with outputs of 0
    inputs   the consecutive cells that each block reads
    starts   the first of them
    sizes    outputs in each block
    """

    weights: Float[Tensor, "blocks out band"]
    inputs: Int[Tensor, "blocks band"]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @staticmethod
    @lru_cache(maxsize=128)
    @torch.inference_mode(False)
    def build(cells: int, image_size: int, resized: int, original: int, device: torch.device) -> "Bands":
        """From `cells` low-resolution cells to a frame of `image_size`, of which `resized` are kept, to `original`.

        The columns of a matrix are its answers to unit vectors, so these are the weights that PyTorch uses itself.
        """
        frame = F.interpolate(torch.eye(cells)[None], image_size, mode="linear")[..., :resized]
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
        """Outputs in all."""
        return sum(self.sizes)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What is known of n masks without drawing them; see `masks.stability_score` and `masks.masks_to_boxes`."""

    stability_score: Float[Tensor, "n"]
    boxes: Float[Tensor, "n 4"]  # xyxy


@dataclass(frozen=True, eq=False)
class ComposedResize:
    """Both bilinear resizes as one, for logits that show at least the part of the model frame with the picture."""

    rows: Bands
    columns: Bands

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.rows.length, self.columns.length

    def restore(self, low_res: Float[Tensor, "n h w"]) -> Float[Tensor, "n height width"]:
        """Logits of the original picture."""
        logits = low_res.new_empty(len(low_res), *self.size)
        with _as_given(low_res):
            for masks, rows, strip in self._strips(low_res):
                logits[masks, rows] = strip
        return logits

    def draw(self, low_res: Float[Tensor, "n h w"]) -> Bool[Tensor, "n height width"]:
        """Masks: where `restore` is above zero."""
        drawn = torch.empty((len(low_res), *self.size), dtype=torch.bool, device=low_res.device)
        with _as_given(low_res):
            for masks, rows, strip in self._strips(low_res):
                drawn[masks, rows] = strip.gt_(0)  # on a CPU, comparing as float and converting is faster than to bool
        return drawn

    def draw_columns(self, low_res: Float[Tensor, "n h w"]) -> Bool[Tensor, "n width height"]:
        """The masks of `draw` column by column, as run-length encoding reads them."""
        return ComposedResize(self.columns, self.rows).draw(low_res.mT)

    def measure(self, low_res: Float[Tensor, "n h w"], offset: float) -> Measurement:
        """Stability and box of each mask, for cuts moved by `offset` up and down.

        Of every strip only the span is computed that holds all tiles with inputs on both sides of a cut.
        """
        # Column by column, as masks are drawn for their encoding: the same sums, rounded alike.
        resize, low_res = ComposedResize(self.columns, self.rows), low_res.mT.contiguous()
        if len(low_res) == 0:
            return Measurement(low_res.new_zeros(0), low_res.new_zeros(0, 4))
        with _as_given(low_res):
            tallies = [_Tally(resize, low_res[masks], offset) for masks in resize._groups(low_res)]
        inner, outer = (torch.cat(areas) for areas in zip(*(tally.areas for tally in tallies), strict=True))
        columns, rows = (torch.cat([getattr(tally, axis) for tally in tallies]) > 0 for axis in ("rows", "columns"))
        return Measurement(inner / outer.clamp(min=1), occupied_to_boxes(columns, rows))

    def _groups(self, low_res: Float[Tensor, "n h w"]) -> Iterator[slice]:
        """Masks to be worked on together."""
        at_once = _PIXELS_AT_ONCE.get(low_res.device.type, _PIXELS_AT_ONCE_ELSEWHERE)
        return blocks(len(low_res), at_once // (BLOCK * self.columns.length))

    def _strips(self, low_res: Float[Tensor, "n h w"]) -> Iterator[tuple[slice, slice, Float[Tensor, "_ _ width"]]]:
        """Which masks, which of the picture's rows, and their logits."""
        for masks in self._groups(low_res):
            wide = self.resize_columns(low_res[masks])
            for block, size in enumerate(self.rows.sizes):
                yield masks, slice(BLOCK * block, BLOCK * block + size), self.strip(wide, block)

    def resize_columns(self, low_res: Float[Tensor, "n h w"]) -> Float[Tensor, "n h width"]:
        """All columns of the picture, for every low-resolution row."""
        rows, band = low_res.flatten(0, 1), self.columns.weights.shape[2]
        parts = [
            rows[:, start : start + band] @ weights[:size].T
            for start, size, weights in zip(self.columns.starts, self.columns.sizes, self.columns.weights, strict=True)
        ]
        return torch.cat(parts, 1).unflatten(0, low_res.shape[:2])

    def strip(self, wide: Float[Tensor, "n h span"], block: int) -> Float[Tensor, "n out span"]:
        """One block of the picture's rows."""
        start, size = self.rows.starts[block], self.rows.sizes[block]
        weights = self.rows.weights[block, :size]
        return weights @ wide[:, start : start + weights.shape[1]]


def _as_given(low_res: Tensor) -> torch.autocast:
    """Products in the dtype of their factors, also under autocast: bfloat16 would move pixels across the cuts."""
    return torch.autocast(low_res.device.type, enabled=False)


class _Tally:
    """What is measured on a few masks.

    areas          pixels above the upper and above the lower cut
    rows, columns  a lower bound of the highest logit in each; above zero wherever that is
    """

    areas: list[Int[Tensor, "n"]]
    rows: Float[Tensor, "n height"]
    columns: Float[Tensor, "n width"]

    def __init__(self, resize: ComposedResize, low_res: Float[Tensor, "n h w"], offset: float) -> None:
        self._cuts = (offset, -offset)
        lowest, highest = _extremes(resize, low_res)
        undecided = [(lowest <= cut) != (highest <= cut) for cut in (0.0, *self._cuts)]
        spans = _spans(torch.stack(undecided).any(0).any(0))
        for block, span in spans:
            lowest[:, block, span] = -torch.inf  # nothing is known yet
        self._count_tiles(resize, lowest)
        wide = resize.resize_columns(low_res) if spans else low_res
        for block, span in spans:
            first, last = BLOCK * span.start, BLOCK * span.stop
            self._count_pixels(resize.strip(wide[..., first:last], block), BLOCK * block, first)

    def _count_tiles(self, resize: ComposedResize, lowest: Float[Tensor, "n r c"]) -> None:
        """Tiles that are on one side of every cut: that of `lowest`."""
        rows, columns = (torch.tensor(axis.sizes, device=lowest.device) for axis in (resize.rows, resize.columns))
        self.areas = [((lowest > cut) * rows[:, None] * columns).sum((1, 2)) for cut in self._cuts]
        self.rows = lowest.amax(2).repeat_interleave(rows, 1, output_size=resize.rows.length)
        self.columns = lowest.amax(1).repeat_interleave(columns, 1, output_size=resize.columns.length)

    def _count_pixels(self, logits: Float[Tensor, "n out span"], top: int, left: int) -> None:
        """Pixels of one span of a strip, of which the first row and column are given."""
        above = torch.empty_like(logits)
        for area, cut in zip(self.areas, self._cuts, strict=True):
            area += torch.gt(logits, cut, out=above).sum((1, 2)).long()  # sums of ones are exact in float up to 2**24
        for seen, start, highest in ((self.rows, top, logits.amax(2)), (self.columns, left, logits.amax(1))):
            part = seen[:, start : start + highest.shape[1]]
            torch.maximum(part, highest, out=part)


def _extremes(
    resize: ComposedResize, low_res: Float[Tensor, "n h w"]
) -> tuple[Float[Tensor, "n r c"], Float[Tensor, "n r c"]]:
    """The lowest and the highest input of every tile."""
    bands = low_res[:, resize.rows.inputs]  # (n, r, band, w)
    columns = resize.columns.inputs
    return bands.amin(2)[..., columns].amin(3), bands.amax(2)[..., columns].amax(3)


def _spans(wanted: Bool[Tensor, "r c"]) -> list[tuple[int, slice]]:
    """From the first to the last wanted tile of each strip of tiles that has any."""
    first, last = wanted.byte().argmax(1), wanted.shape[1] - wanted.flip(1).byte().argmax(1)
    ends = torch.stack([wanted.any(1).long(), first, last], 1).tolist()
    return [(block, slice(start, stop)) for block, (found, start, stop) in enumerate(ends) if found]

"""COCO's run-length encoding (RLE) of masks: conversions, and measures on encoded masks.

Runs are column by column and start with background. What comes from a file or from a client goes through `check_rle`
or `rle_from_polygons` first: pycocotools checks nothing, and reads and writes beyond its memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from reprlib import repr as shortened  # of a huge list the beginning
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64, UInt8
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from segany.errors import MaskError
from segany.utils.polygons import check_ring, check_size

_NUMBER_LENGTH = 7  # characters of 5 bits: differences of two runs, which are below 2**32, and a sign


class RLE(TypedDict):
    """COCO run-length encoding of one mask; can be written as JSON."""

    size: list[int]  # [height, width]
    counts: str  # compressed run lengths, column by column


def check_rle(encoding: object, image_size: tuple[int, int] | None = None) -> RLE:
    """Return a mask from outside as compressed run lengths that fit its size, which are safe for pycocotools.

    Takes time and memory by the length of what is given, never by what it says of itself.

    Args:
        encoding: {"size": [height, width], "counts": ...} with counts in COCO's compressed form, text or bytes, or as a
            list of run lengths. Whole numbers may be written 12.0, and those of the size as text.
        image_size: (height, width) that the mask must have; None if it may have any.

    Returns:
        A compressed form of this mask without runs of no pixels, but for the first.

    Raises:
        MaskError: it is not of this form, or its runs do not add up to height x width.
    """
    if not isinstance(encoding, Mapping) or not {"size", "counts"} <= encoding.keys():
        raise MaskError(f"a mask must be an object with size and counts, got {shortened(encoding)}")
    height, width = check_size(encoding["size"])
    if image_size is not None and (height, width) != tuple(image_size):
        raise MaskError(f"a mask must be of the image's size {list(image_size)}, got {[height, width]}")
    counts = encoding["counts"]
    runs = _run_lengths(counts) if isinstance(counts, str | bytes) else _whole_numbers(counts)
    ends = _check_runs(runs, height * width)
    if isinstance(counts, str) and (runs[1:] > 0).all():
        return RLE(size=[height, width], counts=counts)
    changes, times = np.unique(ends[:-1], return_counts=True)
    return _compress(changes[times % 2 == 1], height, width)  # runs of no pixels join their neighbours


def _whole_numbers(counts: object) -> Int64[np.ndarray, "r"]:
    """Return a list of run lengths as integers."""
    if not isinstance(counts, list | tuple | np.ndarray):
        raise MaskError(f"run lengths must be text or a list, got {shortened(counts)}")
    try:
        numbers = np.asarray(counts)
    except ValueError:  # lists of several lengths
        numbers = np.asarray(None)
    is_numeric = numbers.ndim == 1 and numbers.dtype.kind in "iuf"
    # Beyond 2**53 a float is always whole, and cannot be converted in the end.
    if not is_numeric or not (np.abs(numbers) < 2**53).all() or not (numbers == np.trunc(numbers)).all():
        raise MaskError(f"run lengths must be whole numbers, got {shortened(counts)}")
    return numbers.astype(np.int64)


def _check_runs(runs: Int[np.ndarray, "r"], pixels: int) -> Int[np.ndarray, "r"]:
    """Return the ends of runs that are counts of pixels and add up to `pixels`."""
    lowest, highest = runs.min(initial=0), runs.max(initial=0)
    if lowest < 0 or highest > pixels:
        raise MaskError(f"run lengths must be from 0 to {pixels}, got {lowest if lowest < 0 else highest}")
    ends = runs.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    if total != pixels:
        raise MaskError(f"run lengths must add up to height x width = {pixels}, got {total}")
    return ends


def encode_rle(masks: Bool[Tensor | np.ndarray, "n h w"]) -> list[RLE]:
    """Encode masks as COCO's compressed run lengths."""
    return encode_columns(torch.as_tensor(masks).transpose(1, 2).contiguous())


def encode_columns(
    columns: Bool[Tensor, "n w h"], corner: tuple[int, int] = (0, 0), image_size: tuple[int, int] | None = None
) -> list[RLE]:
    """Encode masks of a crop, stored column by column, as run lengths of the whole image.

    The pixels where a mask changes are found in the crop and shifted to the image, so the masks need not be pasted into
    the image first.

    Args:
        columns: masks of the crop.
        corner: (x, y) of the crop's first pixel in the image.
        image_size: (height, width) of the image; None if the crop is the whole image.
    """
    _, crop_width, crop_height = columns.shape
    height, width = image_size or (crop_height, crop_width)
    left, top = corner
    has_full_height = crop_height == height
    if not has_full_height:
        columns = F.pad(columns, (0, 1))  # background below the crop ends a run
    rles = []
    for changes in _changes(columns.flatten(1)):
        if has_full_height:
            changes = changes + left * height
        else:
            x, y = np.divmod(changes, columns.shape[2])
            changes = (x + left) * height + y + top
        rles.append(_compress(changes, height, width))
    return rles


def _changes(pixels: Bool[Tensor, "n p"]) -> Iterator[Int[np.ndarray, "_"]]:
    """For each mask the indices of pixels that differ from the previous one; before and after a mask is background."""
    if pixels.device.type == "cpu":
        for mask in pixels.numpy():
            inside = np.flatnonzero(mask[1:] != mask[:-1]) + 1
            yield np.concatenate([np.flatnonzero(mask[:1]), inside, np.flatnonzero(mask[-1:]) + mask.size])
    else:
        yield from _changes_on_device(pixels)


def _changes_on_device(pixels: Bool[Tensor, "n p"]) -> list[Int[np.ndarray, "_"]]:
    """`_changes` on a GPU, which copies only the indices to the CPU."""
    if len(pixels) == 0:
        return []
    padded = F.pad(pixels, (1, 1))
    changed = (padded[:, 1:] != padded[:, :-1]).flatten().nonzero().flatten().cpu().numpy()
    masks, indices = np.divmod(changed, pixels.shape[1] + 1)
    return np.split(indices, np.searchsorted(masks, np.arange(1, len(pixels))))


def _compress(changes: Int[np.ndarray, "_"], height: int, width: int) -> RLE:
    ends = np.append(changes[changes < height * width], height * width)
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": np.diff(ends, prepend=0)}, height, width)
    return _as_text(encoded)


def decode_rle(rles: Sequence[RLE], image_size: tuple[int, int] | None = None) -> Bool[Tensor, "n h w"]:
    """Decode masks.

    Args:
        rles: encodings of one size.
        image_size: expected (height, width) in pixels; required if `rles` is empty.

    Raises:
        ValueError: the encodings differ in size from one another or from `image_size`, or both are missing.
    """
    if image_size is None:
        if not rles:
            raise ValueError("decode_rle needs image_size when there are no encodings")
        image_size = (int(rles[0]["size"][0]), int(rles[0]["size"][1]))
    for index, rle in enumerate(rles):
        if tuple(rle["size"]) != tuple(image_size):
            raise ValueError(f"encoding {index} must be of size {list(image_size)}, got {list(rle['size'])}")
    if not rles:
        return torch.zeros((0, *image_size), dtype=torch.bool)
    columns = coco_mask.decode(list(rles)).transpose(2, 1, 0).view(bool)  # (n, w, h)
    return torch.from_numpy(columns).transpose(1, 2).contiguous()


def rle_from_runs(runs: Sequence[int], image_size: tuple[int, int]) -> RLE:
    """A mask from plain run lengths, column by column, background first: COCO's uncompressed form.

    Raises:
        MaskError: the runs do not fit the size.
    """
    return check_rle({"size": image_size, "counts": runs})


def rle_runs(rle: RLE) -> Int[np.ndarray, "r"]:
    """Plain run lengths of a mask, column by column, background first: the inverse of `rle_from_runs`."""
    return _run_lengths(rle["counts"])


def rle_from_polygons(polygons: Sequence[object], image_size: tuple[int, int]) -> RLE:
    """Rasterise the union of one or more polygons as COCO does.

    Args:
        polygons: each [x0, y0, x1, y1, ...] or (k, 2) in pixels, with at least three corners.
        image_size: (height, width).

    Raises:
        MaskError: there is no polygon, or one cannot be drawn by the rules of `segany.utils.polygons.check_ring`.
    """
    if len(polygons) == 0:
        raise MaskError("a mask must have one polygon or more, got none")
    height, width = image_size
    rings = [check_ring(polygon, image_size).ravel().tolist() for polygon in polygons]
    return rle_union(coco_mask.frPyObjects(rings, height, width))


def rle_contains(rles: Sequence[RLE], x: int, y: int) -> Bool[np.ndarray, "n"]:
    """Whether each mask contains the pixel in column `x` and row `y`, which must lie in the image."""
    ends = [np.searchsorted(_run_lengths(r["counts"]).cumsum(), x * r["size"][0] + y, side="right") for r in rles]
    return np.array(ends, dtype=np.int64) % 2 == 1  # every second run is foreground


def decode_columns(rle: RLE, region: tuple[int, int, int, int]) -> UInt8[np.ndarray, "w h"]:
    """Decode a region of a mask, column by column, with 1 for foreground. Does not decode the rest of the mask.

    Args:
        rle: the mask.
        region: x0 y0 x1 y1 in whole pixels within the mask, x1 and y1 exclusive.
    """
    x0, y0, x1, y1 = region
    height = rle["size"][0]
    ends = _run_lengths(rle["counts"]).cumsum() - x0 * height  # background and foreground runs alternate
    starts, stops = ends[:-1:2], ends[1::2]  # of the foreground runs
    columns = np.zeros(((x1 - x0) * height), np.uint8)
    touching = (stops > 0) & (starts < len(columns))
    for start, stop in zip(starts[touching].clip(min=0), stops[touching], strict=True):
        columns[start:stop] = 1
    return columns.reshape(-1, height)[:, y0:y1]


def _run_lengths(counts: str | bytes) -> Int[np.ndarray, "r"]:
    """Decompress the counts of `pycocotools`.

    A number is written in characters of 5 bits, lowest first. A sixth bit marks that more characters follow, and the
    highest bit of the last character is the sign. From the fourth number on, each is the difference to the number two
    before it.

    Raises:
        MaskError: the text is not of this form. What the numbers are is not checked.
    """
    # Beyond ASCII all bytes are greater than those of the 64 characters.
    text = counts if isinstance(counts, bytes) else counts.encode("utf-8", errors="surrogatepass")
    characters = np.frombuffer(text, np.uint8).astype(np.int64) - ord("0")
    if len(characters) == 0:
        return characters
    if characters.min() < 0 or characters.max() > 63 or characters[-1] & 32:
        raise MaskError(f"compressed run lengths must be of the characters 0 to o, and whole, got {shortened(counts)}")
    last = np.flatnonzero(characters & 32 == 0)
    first = np.append(0, last[:-1] + 1)
    length = last - first + 1
    if length.max() > _NUMBER_LENGTH:
        raise MaskError(f"a compressed run length must have up to {_NUMBER_LENGTH} characters, got {length.max()}")
    shifts = 5 * (np.arange(len(characters)) - np.repeat(first, length))
    numbers = np.add.reduceat((characters & 31) << shifts, first)
    numbers -= np.where(characters[last] & 16, np.int64(1) << 5 * length, 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def rle_area(rles: Sequence[RLE]) -> Int64[np.ndarray, "n"]:
    """Number of pixels in each mask."""
    return np.array([coco_mask.area(rle) for rle in rles], dtype=np.int64)


def rle_boxes(rles: Sequence[RLE]) -> Float64[np.ndarray, "n 4"]:
    """Tight xyxy boxes with exclusive x1 and y1; [0, 0, 0, 0] for an empty mask.

    The box of a single pixel has area 1, as in COCO, unlike that of `masks_to_boxes`.
    """
    xywh = np.array([coco_mask.toBbox(rle) for rle in rles], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def rle_iou(a: Sequence[RLE], b: Sequence[RLE], crowds: Sequence[bool] | None = None) -> Float64[np.ndarray, "n m"]:
    """Intersection over union of every mask of `a` with every mask of `b`, all of one size; 0 where both are empty.

    For masks of `b` that are crowds in COCO's sense, marked in `crowds`, the intersection is divided by the area of the
    mask of `a` alone.
    """
    return _overlaps(a, b, [False] * len(b) if crowds is None else crowds)


def rle_containment(a: Sequence[RLE], b: Sequence[RLE]) -> Float64[np.ndarray, "n m"]:
    """The fraction of every mask of `a` that lies in each mask of `b`, all of one size; 0 for an empty mask."""
    return _overlaps(a, b, [True] * len(b))


def _overlaps(a: Sequence[RLE], b: Sequence[RLE], over_first: Sequence[bool]) -> Float64[np.ndarray, "n m"]:
    if not a or not b:
        return np.zeros((len(a), len(b)))  # pycocotools returns an empty list
    return np.asarray(coco_mask.iou(list(a), list(b), [bool(flag) for flag in over_first]), np.float64)


def rle_union(rles: Sequence[RLE]) -> RLE:
    """The union of one or more masks of one size."""
    return _as_text(coco_mask.merge(list(rles)))


def rle_intersection(rles: Sequence[RLE]) -> RLE:
    """The intersection of one or more masks of one size."""
    return _as_text(coco_mask.merge(list(rles), intersect=True))


def _as_text(encoded: dict[str, Any]) -> RLE:
    """Convert the bytes of pycocotools to text, which JSON can store."""
    return RLE(size=[int(side) for side in encoded["size"]], counts=encoded["counts"].decode("ascii"))

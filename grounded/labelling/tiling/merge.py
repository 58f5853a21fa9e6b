"""What several views of a picture show of one object -> one instance.

A view is a rectangle: the whole picture, or a tile of it. A mask that reaches a border of its tile inside the picture
is *cut*: its object may go on beyond. Masks of one phrase in two views are of one object where they agree, which is

- an IoU above one half where both views look, so that a mask agrees with at most one of several that do not overlap. A
  mask that is not cut is all of its object: against it, what the other has elsewhere counts as well.
- or, neither of them cut, nearly one box, as among the detections of a single view.

That goes on from mask to mask, so that an object may reach over many tiles. Of the masks of one object are kept:

1. the best of the tiles' masks that are not cut: tiles show more detail than the whole picture does;
2. else that of the whole picture, which shows the object in one piece: it is too large for a tile, or lies across;
3. else all pieces together.

Then are dropped

- what was seen in the whole picture alone, and is mostly covered by several that tiles show uncut: a group from afar;
- what was seen only in pieces, if most of it lies in another: a part that was not recognised as such, as a leg alone.

Scores are those of the best of all masks of the object.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from pycocotools import mask as coco_mask
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from grounded.data.instances import Instances
from grounded.stages.answers import tight_boxes
from segany.utils.rle import RLE, rle_area

_MOST = 0.5
_NEARLY_ONE_BOX = 0.7  # IoU, as for the detections of one view by default
# Masks are coarser than the picture, and may end a little before the border that cuts their object.
_NEAR_BORDER = 0.01  # of the tile's shorter side


@dataclass(frozen=True, eq=False)
class _Masks:
    """The n masks of one phrase, and how they were seen."""

    rles: Sequence[RLE]
    boxes: Float[np.ndarray, "n 4"]  # the detector's
    view: Int64[np.ndarray, "n"]  # which of the views
    cut: Bool[np.ndarray, "n"]


def join(parts: Sequence[Instances], views: Int64[np.ndarray, "v 4"], groups: Sequence[int] | None = None) -> Instances:
    """Join what was found in each view.

    Args:
        parts: for each view its instances, in the frame of the picture.
        views: xyxy in pixels of the picture, the far sides behind the last pixel.
        groups: for each phrase a number; phrases of one number mean the same. By default all differ.

    Returns:
        one instance for each object, best first. Phrase and scores are those of its best part; mask, box and predicted
        IoU those of the part that is kept, or of pieces put together, the predicted IoU of the best.

    Raises:
        ValueError: there is no view, or not one part for each, or the parts differ in phrases or picture.
    """
    found = Instances.concatenate(parts)
    if len(parts) != len(views):
        raise ValueError(f"parts must be one per view, {len(views)}, got {len(parts)}")
    height, width = found.image_size
    view = np.repeat(np.arange(len(views)), [len(part) for part in parts])
    cut = _is_cut(tight_boxes(found.rles), views[view], found.image_size)
    in_whole = (views[view] == (0, 0, width, height)).all(axis=1)
    meaning = found.phrase_ids if groups is None else np.array(groups, dtype=np.int64)[found.phrase_ids]
    joined = [found[:0]]
    for rows in _rows(meaning):
        masks = _Masks([found.rles[i] for i in rows], found.boxes[rows], view[rows], cut[rows])
        objects = [rows[own] for own in _rows(_numbered(len(rows), _same(masks, views)))]
        one_each = Instances.concatenate([_one(found[own], cut[own], in_whole[own]) for own in objects])
        in_pieces = np.array([bool(cut[own].all()) for own in objects])
        from_afar = np.array([bool(in_whole[own].all()) for own in objects])
        joined.append(one_each[_are_kept(one_each, in_pieces, from_afar)])
    return Instances.concatenate(joined).sorted()


def _is_cut(
    tight: Float[np.ndarray, "n 4"], views: Int64[np.ndarray, "n 4"], image_size: tuple[int, int]
) -> Bool[np.ndarray, "n"]:
    """Whether a mask comes near a border of its view that is not one of the picture; `tight` is the box around it."""
    height, width = image_size
    is_inside = views != (0, 0, width, height)
    near = np.maximum(1, _NEAR_BORDER * np.minimum(views[:, 2] - views[:, 0], views[:, 3] - views[:, 1]))
    return (is_inside & (np.abs(tight - views) < near[:, None])).any(axis=1)


def _same(masks: _Masks, views: Int64[np.ndarray, "v 4"]) -> Iterator[tuple[int, int]]:
    """Pairs of masks in different views that agree."""
    rles, view, cut = masks.rles, masks.view, masks.cut
    height, width = rles[0]["size"]
    areas = rle_area(rles).tolist()
    frames = {i: _rectangle(views[i], height, width) for i in set(view.tolist())}

    def counts(i: int, j: int) -> int:
        """Area of what of mask i must be in mask j, if they are of one object."""
        return _common(rles[i], frames[view[j]]) if cut[j] else areas[i]

    for i, j in _touching(rles):
        if view[i] == view[j]:
            continue
        common = _common(rles[i], rles[j])
        agree = common > _MOST * (counts(i, j) + counts(j, i) - common)
        if agree or not (cut[i] or cut[j] or _box_iou(masks.boxes[i], masks.boxes[j]) <= _NEARLY_ONE_BOX):
            yield i, j


def _touching(rles: Sequence[RLE]) -> Iterator[tuple[int, int]]:
    """Pairs of masks, the lower index first, that share a pixel."""
    overlaps = coco_mask.iou(list(rles), list(rles), [False] * len(rles))
    first, second = np.nonzero(np.triu(overlaps, 1))
    return zip(first.tolist(), second.tolist(), strict=True)


def _one(parts: Instances, cut: Bool[np.ndarray, "k"], in_whole: Bool[np.ndarray, "k"]) -> Instances:
    """The one instance that the parts of an object become."""
    order = np.argsort(-parts.scores, kind="stable")
    best = parts[order[0]]
    for usable in (~cut & ~in_whole, in_whole):
        if usable.any():
            kept = parts[order[usable[order]][0]]
            return replace(best, boxes=kept.boxes, rles=kept.rles, predicted_iou=kept.predicted_iou)
    if len(parts) == 1:
        return best
    merged = coco_mask.merge(list(parts.rles))
    box = np.concatenate([parts.boxes[:, :2].min(axis=0), parts.boxes[:, 2:].max(axis=0)])
    return replace(best, boxes=box[None], rles=(_as_text(merged),))


def _are_kept(
    instances: Instances, in_pieces: Bool[np.ndarray, "n"], from_afar: Bool[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Which instances of a phrase remain: no group of others, and no part of another.

    Args:
        in_pieces: which were seen in tiles, and uncut in none.
        from_afar: which were seen in the whole picture alone.
    """
    rles = list(instances.rles)
    shares = coco_mask.iou(rles, rles, [True] * len(rles))  # in row i and column j, of mask i in mask j
    np.fill_diagonal(shares, 0)
    kept = np.ones(len(rles), bool)
    for i in np.flatnonzero(from_afar):
        members = np.flatnonzero((shares[:, i] > _MOST) & ~in_pieces & ~from_afar)
        if len(members) > 1:
            together = _as_text(coco_mask.merge([rles[j] for j in members]))
            kept[i] = _common(together, rles[i]) <= _MOST * coco_mask.area(rles[i])
    for i in np.argsort(instances.scores, kind="stable"):  # the worst go first
        kept[i] &= not (in_pieces[i] and (shares[i, kept] > _MOST).any())
    return kept


def _rectangle(box: Int64[np.ndarray, "4"], height: int, width: int) -> RLE:
    x0, y0, x1, y1 = box.tolist()
    inside, between = y1 - y0, height - (y1 - y0)  # one run down a column, and one on to the next column
    runs = [x0 * height + y0, *[inside, between] * (x1 - x0 - 1), inside, (width - x1) * height + height - y1]
    return _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def _as_text(encoded: dict[str, Any]) -> RLE:
    """What pycocotools made, with text for bytes."""
    return RLE(size=[int(side) for side in encoded["size"]], counts=encoded["counts"].decode("ascii"))


def _common(a: RLE, b: RLE) -> int:
    """Pixels that two masks share."""
    return int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))


def _box_iou(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"]) -> float:
    xywh = [np.concatenate([box[:2], box[2:] - box[:2]]).astype(np.float64)[None] for box in (a, b)]
    return float(coco_mask.iou(*xywh, [False])[0, 0])


def _numbered(n: int, pairs: Iterable[tuple[int, int]]) -> Int64[np.ndarray, "n"]:
    """Number n things so that those in a pair, and so on from pair to pair, have the same number."""
    ends = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _rows(numbers: Int64[np.ndarray, "n"]) -> list[Int64[np.ndarray, "_"]]:
    """The rows of each number, in ascending order of the numbers."""
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]

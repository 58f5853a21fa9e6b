"""Merges the instances that several views of one image show of the same object.

A view is a rectangle: the whole image, or a tile of it. A mask that reaches a border of its tile inside the image
is *cut*: its object may go on beyond. Masks of one phrase in two views are of one object if they agree, which means

- an IoU above one half where both views overlap, so that a mask agrees with at most one of several that do not overlap.
  A mask that is not cut shows all of its object: against it, the parts of the other mask elsewhere count as well.
- or, if neither is cut, nearly the same box, as among the detections of a single view.

Agreement is passed on from mask to mask, so that an object may reach over many tiles. Of the masks of one object the
first of these is used:

1. the best of the tiles' masks that are not cut: tiles show more detail than the whole image does;
2. else that of the whole image, which shows the object in one piece: it is too large for a tile, or lies across;
3. else the union of all pieces.

Then dropped are

- instances seen in the whole image alone, mostly covered by several that tiles show uncut: a group from afar;
- instances seen only in pieces, of which most lies in another: an unrecognised part of it, as a leg alone.

Scores are those of the best of all masks of the object.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from grounded.data.instances import Instances
from segany.utils.boxes import box_iou
from segany.utils.rle import (
    RLE,
    rle_area,
    rle_boxes,
    rle_containment,
    rle_from_runs,
    rle_intersection,
    rle_iou,
    rle_union,
)

_MAJORITY = 0.5
_SAME_BOX_IOU = 0.7  # as for the detections of one view by default
# Masks are coarser than the image, and may end a little before the border that cuts their object.
_BORDER_MARGIN = 0.01  # of the tile's shorter side


@dataclass(frozen=True, eq=False)
class _Masks:
    """The n masks of one phrase, and the views that show them."""

    rles: Sequence[RLE]
    boxes: Float[np.ndarray, "n 4"]  # the detector's
    view: Int64[np.ndarray, "n"]  # index of the view
    cut: Bool[np.ndarray, "n"]


def merge_views(
    parts: Sequence[Instances], views: Int64[np.ndarray, "v 4"], groups: Sequence[int] | None = None
) -> Instances:
    """Merge the instances of all views.

    Args:
        parts: for each view its instances, in the frame of the image.
        views: xyxy in pixels of the image, the far sides behind the last pixel.
        groups: for each phrase a number; phrases of one number mean the same. By default all differ.

    Returns:
        one instance per object, best first. Phrase and scores are those of its best part; mask, box and predicted IoU
        those of the part that is used, or, for a union of pieces, the predicted IoU of the best.

    Raises:
        ValueError: there is no view, or not one part for each, or the parts differ in phrases or image.
    """
    found = Instances.concatenate(parts)
    if len(parts) != len(views):
        raise ValueError(f"parts must be one per view, {len(views)}, got {len(parts)}")
    height, width = found.image_size
    view = np.repeat(np.arange(len(views)), [len(part) for part in parts])
    cut = _is_cut(rle_boxes(found.rles), views[view], found.image_size)
    in_whole = (views[view] == (0, 0, width, height)).all(axis=1)
    group = found.phrase_ids if groups is None else np.array(groups, dtype=np.int64)[found.phrase_ids]
    merged = [found[:0]]
    for rows in _rows_by_number(group):
        masks = _Masks([found.rles[i] for i in rows], found.boxes[rows], view[rows], cut[rows])
        object_ids = _connected_components(len(rows), _agreeing_pairs(masks, views))
        objects = [rows[own] for own in _rows_by_number(object_ids)]
        instances = Instances.concatenate([_merge_object(found[own], cut[own], in_whole[own]) for own in objects])
        in_pieces = np.array([bool(cut[own].all()) for own in objects])
        from_afar = np.array([bool(in_whole[own].all()) for own in objects])
        merged.append(instances[_is_separate(instances, in_pieces, from_afar)])
    return Instances.concatenate(merged).sorted()


def _is_cut(
    tight_boxes: Float[np.ndarray, "n 4"], views: Int64[np.ndarray, "n 4"], image_size: tuple[int, int]
) -> Bool[np.ndarray, "n"]:
    """Whether a mask, with its tight box, comes near a border of its view that is not one of the image."""
    height, width = image_size
    is_inside = views != (0, 0, width, height)
    shorter_side = np.minimum(views[:, 2] - views[:, 0], views[:, 3] - views[:, 1])
    margin = np.maximum(1, _BORDER_MARGIN * shorter_side)
    return (is_inside & (np.abs(tight_boxes - views) < margin[:, None])).any(axis=1)


def _agreeing_pairs(masks: _Masks, views: Int64[np.ndarray, "v 4"]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of masks in different views that agree."""
    rles, view, cut = masks.rles, masks.view, masks.cut
    height, width = rles[0]["size"]
    areas = rle_area(rles).tolist()
    view_rles = {i: _draw_rectangle(views[i], height, width) for i in set(view.tolist())}

    def area_that_counts(i: int, j: int) -> int:
        """Pixels of mask i that mask j must have, if both are of one object."""
        return _shared_area(rles[i], view_rles[view[j]]) if cut[j] else areas[i]

    first, second = np.nonzero(np.triu(rle_iou(rles, rles), 1))
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if view[i] == view[j]:
            continue
        shared = _shared_area(rles[i], rles[j])
        agree = shared > _MAJORITY * (area_that_counts(i, j) + area_that_counts(j, i) - shared)
        if agree or not (cut[i] or cut[j] or _iou_of_boxes(masks.boxes[i], masks.boxes[j]) <= _SAME_BOX_IOU):
            yield i, j


def _merge_object(parts: Instances, cut: Bool[np.ndarray, "k"], in_whole: Bool[np.ndarray, "k"]) -> Instances:
    """Return the one instance of an object, from all its k parts."""
    order = np.argsort(-parts.scores, kind="stable")
    best = parts[order[0]]
    for usable in (~cut & ~in_whole, in_whole):
        if usable.any():
            chosen = parts[order[usable[order]][0]]
            return replace(best, boxes=chosen.boxes, rles=chosen.rles, predicted_iou=chosen.predicted_iou)
    if len(parts) == 1:
        return best
    box = np.concatenate([parts.boxes[:, :2].min(axis=0), parts.boxes[:, 2:].max(axis=0)])
    return replace(best, boxes=box[None], rles=(rle_union(parts.rles),))


def _is_separate(
    instances: Instances, in_pieces: Bool[np.ndarray, "n"], from_afar: Bool[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Whether an instance of a phrase is neither a group of others nor a part of another.

    Args:
        instances: one per object.
        in_pieces: whether it was seen in tiles, and uncut in none.
        from_afar: whether it was seen in the whole image alone.
    """
    rles = list(instances.rles)
    containment = rle_containment(rles, rles)  # in row i and column j, of mask i in mask j
    np.fill_diagonal(containment, 0)
    separate = np.ones(len(rles), bool)
    for i in np.flatnonzero(from_afar):
        members = np.flatnonzero((containment[:, i] > _MAJORITY) & ~in_pieces & ~from_afar)
        if len(members) > 1:
            covered = _shared_area(rle_union([rles[j] for j in members]), rles[i])
            separate[i] = covered <= _MAJORITY * rle_area([rles[i]])[0]
    for i in np.argsort(instances.scores, kind="stable"):  # the worst go first
        separate[i] &= not (in_pieces[i] and (containment[i, separate] > _MAJORITY).any())
    return separate


def _draw_rectangle(box: Int64[np.ndarray, "4"], height: int, width: int) -> RLE:
    x0, y0, x1, y1 = box.tolist()
    inside, between = y1 - y0, height - (y1 - y0)  # one run down a column, and one on to the next column
    runs = [x0 * height + y0, *[inside, between] * (x1 - x0 - 1), inside, (width - x1) * height + height - y1]
    return rle_from_runs(runs, (height, width))


def _shared_area(a: RLE, b: RLE) -> int:
    """Number of pixels that two masks share."""
    return int(rle_area([rle_intersection([a, b])])[0])


def _iou_of_boxes(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"]) -> float:
    return float(box_iou(*(torch.from_numpy(box[None].astype(np.float64)) for box in (a, b))))


def _connected_components(n: int, pairs: Iterable[tuple[int, int]]) -> Int64[np.ndarray, "n"]:
    """Number n things so that those in a pair, and so on from pair to pair, have the same number."""
    ends = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _rows_by_number(numbers: Int64[np.ndarray, "n"]) -> list[Int64[np.ndarray, "_"]]:
    """The rows of each number, in ascending order of the numbers."""
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]

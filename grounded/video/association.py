"""Which detected instance is which track: by the overlap of masks, then by what they look like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment

from segany.utils.rle import RLE, rle_area, rle_iou

ANY_PHRASE = -1


@dataclass(frozen=True, eq=False)
class Association:
    """What the n detected instances of a key frame are.

    track   (n) the row of the track of each instance, -1 for none
    seen    (n) whether that track had been in sight, rather than lost and found again
    """

    track: Int64[np.ndarray, "n"]
    seen: Bool[np.ndarray, "n"]

    @property
    def new(self) -> Int64[np.ndarray, "m"]:
        """Rows of the instances that belong to no track."""
        return np.flatnonzero(self.track < 0)


def associate(
    rles: Sequence[RLE],
    phrase_ids: Int64[np.ndarray, "n"],
    track_rles: Sequence[RLE],
    track_phrase_ids: Int64[np.ndarray, "t"],
    cosines: Float[np.ndarray, "n t"] | None,
    *,
    iou_threshold: float,
    cosine_threshold: float,
) -> Association:
    """Give each instance the track that it continues, one to one.

    First the assignment of the highest total IoU (Kuhn, 1955) among pairs of one phrase that overlap by the threshold
    at least, so that crossing objects are told apart together rather than one after the other. Then instances that are
    left are compared with tracks of their phrase that are out of sight, likewise by the cosine of their appearance.

    Args:
        rles: n detected masks.
        phrase_ids: of each.
        track_rles: the masks that the t tracks have in this frame, empty for those out of sight.
        track_phrase_ids: of each; ANY_PHRASE for one that any phrase may name.
        cosines: of the appearance of each instance and each track; None: lost tracks are not found again.
        iou_threshold: lowest IoU with a track in sight.
        cosine_threshold: lowest cosine with a lost track.
    """
    alike = (phrase_ids[:, None] == track_phrase_ids[None, :]) | (track_phrase_ids == ANY_PHRASE)[None, :]
    track, seen = np.full(len(rles), -1, np.int64), np.zeros(len(rles), bool)
    if not len(rles) or not len(track_rles):
        return Association(track, seen)
    in_sight = rle_area(track_rles) > 0
    overlaps = np.where(alike, rle_iou(rles, track_rles), 0)
    for row, column in _assign(overlaps, iou_threshold):
        track[row], seen[row] = column, True
    if cosines is not None:
        lost = ~in_sight & ~np.isin(np.arange(len(track_rles)), track)
        candidates = np.where(alike & lost[None, :] & (track < 0)[:, None], cosines, -1)
        for row, column in _assign(candidates, cosine_threshold):
            track[row] = column
    return Association(track, seen)


def _assign(gains: Float[np.ndarray, "n t"], threshold: float) -> list[tuple[int, int]]:
    """Pairs of the assignment with the highest total gain, of those whose gain reaches the threshold."""
    allowed = np.where(gains >= threshold, gains, 0)
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column] > 0]


def distinct_tracks(
    rles: Sequence[RLE], phrase_ids: Int64[np.ndarray, "t"], ids: Int64[np.ndarray, "t"], threshold: float
) -> Bool[np.ndarray, "t"]:
    """Whether each track stays when two of one phrase follow the same object: the older, of the lower id, stays.

    Args:
        rles: the masks of t tracks in one frame.
        phrase_ids: of each.
        ids: of each, in the order in which they were first seen.
        threshold: IoU above which two masks are the same.
    """
    stays = np.ones(len(rles), bool)
    if len(rles) > 1:
        overlaps = np.where(phrase_ids[:, None] == phrase_ids[None, :], rle_iou(rles, rles), 0)
        for row in np.argsort(ids).tolist():
            if stays[row]:
                stays[(overlaps[row] > threshold) & (ids > ids[row])] = False
    return stays

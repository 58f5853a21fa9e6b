"""J and F of each object of a clip, and which prediction is which object: the two protocols of DAVIS."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from grounded.errors import ResultError
from grounded.evaluation.video.davis import Statistics, statistics
from grounded.evaluation.video.frames import FrameComparison


@dataclass(frozen=True)
class ObjectMeasures:
    """How well the masks of one object of a clip are found.

    id          of the object
    prediction  id of the track that was compared with it; None where there was none
    frames      how many were measured
    region      J
    boundary    F
    """

    id: int
    prediction: int | None
    frames: int
    region: Statistics
    boundary: Statistics

    @property
    def mean(self) -> float:
        """J&F, the mean of the means of both."""
        return (self.region.mean + self.boundary.mean) / 2


def measure_given_objects(
    name: str, frames: Sequence[FrameComparison], first_seen: dict[int, int], last: int
) -> tuple[ObjectMeasures, ...]:
    """Measure objects whose masks were given to be tracked: DAVIS 2017, semi-supervised (Pont-Tuset et al., 2017).

    A prediction has the id of its object. The frame in which an object is first seen, and the last frame of the clip,
    are left out. Objects that have no frame then are left out.

    Args:
        name: of the clip.
        frames: of the clip, ascending.
        first_seen: number of the frame in which each true object is first seen.
        last: number of the last frame.

    Raises:
        ResultError: a prediction has an id that no object has.
    """
    unknown = {id for frame in frames for id in frame.predicted_ids} - first_seen.keys()
    if unknown:
        raise ResultError(
            f"clip {name}: the prediction must have the ids of the truth, {sorted(first_seen)}, got {sorted(unknown)}; "
            "--match-ids finds out which is which"
        )
    measured = []
    for id, since in sorted(first_seen.items()):
        between = [frame for frame in frames if since < frame.number < last]
        if between:
            measured.append(_measure_object(id, id, between))
    return tuple(measured)


def measure_matched_objects(frames: Sequence[FrameComparison]) -> tuple[ObjectMeasures, ...]:
    """Measure objects that nobody pointed out: DAVIS 2019, unsupervised (Caelles et al., 2019).

    Each object is compared with one prediction, so that the sum of J&F is highest; all frames count.
    """
    truths = sorted({id for frame in frames for id in frame.truth_ids})
    predictions = sorted({id for frame in frames for id in frame.predicted_ids})
    if not truths:
        return ()
    # J&F is 1 in frames without either object, and 0 where one is in sight, but for what `masks` holds.
    is_seen = np.array([[id in frame.truth_ids for id in truths] for frame in frames], bool)
    is_found = np.array([[id in frame.predicted_ids for id in predictions] for frame in frames], bool)
    lacking = max(0, len(truths) - len(predictions))  # as many predictions are added, which find nothing
    is_found = np.pad(is_found.reshape(len(frames), -1), ((0, 0), (0, lacking)))
    columns: list[int | None] = [*predictions, *[None] * lacking]
    sums = (~is_seen).T.astype(np.float64) @ (~is_found).astype(np.float64)
    for index, frame in enumerate(frames):
        rows = {id: np.array([truths.index(id)]) for id in frame.truth_ids}
        places = {id: np.array([predictions.index(id)]) for id in frame.predicted_ids}
        unseen, unfound = np.flatnonzero(~is_seen[index]), np.flatnonzero(~is_found[index])
        for (a, b), measure in (frame.masks or {}).items():
            sums[np.ix_(unseen if a is None else rows[a], unfound if b is None else places[b])] += measure.mean
    chosen = linear_sum_assignment(sums, maximize=True)
    return tuple(_measure_object(truths[a], columns[b], frames) for a, b in zip(*chosen, strict=True))


def _measure_object(id: int, prediction: int | None, frames: Sequence[FrameComparison]) -> ObjectMeasures:
    values = np.array([frame.masks_of(id, prediction) for frame in frames], np.float64)
    return ObjectMeasures(id, prediction, len(frames), statistics(values[:, 0]), statistics(values[:, 1]))

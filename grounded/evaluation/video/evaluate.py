"""Measures predicted clips against the truth, frame by frame: by the protocol of DAVIS, by tracks, or both."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from grounded.errors import ResultError
from grounded.evaluation.video.davis import Statistics
from grounded.evaluation.video.frames import FrameComparison, compare_frame
from grounded.evaluation.video.objects import ObjectMeasures, measure_given_objects, measure_matched_objects
from grounded.evaluation.video.sources import ClipPair
from grounded.evaluation.video.tracks import ClipTracks, TrackMeasures, join_tracks, load_metrics, measure_clip_tracks

Protocol: TypeAlias = Literal["davis", "tracks", "all"]
_THREADS = min(4, os.cpu_count() or 1)  # reading and boundaries leave Python's lock, little else does


@dataclass(frozen=True)
class ClipMeasures:
    """What was measured of one clip.

    frames   how many were compared
    objects  J and F of each object; empty where only tracks were measured
    tracks   None where only J and F were measured
    """

    name: str
    frames: int
    objects: tuple[ObjectMeasures, ...]
    tracks: TrackMeasures | None


@dataclass(frozen=True)
class VideoEvaluation:
    """What was measured of all clips.

    region    J, the mean over all objects of all clips; None where none was measured
    boundary  F, likewise
    tracks    of all clips together; None where only J and F were measured
    notes     what could not be measured
    """

    clips: tuple[ClipMeasures, ...]
    region: Statistics | None
    boundary: Statistics | None
    tracks: TrackMeasures | None
    notes: tuple[str, ...] = field(default=())

    @property
    def mean(self) -> float | None:
        """J&F, the mean of both."""
        return (self.region.mean + self.boundary.mean) / 2 if self.region and self.boundary else None


def evaluate_clips(
    pairs: Sequence[ClipPair],
    protocol: Protocol = "all",
    *,
    match_ids: bool = False,
    on_frame: Callable[[], object] = lambda: None,
) -> VideoEvaluation:
    """Measure clips; a few frames are in memory at a time, and of the others a few numbers.

    Args:
        pairs: truths and predictions.
        protocol: "davis" for J and F, "tracks" for HOTA, IDF1, MOTA, switches and returns, or "all".
        match_ids: for J and F, find out which prediction is which object, as DAVIS 2019 does; otherwise predictions
            have the ids of their objects, as where masks were given.
        on_frame: called after each frame.

    Raises:
        ResultError: a frame cannot be read, sizes differ, an id does not exist, there is nothing to measure, or J and F
            are asked for of boxes.
        ConfigError: TrackEval, which measures tracks, is not installed.
    """
    if protocol != "davis":
        load_metrics()  # before minutes are spent on frames
    clips: list[ClipMeasures] = []
    tracks: list[ClipTracks] = []
    notes: list[str] = []
    for pair in pairs:
        frames = []
        for frame in _compare_frames(pair, protocol, match_ids):
            frames.append(frame)
            on_frame()
        objects: tuple[ObjectMeasures, ...] = ()
        if protocol != "tracks":
            objects = _measure_objects(pair, frames, protocol, match_ids, notes)
        if protocol != "davis":
            tracks.append(measure_clip_tracks(frames))
        measures = join_tracks(tracks[-1:]) if protocol != "davis" else None
        clips.append(ClipMeasures(pair.truth.name, len(frames), objects, measures))
    everything = [one for clip in clips for one in clip.objects]
    if protocol == "davis" and not everything:
        raise ResultError("there is no object to measure J and F of" + "".join(f"; {note}" for note in notes))
    return VideoEvaluation(
        clips=tuple(clips),
        region=_mean([one.region for one in everything]),
        boundary=_mean([one.boundary for one in everything]),
        tracks=join_tracks(tracks) if tracks else None,
        notes=tuple(notes),
    )


def _measure_objects(
    pair: ClipPair, frames: Sequence[FrameComparison], protocol: Protocol, match_ids: bool, notes: list[str]
) -> tuple[ObjectMeasures, ...]:
    """J and F of the objects of a clip; what cannot be measured is noted."""
    name = pair.truth.name
    if any(frame.masks is None for frame in frames):
        if protocol == "davis":
            raise ResultError(f"clip {name}: J and F need masks, got boxes: --protocol tracks measures those")
        notes.append(f"{name}: J and F are not measured, of boxes")
        return ()
    if match_ids:
        return measure_matched_objects(frames)
    first, last = pair.numbers[0], pair.numbers[-1]
    first_seen = dict.fromkeys(pair.truth.read(first).ids, first)
    for frame in frames:
        for id in frame.truth_ids:
            first_seen.setdefault(id, frame.number)
    objects = measure_given_objects(name, frames, first_seen, last)
    left_out = sorted(first_seen.keys() - {one.id for one in objects})
    if left_out:
        notes.append(f"{name}: objects that are first seen in the last two frames are not measured: {left_out}")
    return objects


def _compare_frames(pair: ClipPair, protocol: Protocol, match_ids: bool) -> Iterator[FrameComparison]:
    """Compare the frames of a clip in their order, several at a time."""
    numbers = pair.numbers
    if protocol == "davis" and not match_ids:
        numbers = numbers[1:-1]
    waiting: deque[Future[FrameComparison]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for number in numbers:
                measure_masks = protocol != "tracks"
                waiting.append(
                    pool.submit(compare_frame, pair, number, measure_masks=measure_masks, same_ids=not match_ids)
                )
                if len(waiting) > _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _mean(values: Sequence[Statistics]) -> Statistics | None:
    """The mean over objects, each of which counts the same."""
    return Statistics(*np.mean(values, axis=0).tolist()) if values else None

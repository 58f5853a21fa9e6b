"""HOTA, IDF1, MOTA and identity switches of tracks, through TrackEval, and how often objects that return are found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from grounded.errors import ConfigError
from grounded.evaluation.video.frames import MATCH, FrameComparison

ABSENCE = 4  # frames that an object is out of sight at least, to have left
SEARCH = 8  # frames from its return on, within which it must be found again


@dataclass(frozen=True)
class TrackMeasures:
    """How well tracks follow the objects of a clip, or of several together; None where a measure is not defined.

    hota      geometric mean of DetA and AssA, averaged over IoU thresholds 0.05 to 0.95 (Luiten et al., 2020)
    deta      how well objects are detected
    assa      how well detections of an object stay together
    loca      mean IoU of matched objects
    idf1      F1 of frames in which an object has the track that is its own (Ristani et al., 2016), at IoU 0.5
    mota      1 less the share of misses, false alarms and switches (Bernardin and Stiefelhagen, 2008), at IoU 0.5
    switches  how often an object is matched by another track than before, in the matching of MOTA
    objects   how many true objects there are
    returns   how often objects left and came back
    found     how often they were found again then, see `count_returns`
    """

    hota: float | None
    deta: float | None
    assa: float | None
    loca: float | None
    idf1: float | None
    mota: float | None
    switches: int
    objects: int
    returns: int
    found: int

    @property
    def switches_per_object(self) -> float | None:
        return self.switches / self.objects if self.objects else None

    @property
    def found_again(self) -> float | None:
        """The share of returns after which the object was found again."""
        return self.found / self.returns if self.returns else None


@dataclass(frozen=True, eq=False)
class ClipTracks:
    """TrackEval's results on one clip, which can be joined with those of others."""

    results: Mapping[str, Mapping[str, Any]]  # by the name of the metric
    objects: int
    tracks: int
    returns: int
    found: int


def measure_clip_tracks(frames: Sequence[FrameComparison]) -> ClipTracks:
    """Measure the tracks of a clip from the IoU of its objects, of masks as in MOTS or boxes as in MOT.

    Raises:
        ConfigError: TrackEval is not installed.
    """
    truths, tracks = _rows(frame.truth_ids for frame in frames), _rows(frame.counted_ids for frame in frames)
    data = {
        "num_timesteps": len(frames),
        "num_gt_ids": len(truths),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(len(frame.truth_ids) for frame in frames),
        "num_tracker_dets": sum(len(frame.counted_ids) for frame in frames),
        "gt_ids": [np.array([truths[id] for id in frame.truth_ids], np.int64) for frame in frames],
        "tracker_ids": [np.array([tracks[id] for id in frame.counted_ids], np.int64) for frame in frames],
        "similarity_scores": [frame.iou for frame in frames],
    }
    results = {name: metric.eval_sequence(data) for name, metric in load_metrics().items()}
    return ClipTracks(results, len(truths), len(tracks), *count_returns(frames))


def join_tracks(clips: Sequence[ClipTracks]) -> TrackMeasures:
    """Measure clips together, as TrackEval joins sequences: matches are added up, each object counts by its frames."""
    joined = {}
    for name, metric in load_metrics().items():
        joined[name] = metric.combine_sequences({str(i): clip.results[name] for i, clip in enumerate(clips)})
    objects = sum(clip.objects for clip in clips)
    is_measured = bool(objects or any(clip.tracks for clip in clips))

    def value(metric: str, name: str, is_defined: bool = is_measured) -> float | None:
        return float(np.mean(joined[metric][name])) if is_defined else None

    return TrackMeasures(
        hota=value("HOTA", "HOTA"),
        deta=value("HOTA", "DetA"),
        assa=value("HOTA", "AssA"),
        loca=value("HOTA", "LocA", is_defined=bool(joined["HOTA"]["HOTA_TP"][0])),
        idf1=value("Identity", "IDF1"),
        mota=value("CLEAR", "MOTA", is_defined=bool(objects)),
        switches=int(joined["CLEAR"]["IDSW"]),
        objects=objects,
        returns=sum(clip.returns for clip in clips),
        found=sum(clip.found for clip in clips),
    )


def count_returns(frames: Sequence[FrameComparison]) -> tuple[int, int]:
    """Count how often objects left and returned, and after how many returns they were found again.

    An object left when it is in sight, then for 4 frames of the truth or more not, then again. Its track is the one
    that matched it last before it left: that of the highest IoU in the frame, 0.5 or more. It is found again when that
    track, of the same id, has an IoU of 0.5 or more with it in one of the 8 frames from the return on. An object that
    no track had matched before it left is not found again.

    Returns:
        returns, and those of them after which the object was found again.
    """
    returns = found = 0
    for id in {id for frame in frames for id in frame.truth_ids}:
        in_sight = [index for index, frame in enumerate(frames) if id in frame.truth_ids]
        for last, first in pairwise(in_sight):
            if first - last <= ABSENCE:
                continue
            returns += 1
            before = (best_track(frames[index], id) for index in range(last, -1, -1))
            track = next((track for track in before if track is not None), None)
            after = frames[first : first + SEARCH]
            found += track is not None and any(_iou(frame, id, track) >= MATCH for frame in after)
    return returns, found


def best_track(frame: FrameComparison, id: int) -> int | None:
    """The track that matches an object best in a frame; None where none has an IoU of 0.5 or more."""
    if id not in frame.truth_ids or not frame.counted_ids:
        return None
    ious = frame.iou[frame.truth_ids.index(id)]
    return frame.counted_ids[int(ious.argmax())] if ious.max() >= MATCH else None


def _iou(frame: FrameComparison, id: int, track: int) -> float:
    if id not in frame.truth_ids or track not in frame.counted_ids:
        return 0.0
    return float(frame.iou[frame.truth_ids.index(id), frame.counted_ids.index(track)])


def _rows(ids: Any) -> dict[int, int]:
    """Number ids from 0, in the order in which they come."""
    return {id: row for row, id in enumerate(dict.fromkeys(id for frame in ids for id in frame))}


def load_metrics() -> dict[str, Any]:
    """Return TrackEval's metrics by name. Raises ConfigError where it is not installed."""
    try:
        from trackeval import metrics
    except ImportError as error:
        raise ConfigError(
            "HOTA, IDF1 and MOTA need TrackEval: pip install 'grounded-segany[tracking]'; J and F do not: "
            f"--protocol davis ({error})"
        ) from error
    quiet = {"PRINT_CONFIG": False}
    return {"HOTA": metrics.HOTA(), "CLEAR": metrics.CLEAR(quiet), "Identity": metrics.Identity(quiet)}

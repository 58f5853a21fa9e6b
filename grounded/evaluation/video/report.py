"""An evaluation of clips as plain data for JSON, and as tables for a terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from grounded.evaluation.video.davis import Statistics
from grounded.evaluation.video.evaluate import VideoEvaluation
from grounded.evaluation.video.objects import ObjectMeasures
from grounded.evaluation.video.tracks import TrackMeasures

_OBJECT_HEAD = ("clip", "object", "track", "frames", "J&F", "J", "J recall", "J decay", "F", "F recall", "F decay")
_TRACK_HEAD = ("clip", "objects", "HOTA", "DetA", "AssA", "LocA", "IDF1", "MOTA", "switches", "found again")


def to_dict(evaluation: VideoEvaluation, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return all measures as plain dicts, lists and scalars, from 0 to 1, with None for what is not defined.

    Args:
        evaluation: of clips.
        notes: to be added to its own, on what was left out before.
    """
    return {
        "j_and_f": evaluation.mean,
        "j": evaluation.region._asdict() if evaluation.region else None,
        "f": evaluation.boundary._asdict() if evaluation.boundary else None,
        "tracks": _tracks_to_dict(evaluation.tracks),
        "clips": [
            {
                "name": clip.name,
                "frames": clip.frames,
                "objects": [_object_to_dict(one) for one in clip.objects],
                "tracks": _tracks_to_dict(clip.tracks),
            }
            for clip in evaluation.clips
        ],
        "notes": [*notes, *evaluation.notes],
    }


def _object_to_dict(one: ObjectMeasures) -> dict[str, Any]:
    return {
        "id": one.id,
        "track": one.prediction,
        "frames": one.frames,
        "j_and_f": one.mean,
        "j": one.region._asdict(),
        "f": one.boundary._asdict(),
    }


def _tracks_to_dict(tracks: TrackMeasures | None) -> dict[str, Any] | None:
    if tracks is None:
        return None
    return {**asdict(tracks), "switches_per_object": tracks.switches_per_object, "found_again": tracks.found_again}


def to_text(evaluation: VideoEvaluation) -> str:
    """Return tables of the objects and of the tracks of each clip, with what all have together; shares in percent."""
    tables = []
    if evaluation.region and evaluation.boundary:
        rows = [
            (clip.name, str(one.id), _number(one.prediction), str(one.frames), *_statistics(one.region, one.boundary))
            for clip in evaluation.clips
            for one in clip.objects
        ]
        tables.append([_OBJECT_HEAD, *rows, ("mean", "", "", "", *_statistics(evaluation.region, evaluation.boundary))])
    if evaluation.tracks:
        clips = [(clip.name, *_track_cells(clip.tracks)) for clip in evaluation.clips if clip.tracks]
        tables.append([_TRACK_HEAD, *clips, ("all", *_track_cells(evaluation.tracks))])
    return "\n\n".join(_table(table) for table in tables)


def _statistics(region: Statistics, boundary: Statistics) -> list[str]:
    return [_percent(value) for value in ((region.mean + boundary.mean) / 2, *region, *boundary)]


def _track_cells(tracks: TrackMeasures) -> list[str]:
    shares = (tracks.hota, tracks.deta, tracks.assa, tracks.loca, tracks.idf1, tracks.mota)
    found = f"{tracks.found}/{tracks.returns}"
    return [str(tracks.objects), *(_percent(share) for share in shares), str(tracks.switches), found]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

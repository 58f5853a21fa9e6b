"""Reads the project's own track runs: JSON lines of tracked frames, in a file or in the store of labelling."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grounded.errors import ResultError
from grounded.evaluation.video.clips import FrameObjects
from grounded.labelling.store.reader import complete_lines, list_shards
from grounded.video.tracks import TrackedFrame

# The "image" section at the beginning of a line, so that the masks need not be parsed to know which frame it is.
_HEADER = re.compile(rb'\{"image":\s*(\{[^{}]*\})')


@dataclass(frozen=True)
class TrackRun:
    """An `AnnotatedClip` out of lines of JSON. Where each frame begins is in memory, the frames are not."""

    name: str
    numbers: tuple[int, ...]
    offsets: Mapping[int, tuple[Path, int]]  # of the line of each frame
    lists_frames: bool = True

    def read(self, number: int) -> FrameObjects:
        path, offset = self.offsets[number]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                frame = TrackedFrame.from_dict(json.loads(file.readline()))
        except (OSError, ValueError, RecursionError) as error:  # ResultError is a ValueError
            raise ResultError(f"{path}, {offset} bytes from its beginning: {error}") from error
        instances = frame.instances
        rles = dict(zip(frame.track_ids.tolist(), instances.rles, strict=True))
        return FrameObjects.from_rles(rles, instances.image_size)


def read_track_runs(path: Path, name: str) -> list[TrackRun]:
    """Find the clips of a track run, each of which has frames of its own; what a person corrected is not applied.

    Args:
        path: a file of `TrackedFrame.to_dict`, one per line, or the folder of a run.
        name: of the clip whose lines do not name it.

    Raises:
        ResultError: it cannot be read, or a line is not a frame of a clip.
    """
    clips: dict[str, dict[int, tuple[Path, int]]] = {}
    for shard in list_shards(path) if path.is_dir() else [path]:
        try:
            for offset, line in complete_lines(shard):
                header = _read_header(line, shard, offset)
                clip = str(header.get("file", "")).rpartition("/")[0] or name
                clips.setdefault(clip, {}).setdefault(int(header["frame"]), (shard, offset))
        except OSError as error:
            raise ResultError(f"cannot read {shard}: {error.strerror or error}") from error
    return [TrackRun(clip, tuple(sorted(offsets)), offsets) for clip, offsets in clips.items()]


def _read_header(line: bytes, shard: Path, offset: int) -> dict[str, Any]:
    """Return the "image" section of a line, which says which frame it is."""
    try:
        match = _HEADER.match(line)
        header = json.loads(match[1]) if match else json.loads(line)["image"]
        int(header["frame"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultError(f"{shard}, {offset} bytes from its beginning: not a frame of a clip") from error
    return dict(header)

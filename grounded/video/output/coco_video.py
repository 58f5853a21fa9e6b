"""Tracks as the JSON of YouTube-VIS: a COCO data set whose annotations are tracks, with a mask for every frame."""

import json
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from grounded.utils.files import open_atomically, output_errors
from grounded.video.clip import ClipInfo
from grounded.video.output.write import Write
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import rle_area, rle_boxes


@contextmanager
def coco_video_file(path: Path, info: ClipInfo) -> Iterator[Write]:
    """Write {"videos", "categories", "annotations"}, one annotation per track (Yang et al., 2019).

    "segmentations" (run-length encoded), "bboxes" ([x, y, width, height]) and "areas" have an entry for each frame that
    was written, null where the track is not in sight. "file_names" of frames are those that the clip has, or
    NAME/00000.jpg and so on.

    Raises:
        OutputError: the file cannot be written.
    """
    with open_atomically(path) as file, _Tracks.opened(path) as tracks:
        yield tracks.add
        with output_errors(path):
            file.write(b'{"info": ' + _json({"description": f"tracks of {info.name}"}) + b",\n")
            file.write(b'"videos": [' + _json(_video(tracks, info)) + b"],\n")
            file.write(b'"categories": ' + _json(_categories(tracks)) + b',\n"annotations": [')
            for number, track in enumerate(tracks.by_id(), 1):
                head: dict[str, Any] = {"id": number, "video_id": 1, "category_id": track.phrase_id + 1, "iscrowd": 0}
                head |= {"track_id": track.track_id, "score": track.score, "length": len(tracks.numbers)}
                head |= {"height": tracks.image_size[0], "width": tracks.image_size[1]}
                file.write((b",\n" if number > 1 else b"\n") + _json(head)[:-1])
                for key, values in (
                    ("segmentations", tracks.segmentations(track)),
                    ("bboxes", tracks.boxes(track)),
                    ("areas", tracks.areas(track)),
                ):
                    _write_list(file, key, values)
                file.write(b"}")
            file.write(b"\n]}\n")


@contextmanager
def youtube_vis_results(path: Path) -> Iterator[Write]:
    """Write the list of results that the YouTube-VIS server takes: "video_id", "category_id", "score", "segmentations".

    The score of a track is the mean of its scores in the frames in which it is in sight, 1 where they are unknown.

    Raises:
        OutputError: the file cannot be written.
    """
    with open_atomically(path) as file, _Tracks.opened(path) as tracks:
        yield tracks.add
        with output_errors(path):
            file.write(b"[")
            for number, track in enumerate(tracks.by_id()):
                head = {"video_id": 1, "category_id": track.phrase_id + 1, "score": track.score}
                file.write((b",\n" if number else b"\n") + _json(head)[:-1])
                _write_list(file, "segmentations", tracks.segmentations(track))
                file.write(b"}")
            file.write(b"\n]\n")


@dataclass
class _Track:
    """One track, as numbers: a row for each frame in which it is in sight."""

    track_id: int
    phrase_id: int
    rows: "array[int]" = field(default_factory=lambda: array("q"))  # of frames
    offsets: "array[int]" = field(default_factory=lambda: array("q"))  # of masks in the temporary file
    boxes: "array[int]" = field(default_factory=lambda: array("q"))  # four per row: x, y, width, height
    areas: "array[int]" = field(default_factory=lambda: array("q"))
    total: float = 0.0  # of scores

    @property
    def score(self) -> float:
        return round(self.total / len(self.rows), 4)


class _Tracks:
    """The tracks of a clip, turned from frames into tracks. Masks lie in a temporary file, not in memory."""

    def __init__(self, masks: IO[bytes], path: Path) -> None:
        self._masks, self._path = masks, path
        self._tracks: dict[int, _Track] = {}
        self.numbers = array("q")  # of the frames
        self.image_size = (0, 0)  # (height, width)
        self.phrases: tuple[str, ...] = ()

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator["_Tracks"]:
        with output_errors(path):
            masks = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115, closed below
        try:
            yield cls(masks, path)
        finally:
            with suppress(OSError):  # what could not be written before cannot be written now
                masks.close()

    def add(self, frame: TrackedFrame, image: Image.Image) -> None:
        self.image_size, self.phrases = frame.instances.image_size, frame.instances.phrases
        shown, row = frame.in_sight, len(self.numbers)
        self.numbers.append(frame.number)
        rles = shown.instances.rles
        for i, (box, area) in enumerate(zip(rle_boxes(rles).tolist(), rle_area(rles).tolist(), strict=True)):
            name, phrase = int(shown.track_ids[i]), int(shown.instances.phrase_ids[i])
            track = self._tracks.setdefault(name, _Track(name, phrase))
            track.rows.append(row)
            with output_errors(self._path):
                track.offsets.append(self._masks.tell())
                self._masks.write(_json(rles[i]) + b"\n")
            x0, y0, x1, y1 = (int(side) for side in box)
            track.boxes.extend((x0, y0, x1 - x0, y1 - y0))
            track.areas.append(area)
            score = float(shown.instances.scores[i])
            track.total += score if np.isfinite(score) else 1.0

    def by_id(self) -> list[_Track]:
        return [self._tracks[name] for name in sorted(self._tracks)]

    def segmentations(self, track: _Track) -> Iterator[bytes]:
        def read(offset: int) -> bytes:
            self._masks.seek(offset)
            return self._masks.readline().rstrip()

        return self._with_nulls(track, map(read, track.offsets))

    def boxes(self, track: _Track) -> Iterator[bytes]:
        rows = (_json(track.boxes[4 * i : 4 * i + 4].tolist()) for i in range(len(track.rows)))
        return self._with_nulls(track, rows)

    def areas(self, track: _Track) -> Iterator[bytes]:
        return self._with_nulls(track, map(_json, track.areas))

    def _with_nulls(self, track: _Track, values: Iterator[bytes]) -> Iterator[bytes]:
        """One value per frame out of those of the frames in which a track is in sight."""
        rows = iter(track.rows)
        seen = next(rows, None)
        for row in range(len(self.numbers)):
            if row == seen:
                yield next(values)
                seen = next(rows, None)
            else:
                yield b"null"


def _video(tracks: _Tracks, info: ClipInfo) -> dict[str, Any]:
    height, width = tracks.image_size
    own, stem = info.file_names, Path(info.name).stem
    names = [f"{stem}/{number:05d}.jpg" if own is None else own[number] for number in tracks.numbers]
    return {"id": 1, "name": info.name, "width": width, "height": height, "length": len(names), "file_names": names}


def _categories(tracks: _Tracks) -> Sequence[dict[str, Any]]:
    return [{"id": i, "name": phrase, "supercategory": ""} for i, phrase in enumerate(tracks.phrases, 1)]


def _write_list(file: IO[bytes], key: str, values: Iterator[bytes]) -> None:
    file.write(b", " + _json(key) + b": [")
    for i, value in enumerate(values):
        file.write((b", " if i else b"") + value)
    file.write(b"]")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()

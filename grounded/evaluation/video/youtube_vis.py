"""Reads YouTube-VIS JSON (Yang et al., 2019): the videos of a data set with the masks of their objects, or results."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from reprlib import repr as shortened
from typing import Any

from grounded.errors import MaskError, ResultError
from grounded.evaluation.video.clips import FrameObjects
from grounded.labelling.formats.annotations import read_json
from segany.utils.polygons import check_size
from segany.utils.rle import check_rle, rle_from_polygons


@dataclass(frozen=True)
class YoutubeVisClip:
    """An `AnnotatedClip` out of a YouTube-VIS file. Masks stay as they are in the file until a frame is read."""

    name: str
    numbers: range
    video_id: int | str
    image_size: tuple[int, int]
    segmentations: Mapping[int, Sequence[Any]]  # of each object, one for each frame; None where it is not in sight
    lists_frames: bool = True

    def read(self, number: int) -> FrameObjects:
        rles = {}
        for id, segmentations in self.segmentations.items():
            entry = segmentations[number]
            if not entry:
                continue
            try:
                is_polygons = isinstance(entry, list)
                read = rle_from_polygons(entry, self.image_size) if is_polygons else check_rle(entry, self.image_size)
            except MaskError as error:
                raise ResultError(f"clip {self.name}, object {id}, frame {number}: {error}") from error
            rles[id] = read
        return FrameObjects.from_rles(rles, self.image_size)


def read_youtube_vis(path: Path, truth: Sequence[YoutubeVisClip] = ()) -> list[YoutubeVisClip]:
    """Read the clips of a YouTube-VIS file.

    Objects have the track ids of their annotations, as this program writes them, or the ids of the annotations; in
    results, which have none, they are numbered from 1 in each video.

    Args:
        path: of a data set, {"videos": ..., "annotations": ...}, or of results, a list.
        truth: the clips that results belong to: results do not state the videos.

    Raises:
        ResultError: the file cannot be read, is not of this form, or results are of a video that is not in the truth.
    """
    data = read_json(path)
    try:
        if isinstance(data, list):
            return _read_results(data, truth)
        if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("videos", "annotations")):
            raise ResultError("a YouTube-VIS file must hold lists of videos and annotations, or be a list of results")
        clips = _add_objects([_read_video(entry) for entry in data["videos"]], data["annotations"])
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error
    names = Counter(clip.name for clip in clips)
    return [clip if names[clip.name] == 1 else replace(clip, name=str(clip.video_id)) for clip in clips]


def _read_video(entry: Any) -> YoutubeVisClip:
    """Read an entry of "videos"; it is named by the folder of its frames, or else by its name or id."""
    try:
        files = entry.get("file_names") or []
        image_size = check_size([entry["height"], entry["width"]])
        length = int(entry.get("length") or len(files))
        folder = PurePosixPath(str(files[0])).parent.name if files else ""
        return YoutubeVisClip(
            folder or str(entry.get("name") or entry["id"]), range(length), entry["id"], image_size, {}
        )
    except (AttributeError, KeyError, TypeError, ValueError, MaskError) as error:
        raise ResultError(f"a video must have id, width, height and length, got {shortened(entry)}") from error


def _read_results(entries: list[Any], truth: Sequence[YoutubeVisClip]) -> list[YoutubeVisClip]:
    if not truth:
        raise ResultError("results of YouTube-VIS need a truth in the same format, which lists the videos")
    counts: Counter[Any] = Counter()
    numbered = []
    for entry in entries:
        video = entry.get("video_id") if isinstance(entry, dict) else None
        if not isinstance(video, int | str):
            raise ResultError(f"a result must have video_id and segmentations, got {shortened(entry)}")
        counts[video] += 1
        numbered.append({**entry, "id": counts[video]})
    return _add_objects([replace(clip, segmentations={}) for clip in truth], numbered)


def _add_objects(clips: list[YoutubeVisClip], entries: list[Any]) -> list[YoutubeVisClip]:
    """Return the clips with the objects of "annotations", which name their video."""
    objects: dict[int | str, dict[int, Sequence[Any]]] = {clip.video_id: {} for clip in clips}
    lengths = {clip.video_id: len(clip.numbers) for clip in clips}
    if len(objects) < len(clips):
        raise ResultError("two videos have the same id")
    for entry in entries:
        try:
            id, video = int(entry.get("track_id", entry.get("id"))), entry["video_id"]
            segmentations = entry["segmentations"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultError(
                f"an annotation must have id, video_id and segmentations, got {shortened(entry)}"
            ) from error
        if not isinstance(video, int | str) or video not in objects:
            raise ResultError(f"annotation {id} must be of a video that is listed, got {shortened(video)}")
        if id in objects[video]:
            raise ResultError(f"video {video} has two annotations of id {id}")
        if not isinstance(segmentations, list) or len(segmentations) != lengths[video]:
            count = len(segmentations) if isinstance(segmentations, list) else shortened(segmentations)
            raise ResultError(f"annotation {id} must have a mask or null for {lengths[video]} frames, got {count}")
        objects[video][id] = segmentations
    return [replace(clip, segmentations=objects[clip.video_id]) for clip in clips]

"""Exports the clips of a run in formats that know tracks: one file or folder per clip, from the records alone."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

import grounded
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats import NOTE
from grounded.labelling.formats.exporter import ExportSummary, Lost, within_folder
from grounded.labelling.sources.items import is_image
from grounded.labelling.store import FramePlace, index_frames, read_failures, read_record_at
from grounded.utils.files import atomic_folder, output_errors, write_new
from grounded.video.clip import FRAME_RATE, ClipInfo
from grounded.video.output.coco_video import coco_video_file, youtube_vis_results
from grounded.video.output.mask_folder import mask_folder
from grounded.video.output.mot import mot_file, mots_file
from grounded.video.output.write import Output
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import rle_area, rle_union

_OUTPUTS: dict[str, tuple[str, Callable[[Path, ClipInfo], Output]]] = {  # format -> suffix of its files, and writer
    "coco-video": (".json", coco_video_file),
    "youtube-vis": (".json", lambda path, info: youtube_vis_results(path)),
    "mot": (".txt", lambda path, info: mot_file(path)),
    "mots": (".txt", lambda path, info: mots_file(path)),
    "davis": ("", lambda path, info: mask_folder(path)),
}
_DISJOINT = ("mots", "davis")  # formats in which a pixel is of one object


def export_clips(
    name: str,
    run_folder: str | PathLike[str],
    folder: str | PathLike[str],
    min_score: float | None = None,
    progress: Callable[[], object] = lambda: None,
    *,
    replace: bool = False,
) -> ExportSummary:
    """Write the tracks of all clips of a run, into a folder that appears when it is complete, and not before.

    Args:
        name: one of `VIDEO_FORMATS`.
        run_folder: of the run. Corrections of a review are not applied: they are of images.
        folder: new or empty, or with `replace` that of an earlier export.
        min_score: leave out instances whose score is known and lower.
        progress: called after each frame.
        replace: whether an earlier export may be replaced.

    Raises:
        ConfigError: the run holds no clip.
        ResultError: a record is damaged.
        OutputError: a file cannot be written, or the folder holds something else.
    """
    clips = index_frames(run_folder)
    if not clips:
        raise ConfigError(f"{run_folder} holds no frames of clips: {name} is a format for tracks")
    unfinished = len(clips.keys() & read_failures(run_folder).keys())
    lost: Lost = Counter({"clips that were not tracked to their end": unfinished})
    suffix, open_output = _OUTPUTS[name]
    frames = instances = 0
    no_image = Image.new("L", (1, 1))  # these outputs take nothing from it
    with atomic_folder(Path(folder), NOTE if replace else None) as place:
        for clip, places in sorted(clips.items()):
            path = place / (within_folder(clip) + suffix)
            with output_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with open_output(path, _clip_info(clip, places)) as write:
                for frame in _read_frames(places, min_score):
                    write(frame, no_image)
                    frames, instances = frames + 1, instances + len(frame)
                    _count_losses(name, frame, lost)
                    progress()
        summary = ExportSummary(frames, instances, lost)
        write_new(place / NOTE, _note(name, len(clips), summary).encode())
    return summary


def _clip_info(clip: str, places: Sequence[FramePlace]) -> ClipInfo:
    """What the records tell of a clip: where its frames are images, their names."""
    names: dict[int, str] = {place.number: PurePosixPath(place.file).name for place in places}
    is_sequence = all(is_image(name) for name in names.values())
    listed = tuple(names.get(number, "") for number in range(max(names) + 1))
    return ClipInfo(clip, FRAME_RATE, len(places), file_names=listed if is_sequence else None)


def _read_frames(places: Sequence[FramePlace], min_score: float | None) -> Iterator[TrackedFrame]:
    for place in places:
        frame = read_record_at(place.shard, place.offset).frame
        if frame is None:
            raise ResultError(f"{place.shard}: the record of {place.file} must hold a frame, got none")
        # Comparisons with nan are False: unknown scores stay.
        yield frame if min_score is None else frame[~(frame.instances.scores < min_score)]


def _count_losses(name: str, frame: TrackedFrame, lost: Lost) -> None:
    rles = frame.instances.rles
    if name == "mot":
        lost["masks, of which the boxes are left"] += len(rles)
    if name in _DISJOINT and len(rles) > 1:
        hidden = int(rle_area(rles).sum()) - int(rle_area([rle_union(rles)])[0])
        lost["pixels of masks that another one covers"] += hidden
    if name in _DISJOINT:
        lost["scores"] += int(np.isfinite(frame.instances.scores).sum())


def _note(name: str, clips: int, summary: ExportSummary) -> str:
    head = (
        f"{clips} clips, {summary.images} frames, {summary.instances} instances as {name}, by grounded "
        f"{grounded.__version__}."
    )
    losses = summary.lines()
    body = ["Lost:", *(f"- {line}" for line in losses)] if losses else ["Nothing is lost."]
    return "\n".join([head, "", *body]) + "\n"

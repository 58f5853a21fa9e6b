"""Opens truths and predictions of clips by what they look like, and pairs them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grounded.errors import ResultError
from grounded.evaluation.video.clips import AnnotatedClip
from grounded.evaluation.video.indexed_masks import IndexedMasks, is_mask
from grounded.evaluation.video.mot import read_text_clip
from grounded.evaluation.video.runs import read_track_runs
from grounded.evaluation.video.youtube_vis import YoutubeVisClip, read_youtube_vis
from grounded.labelling.formats.annotations import Notes

FORMATS = (
    "a folder of indexed PNG masks or of such folders, a track run, "
    "YouTube-VIS JSON, or MOT or MOTS text or a folder of them"
)
EXTRA_CLIPS = "predicted clips that the truth does not have, left out"
SHIFTED = "clips whose predicted frames have other numbers than those of the truth, paired in their order"
_SHOWN = 5  # numbers and names in a message


@dataclass(frozen=True)
class ClipPair:
    """A clip's truth and prediction, whose frames are paired by number.

    numbers  of the frames of the truth
    shift    what is to be added to a number for the prediction's
    """

    truth: AnnotatedClip
    prediction: AnnotatedClip
    numbers: Sequence[int]
    shift: int = 0


def open_clips(
    path: Path, notes: Notes, *, is_truth: bool = False, truth: Sequence[AnnotatedClip] = ()
) -> list[AnnotatedClip]:
    """Open all clips that a file or a folder holds.

    Args:
        path: of one of `FORMATS`; folders are looked through to any depth.
        notes: what is left out is added.
        is_truth: rather than a prediction.
        truth: the clips that a prediction belongs to.

    Raises:
        ResultError: there is nothing of the kind, it cannot be read, or two clips have the same name.
    """
    if not path.exists():
        raise ResultError(f"no such file or folder: {path}")
    try:
        if path.is_file():
            videos = [clip for clip in truth if isinstance(clip, YoutubeVisClip)]
            clips = _open_file(path, path.stem, notes, is_truth, videos)
        else:
            clips = list(_open_folder(path, notes, is_truth))
    except OSError as error:
        raise ResultError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    if not clips:
        raise ResultError(f"expected {FORMATS}, got {path}")
    names = Counter(clip.name for clip in clips)
    if len(names) < len(clips):
        raise ResultError(f"the clips in {path} must have different names, got {names.most_common(1)[0][0]!r} twice")
    return clips


def _open_file(
    path: Path, name: str, notes: Notes, is_truth: bool, videos: Sequence[YoutubeVisClip] = ()
) -> list[AnnotatedClip]:
    if path.suffix.lower() == ".json":
        return list(read_youtube_vis(path, videos))
    if path.suffix.lower() == ".jsonl":
        return list(read_track_runs(path, name))
    if path.suffix.lower() == ".txt":
        return [read_text_clip(path, name, is_truth, notes)]
    raise ResultError(f"expected {FORMATS}, got {path}")


def _open_folder(folder: Path, notes: Notes, is_truth: bool) -> Iterator[AnnotatedClip]:
    """Yield the clips in a folder: of the first format that it has files of, or else of the folders in it."""
    name = folder.resolve().name
    if (folder / "records").is_dir():
        yield from read_track_runs(folder, name)
        return
    if (folder / "gt" / "gt.txt").is_file():  # a sequence of MOTChallenge, with detections beside it
        yield read_text_clip(folder / "gt" / "gt.txt", name, is_truth, notes)
        return
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if any(is_mask(path) for path in files):
        yield IndexedMasks.open(folder, name)
        return
    for path in files:
        if path.suffix.lower() == ".jsonl":
            yield from _open_file(path, name if path.stem == "frames" else path.stem, notes, is_truth)
        elif path.suffix.lower() == ".txt":
            yield from _open_file(path, path.stem, notes, is_truth)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from _open_folder(path, notes, is_truth)


def pair_clips(
    truths: Sequence[AnnotatedClip], predictions: Sequence[AnnotatedClip], notes: Notes, *, is_davis: bool = False
) -> list[ClipPair]:
    """Pair clips by name, with or without a suffix such as .mp4, or where there is one of each, those.

    Args:
        truths: all of which need a prediction.
        predictions: those of no truth are left out.
        notes: what is left out is added.
        is_davis: the first and the last frame, which are not measured, need not be in a prediction.

    Raises:
        ResultError: a prediction, or frames of one, are missing.
    """
    by_name = {Path(clip.name).stem: clip for clip in predictions} | {clip.name: clip for clip in predictions}
    if len(truths) == len(predictions) == 1:
        by_name = {truths[0].name: predictions[0]}
    found = {clip.name: by_name.get(clip.name, by_name.get(Path(clip.name).stem)) for clip in truths}
    missing = [name for name, clip in found.items() if clip is None]
    if missing:
        raise ResultError(
            f"{len(missing)} of {len(truths)} clips are not in the prediction: {_listed(missing)}; "
            f"it has {_listed([clip.name for clip in predictions])}"
        )
    pairs = [(truth, prediction) for truth in truths if (prediction := found[truth.name]) is not None]
    for name in sorted({clip.name for clip in predictions} - {prediction.name for _, prediction in pairs}):
        notes.add(EXTRA_CLIPS, name)
    return [_pair_frames(truth, prediction, notes, is_davis) for truth, prediction in pairs]


def _pair_frames(truth: AnnotatedClip, prediction: AnnotatedClip, notes: Notes, is_davis: bool) -> ClipPair:
    """Pair the frames of two clips.

    Raises:
        ResultError: the truth has no frame, or the prediction lacks one.
    """
    numbers = truth.numbers
    if not truth.lists_frames:  # then every number stands for a frame, also where there is no object
        ends = [*numbers[:1], *numbers[-1:], *prediction.numbers[:1], *prediction.numbers[-1:]]
        numbers = range(min(ends, default=0), max(ends, default=-1) + 1)
    if not len(numbers):
        raise ResultError(f"clip {truth.name}: the truth has no frame")
    if not prediction.lists_frames:
        return ClipPair(truth, prediction, numbers)
    shifts = {p - t for t, p in zip(numbers, prediction.numbers, strict=False)}
    if len(numbers) == len(prediction.numbers) and len(shifts) == 1 and shifts != {0}:
        notes.add(SHIFTED, truth.name)
        return ClipPair(truth, prediction, numbers, shifts.pop())
    needed = numbers[1:-1] if is_davis else numbers
    missing = sorted(set(needed) - set(prediction.numbers))
    if missing:
        raise ResultError(
            f"clip {truth.name}: {len(missing)} of {len(needed)} frames are not in the prediction: {_listed(missing)}"
        )
    return ClipPair(truth, prediction, numbers)


def _listed(values: Sequence[object]) -> str:
    """The first values, and whether there are more."""
    return ", ".join(str(value) for value in values[:_SHOWN]) + (", …" if len(values) > _SHOWN else "")

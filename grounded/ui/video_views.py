"""What the Video tab shows of a state: frames with their tracks at the size of a screen, tables and status lines."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.phrases import listed, parse
from grounded.output.draw import draw_masks
from grounded.ui.tracking import ClipState
from grounded.ui.views import SCREEN_SIDE, ScreenImage, draw_marks
from grounded.video.output.annotate import draw_tracks, track_colour
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import rle_area

COLUMNS = ("track", "phrase", "score", "predicted IoU", "area, px", "frames")
_FAINT, _CLEAR = 0.15, 0.5  # opacity of the other tracks, and of the one that is corrected


def frame_image(state: ClipState, number: int, track_id: int | None = None) -> Image.Image | None:
    """A frame with its tracks over it; with a picked one, that one clear with the clicks so far, and the others faint.

    None where there is no clip. A frame that was not reached has no tracks.

    Raises:
        VideoError: the frame cannot be read.
    """
    if state.clip is None:
        return None
    image = state.clip.frame(number).image
    screen = ScreenImage.from_source(SourceImage(image))
    frame = state.frames.get(number)
    if frame is None:
        return screen.pixels
    if track_id is None:
        return draw_on_screen(image, frame)
    correction = state.correction_of(number, track_id)
    rows = frame.track_ids == track_id
    drawn = _draw(screen, frame[~rows].instances, frame.track_ids[~rows].tolist(), _FAINT)
    mask = frame[rows].instances if correction is None else correction.mask
    if mask is not None and len(mask):
        drawn = _draw(ScreenImage(drawn, screen.scale), mask, [track_id], _CLEAR)
    edits = None if correction is None else correction.image.edits
    return drawn if edits is None else draw_marks(drawn, edits, screen.scale)


def draw_on_screen(image: Image.Image, frame: TrackedFrame) -> Image.Image:
    """A frame's image at the size of a screen, with all tracks that are in sight over it."""
    screen = ScreenImage.from_source(SourceImage(image))
    shown = TrackedFrame(
        number=frame.number,
        seconds=frame.seconds,
        instances=screen.instances(frame.instances),
        track_ids=frame.track_ids,
    )
    return draw_tracks(screen.pixels, shown)


def _draw(screen: ScreenImage, instances: Instances, track_ids: Sequence[int], opacity: float) -> Image.Image:
    there = rle_area(instances.rles) > 0
    shown = screen.instances(instances[there])
    ids = [track for track, is_there in zip(track_ids, there.tolist(), strict=True) if is_there]
    names = [f"{label} {track}" for label, track in zip(shown.labels.tolist(), ids, strict=True)]
    colours = [track_colour(track) for track in ids]
    return draw_masks(screen.pixels, shown.rles, names, shown.boxes, names, opacity, colours)


def track_table(state: ClipState, number: int) -> list[list[str | int]]:
    """One row for each track in sight in a frame, by `COLUMNS`; the last one tells in which frames it is seen."""
    frame = state.frames.get(number)
    if frame is None:
        return []
    shown, seen = frame.in_sight, seen_frames(state)
    instances = shown.instances
    scores = zip(instances.scores, instances.predicted_iou, strict=True)
    return [
        [
            int(track),
            str(instances.labels[row]),
            *(f"{score:.3f}" if np.isfinite(score) else "–" for score in values),
            int(area),
            _seen_text(seen[int(track)]),
        ]
        for row, (track, values, area) in enumerate(zip(shown.track_ids, scores, rle_area(instances.rles), strict=True))
    ]


def seen_frames(state: ClipState) -> dict[int, list[int]]:
    """The numbers of the frames in which each track is in sight, by its id."""
    seen: dict[int, list[int]] = {track: [] for track in state.labels}
    for number, frame in sorted(state.frames.items()):
        for track in frame.in_sight.track_ids.tolist():
            seen[track].append(number)
    return seen


def _seen_text(numbers: Sequence[int]) -> str:
    """ "0–47", and how many of these frames where some are missing: "0–47, 40 of 48"."""
    span = numbers[-1] - numbers[0] + 1
    text = f"{numbers[0]}–{numbers[-1]}" if span > 1 else str(numbers[0])
    return text if span == len(numbers) else f"{text}, {len(numbers)} of {span}"


def track_choices(state: ClipState) -> list[tuple[str, int]]:
    """The name of each track of the clip, with its id as the value."""
    return [(f"{label} {track}", track) for track, label in state.labels.items()]


def clip_status(state: ClipState) -> list[str]:
    """Sentences on the clip, on what was found in it, and on what to do next."""
    if state.clip is None:
        return ["Upload or record a clip, say what to follow, and press Track."]
    info, (width, height) = state.clip.info, state.clip.size
    if not state.frames:
        count = "" if info.count is None else f" of {info.count} frames"
        line = f"Clip{count}, {width} × {height} pixels, {info.frame_rate:.4g} per second."
        return [f"{line} Say what to follow, and press Track.", *state.clip.notes]
    lines = [_tracks_line(state)]
    if state.message:
        lines.append(state.message)
    if state.can_go_on:
        lines.append("Paused: look at the frames, correct tracks, or go on.")
    if not state.labels and state.activity == "none":
        lines.append("Try other words, or a lower box threshold in the settings.")
    if state.correction is not None:
        lines.append(_correction_line(state))
    return [*lines, *state.clip.notes]


def screen_to_frame(state: ClipState, x: float, y: float) -> tuple[float, float]:
    """The point of a frame, in its pixels, at the middle of a pixel of `frame_image`."""
    scale = min(1.0, SCREEN_SIDE / max(state.require_clip().size))
    return (x + 0.5) / scale, (y + 0.5) / scale


def _tracks_line(state: ClipState) -> str:
    """How many tracks there are of each phrase, and which phrases were never seen."""
    labels, count = state.labels, len(state.frames)
    frames = f"{count} frame{'s' * (count != 1)}"
    counts = Counter(labels.values())
    phrases = () if state.query is None else parse(state.query[0])
    missing = [phrase for phrase in phrases if not counts[phrase]]
    if not labels:
        return f"Nothing was seen in {frames}: no {listed(missing)}."
    tracks = f"{len(labels)} track{'s' * (len(labels) != 1)} in {frames}"
    in_order = dict.fromkeys([*phrases, *counts])
    found = ", ".join(f"{phrase} ({counts[phrase]})" for phrase in in_order if counts[phrase])
    return f"{tracks}: {found}." + (f" Never seen: {listed(missing)}." if missing else "")


def _correction_line(state: ClipState) -> str:
    correction = state.correction
    assert correction is not None
    edits = correction.image.edits
    name = f"{state.labels[correction.track_id]} {correction.track_id}, frame {correction.frame}"
    if edits is not None and edits.corner is not None:
        return f"Correcting {name}: now press on the opposite corner of the box."
    if correction.rle is None:
        return f"Correcting {name}."
    return f"Correcting {name}: press more, or Follow from here on."

"""The clip with its tracks drawn over it, and its sound."""

import colorsys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.output.draw import Colour, draw_masks
from grounded.video.clip import ClipInfo
from grounded.video.output.encode import MP4, WEBM, open_video
from grounded.video.output.write import Write
from grounded.video.tracks import TrackedFrame

_GOLDEN = 0.6180339887498949  # of a turn; multiples of it are never near one another for long
_LIGHTNESS = (0.52, 0.42, 0.64)


@contextmanager
def annotated_clip(path: Path, info: ClipInfo, opacity: float = 0.45, show_scores: bool = False) -> Iterator[Write]:
    """Write a video of the frames with masks and names such as "a dog 3" over them: MP4, or WebM by its name.

    Each object has one colour throughout. Frames have the times of the clip, also where its rate varies; the sound from
    the first frame that is written to the last is kept.

    Raises:
        OutputError: the file cannot be written.
    """
    encoding = WEBM if path.suffix.lower() == ".webm" else MP4
    with open_video(path, encoding, info.frame_rate, info.pixel_aspect, info.sound) as video:

        def write(frame: TrackedFrame, image: Image.Image) -> None:
            video.write(draw_tracks(image, frame, opacity, show_scores), frame.seconds)

        yield write


def draw_tracks(
    image: Image.Image, frame: TrackedFrame, opacity: float = 0.45, show_scores: bool = False
) -> Image.Image:
    """Return a copy of a frame's image with the objects in sight drawn over it, in the colours of their ids."""
    shown = frame.in_sight
    captions = shown.names
    if show_scores:
        scores = shown.instances.scores
        captions = [
            f"{name} {score:.0%}" if np.isfinite(score) else name for name, score in zip(captions, scores, strict=True)
        ]
    instances, colours = shown.instances, [track_colour(track) for track in shown.track_ids.tolist()]
    return draw_masks(image, instances.rles, shown.names, instances.boxes, captions, opacity, colours)


def track_colour(track_id: int) -> Colour:
    """Return the RGB colour of a track, by its id alone; ids that follow one another are far apart in hue."""
    red, green, blue = colorsys.hls_to_rgb(track_id * _GOLDEN % 1, _LIGHTNESS[track_id % 3], 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)

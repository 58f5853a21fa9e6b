"""Clips in the app, opened within the limits of its server, and the model that follows objects through them.

Gradio is not imported here: it notes its folder when it is imported, and this is loaded before that folder is made.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from grounded.errors import CheckpointError, ConfigError, VideoError
from grounded.models import build, trackers
from grounded.pipeline import Pipeline
from grounded.ui.state import Limits
from grounded.video.clip import Clip, ClipInfo, Frame
from grounded.video.frames import open_clip
from grounded.video.pipeline import VideoPipeline
from segany.hub import HubError

T = TypeVar("T")

_log = logging.getLogger("grounded.ui")


@dataclass(frozen=True)
class LimitedClip:
    """A `Clip` that ends at the limits, with large frames scaled down."""

    clip: Clip
    limits: Limits
    info: ClipInfo  # `count` is within the limits
    size: tuple[int, int]  # (width, height) of frames as they are yielded
    notes: tuple[str, ...] = ()  # sentences on what is left out and scaled

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """As in `Clip`."""
        most = self.limits.max_clip_frames
        with closing_iterator(self.clip.frames(start, most if stop is None else min(stop, most))) as frames:
            for frame in frames:
                if frame.seconds >= self.limits.max_clip_seconds:
                    return
                yield replace(frame, image=_scaled(frame.image, self.size))

    def frame(self, number: int) -> Frame:
        """One frame.

        Raises:
            VideoError: it cannot be read, or there is no such frame.
        """
        with closing_iterator(self.frames(number, number + 1)) as frames:
            for frame in frames:
                return frame
        raise VideoError(f"{self.info.name} has no frame {number}")


def open_clip_within(path: Path, name: str, limits: Limits) -> LimitedClip:
    """Open an uploaded file as a clip, and decode its first frame.

    Args:
        path: of a file that the app has received; nothing else is opened, no folder, pattern, address or camera.
        name: of the file, as the user knows it.
        limits: for the frames, their number and their size.

    Raises:
        VideoError: it is not there any more, cannot be read as a video, or holds no frame.
    """
    if not path.is_file():
        raise VideoError(f"{name} is no longer on the server: send it again")
    clip = open_clip(path)
    with closing_iterator(clip.frames(0, 1)) as frames:
        first = next(frames, None)
    if first is None:
        raise VideoError(f"{name} holds no frame")
    width, height = first.image.size
    scale = min(1.0, limits.max_clip_side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    info = replace(clip.info, name=name)
    notes = _length_notes(info, limits)
    if scale < 1:
        notes += (f"Frames are scaled down from {width} × {height} to {size[0]} × {size[1]} pixels.",)
    if info.count is not None:
        info = replace(info, count=min(info.count, _most_frames(info, limits)))
    return LimitedClip(clip, limits, info, size, notes)


def load_video(pipeline: Pipeline) -> tuple[VideoPipeline | None, str]:
    """Load the model that follows objects through clips, and join it to a pipeline.

    Returns:
        both; or None, and a sentence for users on what is missing.

    Raises:
        HubError: the configuration names a model that has yet to be downloaded.
    """
    if importlib.util.find_spec("av") is None:
        return None, "Reading clips needs PyAV on the server: pip install 'grounded-segany[video]'."
    config = pipeline.config
    try:
        tracker = trackers.build(config.video, build.pick_device(config.device), pipeline.segmenter)
    except HubError:
        raise
    except ConfigError as error:
        return None, f"These models cannot follow objects through clips: {error}."
    except CheckpointError as error:
        _log.warning("no clips: %s", error)
        checkpoint = Path(config.video.checkpoint).name
        return None, f"These models cannot follow objects through clips: the checkpoint {checkpoint} cannot be loaded."
    return VideoPipeline(pipeline, tracker), ""


@contextmanager
def closing_iterator(values: Iterator[T]) -> Iterator[Iterator[T]]:
    """End an iterator at the end of the `with` statement: one that decodes frames ahead does so in a thread."""
    try:
        yield values
    finally:
        close = getattr(values, "close", None)
        if close is not None:
            close()


def _most_frames(info: ClipInfo, limits: Limits) -> int:
    return min(limits.max_clip_frames, round(limits.max_clip_seconds * info.frame_rate))


def _length_notes(info: ClipInfo, limits: Limits) -> tuple[str, ...]:
    """A sentence on what is left out of a clip, where it is too long or may be."""
    most = _most_frames(info, limits)
    if info.count is None:
        return (f"At most {limits.max_clip_frames} frames and {limits.max_clip_seconds:g} s are followed here.",)
    if info.count <= most:
        return ()
    seconds = info.count / info.frame_rate
    return (f"The clip has {info.count} frames ({seconds:.1f} s); only the first {most} are followed here.",)


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)

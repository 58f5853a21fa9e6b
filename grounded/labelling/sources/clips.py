"""Clips among the items of a source: which files are videos, and where the frames of a clip lie."""

import posixpath
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from grounded.video.clip import FRAME_RATE, Clip
from grounded.video.frames import AnimatedImage, ImageSequence, open_clip
from grounded.video.video_file import VideoFile

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ogv", ".3gp", ".mts", ".m2ts")
)
_ANIMATED_SUFFIXES = (".gif", ".webp", ".apng")


def is_video(name: str) -> bool:
    """Whether a file name has the suffix of a video, in upper or lower case, and is not hidden.

    `.ts` is not among them, as most files of that name are programs.
    """
    base = posixpath.basename(name)
    return not base.startswith(".") and posixpath.splitext(base)[1].lower() in VIDEO_SUFFIXES


def is_animated(path: str) -> bool:
    """Whether a file is an image of several frames, by its suffix and then by its content."""
    if not path.lower().endswith(_ANIMATED_SUFFIXES):
        return False
    try:
        return (AnimatedImage(Path(path)).info.count or 1) > 1
    except Exception:  # a damaged file is an image, whose failure tells the reason
        return False


def frame_file(clip: str, number: int) -> str:
    """The name of the record of a frame: sorted by number, and unique where several clips share a folder."""
    return f"{clip}/{number:06d}"


@dataclass(frozen=True)
class ClipPlace:
    """Where a clip lies: plain data, that is sent to the process which tracks it.

    place   path or address of a video or an animated image; of images in their order their folder
    images  (name in the source, path) of the images that are the frames, if they are
    read    returns the bytes of a video that is no file of its own, but lies in a TAR
    """

    place: str
    images: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    read: Callable[[], bytes] | None = field(default=None, repr=False)

    @contextmanager
    def open(self) -> Iterator[Clip]:
        """Open the clip.

        Raises:
            VideoError: it is missing, cannot be read or holds no frame.
            ImageError: its TAR cannot be read.
        """
        if self.images:
            yield ImageSequence([Path(path) for _, path in self.images], self.place, FRAME_RATE)
        elif self.read is None:
            yield open_clip(self.place)
        else:
            with tempfile.TemporaryDirectory(prefix="clip-") as folder:
                copy = Path(folder) / f"clip{posixpath.splitext(self.place)[1]}"
                copy.write_bytes(self.read())
                yield VideoFile(str(copy), posixpath.basename(self.place))

    def frame_file(self, clip: str, number: int) -> str:
        """The name of the record of a frame: that of its image, if it is one, else `CLIP/000012`."""
        return self.images[number][0] if self.images else frame_file(clip, number)

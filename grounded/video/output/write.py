"""All outputs of a clip in one pass: tracked frames and their images go in, one after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TypeAlias

from PIL import Image

from grounded.errors import VideoError
from grounded.video.clip import Clip
from grounded.video.tracks import TrackedFrame

Write: TypeAlias = Callable[[TrackedFrame, Image.Image], None]
Output: TypeAlias = AbstractContextManager[Write]


def write_outputs(
    frames: Iterable[tuple[TrackedFrame, Image.Image]], outputs: Sequence[Output]
) -> Iterator[TrackedFrame]:
    """Write every frame to all outputs, and yield it. The files are in place when this iterator has ended.

    Where it is closed before, no file is written.

    Raises:
        OutputError: an output cannot be written; at the end of the clip, others may have been.
        VideoError: a frame cannot be read.
    """
    with ExitStack() as opened:
        writers = [opened.enter_context(output) for output in outputs]
        for tracked, image in frames:
            for write in writers:
                write(tracked, image)
            yield tracked


def with_images(clip: Clip, tracked: Iterable[TrackedFrame]) -> Iterator[tuple[TrackedFrame, Image.Image]]:
    """Pair tracked frames, in the order of their numbers, with their images. Frames of the clip between are left out.

    Raises:
        VideoError: the clip cannot be read, or ends before the tracked frames do.
    """
    frames = None
    for frame in tracked:
        frames = clip.frames(frame.number) if frames is None else frames
        for shown in frames:
            if shown.number == frame.number:
                yield frame, shown.image
                break
        else:
            raise VideoError(f"{clip.info.name} ends before frame {frame.number}, which was tracked")

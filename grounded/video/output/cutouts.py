"""The objects of a clip on a transparent ground: PNGs of each frame, or one WebM."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.output.cutouts import cutouts
from grounded.output.write import mask_name
from grounded.utils.files import atomic_folder, image_bytes, write_new
from grounded.video.clip import ClipInfo
from grounded.video.output.encode import TRANSPARENT_WEBM, open_video
from grounded.video.output.write import Write
from grounded.video.tracks import TrackedFrame

MARK = "cutouts.txt"  # by which a folder that may be replaced is recognised
_MARK_TEXT = b"Objects of a clip on a transparent ground: a folder for each, a PNG for each frame it is seen in.\n"


@contextmanager
def cutout_folder(folder: Path, crop: bool = False, softness: float = 0.0) -> Iterator[Write]:
    """Write 001-a-dog/00000.png, …: of each track the frames in which it is in sight, transparent around the mask.

    Args:
        folder: for a folder per track; an earlier one of this kind is replaced.
        crop: whether each PNG is cropped to the mask, or of the size of the frame.
        softness: pixels over which the edge fades, as in `grounded.output.cutouts`.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    with atomic_folder(folder, MARK) as new:
        write_new(new / MARK, _MARK_TEXT)
        folders: dict[int, str] = {}

        def write(frame: TrackedFrame, image: Image.Image) -> None:
            shown = frame.in_sight
            for row, track in enumerate(shown.track_ids.tolist()):
                one = shown.instances[[row]]
                name = folders.setdefault(track, Path(mask_name(track, one.labels[0])).stem)
                cut = cutouts(image, one, crop=crop, softness=softness)[0]
                write_new(new / name / f"{frame.number:05d}.png", image_bytes(cut))

        yield write


@contextmanager
def cutout_clip(
    path: Path, info: ClipInfo, track_ids: Collection[int] | None = None, softness: float = 0.0
) -> Iterator[Write]:
    """Write a WebM (VP9) with an alpha channel: the objects where they are, nothing around them, and the clip's sound.

    Args:
        path: of the file.
        info: of the clip.
        track_ids: of the objects that are shown; None for all.
        softness: pixels over which edges fade.

    Raises:
        OutputError: the file cannot be written.
    """
    with open_video(path, TRANSPARENT_WEBM, info.frame_rate, info.pixel_aspect, info.sound) as video:

        def write(frame: TrackedFrame, image: Image.Image) -> None:
            wanted = np.ones(len(frame), bool) if track_ids is None else np.isin(frame.track_ids, list(track_ids))
            shown = Image.new("RGBA", image.size)
            for cut in cutouts(image, frame[wanted].in_sight.instances, crop=False, softness=softness):
                shown.alpha_composite(cut)
            video.write(shown, frame.seconds)

        yield write

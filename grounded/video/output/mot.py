"""Tracks as text of the MOT and MOTS challenges: one line per object and frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.utils.files import open_atomically, output_errors
from grounded.video.output.write import Write
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import rle_area, rle_boxes

_UNKNOWN = -1


@contextmanager
def mot_file(path: Path) -> Iterator[Write]:
    """Write lines "frame,id,left,top,width,height,score,class,visibility" (MOTChallenge, 2016).

    Frames and pixels count from 1, and classes are the phrases, from 1. Boxes are tight around the masks; objects out
    of sight have no line. The score is 1 where it is unknown, and the visibility, which nothing tells, is -1.

    Raises:
        OutputError: the file cannot be written.
    """
    with open_atomically(path) as file:

        def write(frame: TrackedFrame, image: Image.Image) -> None:
            with output_errors(path):
                file.write("".join(_mot_lines(frame.in_sight)).encode())

        yield write


def _mot_lines(frame: TrackedFrame) -> Iterator[str]:
    for row, (x0, y0, x1, y1) in enumerate(rle_boxes(frame.instances.rles).tolist()):
        score = float(frame.instances.scores[row])
        box = f"{x0 + 1:g},{y0 + 1:g},{x1 - x0:g},{y1 - y0:g}"
        score = round(score, 4) if np.isfinite(score) else 1
        yield (
            f"{frame.number + 1},{frame.track_ids[row]},{box},{score:g},"
            f"{frame.instances.phrase_ids[row] + 1},{_UNKNOWN}\n"
        )


@contextmanager
def mots_file(path: Path) -> Iterator[Write]:
    """Write lines "frame id class height width rle" (Voigtlaender et al., 2019), with COCO's compressed run lengths.

    Frames count from 1, as in the MOTS challenge. Masks must not overlap there: a pixel is of the smallest mask.
    Objects of which no pixel is left have no line.

    Raises:
        OutputError: the file cannot be written.
    """
    with open_atomically(path) as file:

        def write(frame: TrackedFrame, image: Image.Image) -> None:
            with output_errors(path):
                file.write("".join(_mots_lines(frame)).encode())

        yield write


def _mots_lines(frame: TrackedFrame) -> Iterator[str]:
    height, width = frame.instances.image_size
    rles = frame.disjoint_rles()
    for row in np.flatnonzero(rle_area(rles)):
        yield (
            f"{frame.number + 1} {frame.track_ids[row]} {frame.instances.phrase_ids[row] + 1} "
            f"{height} {width} {rles[row]['counts']}\n"
        )

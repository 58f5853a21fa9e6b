"""Reads the text files of MOTChallenge: boxes (MOT, Milan et al., 2016) and masks (MOTS, Voigtlaender et al., 2019)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from grounded.errors import MaskError, ResultError
from grounded.evaluation.video.clips import FrameObjects
from grounded.labelling.formats.annotations import Notes
from segany.utils.rle import RLE, check_rle, rle_union

UNMARKED = "boxes of the truth that are marked not to be counted, left out"
# Class and id in the truth of MOTS: a region in which predictions are neither right nor wrong.
_IGNORED = (10, 10_000)


@dataclass(frozen=True)
class TextClip:
    """An `AnnotatedClip` out of a text file. Frames and pixels, which MOT counts from 1, have their numbers from 0."""

    name: str
    numbers: range
    frames: Mapping[int, FrameObjects]
    lists_frames: bool = False

    def read(self, number: int) -> FrameObjects:
        if number in self.frames:
            return self.frames[number]
        some = next(iter(self.frames.values()), None)
        has_boxes_alone = some is not None and some.rles is None
        return FrameObjects(
            (), np.zeros((0, 4)), None if has_boxes_alone else (), some.image_size if some is not None else None
        )


def read_text_clip(path: Path, name: str, is_truth: bool, notes: Notes) -> TextClip:
    """Read a MOT or a MOTS file, told apart by the commas of the first.

    Args:
        path: of the file.
        name: of the clip.
        is_truth: rows of MOT whose seventh value is 0, in results a score, are not to be counted, and masks of MOTS
            may be of regions to be ignored.
        notes: rows that are left out are added.

    Raises:
        ResultError: the file cannot be read, or a line is of another form; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"cannot read {path}: {error}") from error
    boxes: dict[int, dict[int, list[float]]] = {}
    masks: dict[int, dict[int, RLE]] = {}
    ignored: dict[int, list[RLE]] = {}
    has_commas = any("," in line for line in lines[:1])
    for row, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if has_commas:
                _read_box(line, boxes, is_truth, notes)
            else:
                _read_mask(line, masks, ignored, is_truth)
        except (ValueError, MaskError, OverflowError) as error:
            raise ResultError(f"{path}, line {row}: {error}") from error
    if has_commas:
        frames = {number: FrameObjects(tuple(rows), _xyxy(rows)) for number, rows in boxes.items()}
    else:
        frames = _mask_frames(masks, ignored, path)
    return TextClip(name, range(min(frames, default=0), max(frames, default=-1) + 1), frames)


def _read_box(line: str, boxes: dict[int, dict[int, list[float]]], is_truth: bool, notes: Notes) -> None:
    """Read "frame, id, left, top, width, height, counts or score, …"."""
    values = [float(value) for value in line.split(",") if value.strip()]
    if len(values) < 6 or not all(math.isfinite(value) for value in values[:6]):
        raise ValueError(f"expected frame, id, left, top, width and height, got {line[:80]!r}")
    frame, id = int(values[0]), int(values[1])
    if (frame, id) != (values[0], values[1]):
        raise ValueError(f"frame and id must be whole numbers, got {line[:80]!r}")
    if is_truth and len(values) > 6 and values[6] == 0:
        notes.add(UNMARKED)
        return
    rows = boxes.setdefault(frame - 1, {})
    if id in rows:
        raise ValueError(f"object {id} is twice in frame {frame}")
    rows[id] = values[2:6]


def _xyxy(rows: Mapping[int, list[float]]) -> np.ndarray:
    boxes = np.array(list(rows.values()), np.float64)
    corners = boxes[:, :2] - 1
    return np.concatenate([corners, corners + boxes[:, 2:].clip(min=0)], axis=1)


def _read_mask(line: str, masks: dict[int, dict[int, RLE]], ignored: dict[int, list[RLE]], is_truth: bool) -> None:
    """Read "frame id class height width run-lengths"."""
    parts = line.split()
    if len(parts) != 6:
        raise ValueError(f"expected frame, id, class, height, width and run lengths, got {line[:80]!r}")
    frame, id, category, height, width = (int(part) for part in parts[:5])
    rle = check_rle({"size": [height, width], "counts": parts[5]})
    if is_truth and (category, id) == _IGNORED:
        ignored.setdefault(frame - 1, []).append(rle)
        return
    rows = masks.setdefault(frame - 1, {})
    if id in rows:
        raise ValueError(f"object {id} is twice in frame {frame}")
    rows[id] = rle


def _mask_frames(
    masks: Mapping[int, Mapping[int, RLE]], ignored: Mapping[int, list[RLE]], path: Path
) -> dict[int, FrameObjects]:
    everything = [
        *chain.from_iterable(rows.values() for rows in masks.values()),
        *chain.from_iterable(ignored.values()),
    ]
    sizes = {(rle["size"][0], rle["size"][1]) for rle in everything}
    if len(sizes) > 1:
        raise ResultError(f"{path} must hold masks of one size, got {sorted(sizes)}")
    size = next(iter(sizes), (0, 0))
    return {
        number: FrameObjects.from_rles(
            masks.get(number, {}), size, rle_union(ignored[number]) if number in ignored else None
        )
        for number in {*masks, *ignored}
    }

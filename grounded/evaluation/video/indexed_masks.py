"""Reads folders of indexed masks, as those of DAVIS: one PNG per frame, whose pixels hold the ids of objects."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from PIL import Image

from grounded.errors import ResultError, one_line
from grounded.evaluation.video.clips import VOID, FrameObjects

_MODES = ("1", "L", "P", "I", "I;16", "I;16B")  # of Pillow: one value per pixel


@dataclass(frozen=True)
class IndexedMasks:
    """An `AnnotatedClip` out of a folder of PNG files."""

    name: str
    numbers: tuple[int, ...]
    files: dict[int, Path]
    is_binary: bool  # 0 and 255, as DAVIS 2016 has it: 255 is the object of id 1 rather than void
    lists_frames: bool = True

    @classmethod
    def open(cls, folder: Path, name: str) -> "IndexedMasks":
        """Open the masks of a clip.

        Frames have the numbers at the end of the files' names, or where one has none, those of their order.

        Raises:
            ResultError: two files have the same number, or the first ones cannot be read.
        """
        paths = sorted(path for path in folder.iterdir() if is_mask(path))
        ends = [re.search(r"\d+$", path.stem) for path in paths]
        numbers = [int(end[0]) for end in ends if end]
        if len(numbers) < len(paths):
            numbers = list(range(len(paths)))
        files = dict(zip(numbers, paths, strict=True))
        if len(files) < len(paths):
            twice = next(number for number in numbers if numbers.count(number) > 1)
            raise ResultError(f"{folder} must have one mask for each frame, got several of number {twice}")
        return cls(name, tuple(sorted(files)), files, _are_binary(paths))

    def read(self, number: int) -> FrameObjects:
        values, void = _read_values(self.files[number])
        if self.is_binary:
            return FrameObjects.from_index_map((values == VOID).astype(np.uint8))
        return FrameObjects.from_index_map(values, void)


def is_mask(path: Path) -> bool:
    """Whether a file is one of the masks of its folder, by its name."""
    return path.suffix.lower() == ".png" and not path.name.startswith(".")


def _are_binary(paths: list[Path]) -> bool:
    """Whether masks hold 0 and 255 alone, by the first that is not empty."""
    for path in paths:
        values, void = _read_values(path)
        if values.any():
            return void is not None and bool(np.isin(values, (0, VOID)).all())
    return False


def _read_values(path: Path) -> tuple[Integer[np.ndarray, "h w"], int | None]:
    """Return the values of a mask, and the value of its void pixels, which masks of 16 bits do not have."""
    try:
        with Image.open(path) as image:
            if image.mode not in _MODES:
                raise ResultError(f"{path} must be a mask of one value per pixel, palette or grey, got {image.mode}")
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ResultError):
            raise
        raise ResultError(f"cannot read {path}: {one_line(error)}") from error
    if values.dtype == bool:
        return values.astype(np.uint8), None
    if values.dtype == np.uint8:
        return values, VOID
    return values.astype(np.int32), None

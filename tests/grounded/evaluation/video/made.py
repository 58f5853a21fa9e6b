"""Small clips whose objects are rectangles, as truth and as prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.evaluation.video.clips import ClipInMemory, FrameObjects
from grounded.evaluation.video.frames import FrameComparison, compare_frame
from grounded.evaluation.video.sources import ClipPair
from tests.grounded.evaluation.made import block

SIZE = (24, 40)
# Where a rectangle of 8 x 10 pixels is; half an object has an IoU of 0.5 with it.
PLACES = {"left": (2, 2, 8, 10), "half left": (2, 2, 4, 10), "right": (20, 2, 8, 10), "below": (10, 13, 8, 10)}

Places = Mapping[int, str]  # of the objects of a frame, by id


def masks(places: Places) -> dict[int, np.ndarray]:
    return {id: block(*PLACES[place], SIZE) for id, place in places.items()}


def clip(frames: Sequence[Places], name: str = "a") -> ClipInMemory:
    objects = [FrameObjects.from_masks(masks(places), SIZE) for places in frames]
    return ClipInMemory(name, dict(enumerate(objects)))


def pair(truth: Sequence[Places], prediction: Sequence[Places], name: str = "a") -> ClipPair:
    return ClipPair(clip(truth, name), clip(prediction, name), range(len(truth)))


def compared(truth: Sequence[Places], prediction: Sequence[Places], same_ids: bool = False) -> list[FrameComparison]:
    both = pair(truth, prediction)
    return [compare_frame(both, number, same_ids=same_ids) for number in both.numbers]


def index_map(places: Places) -> np.ndarray:
    values = np.zeros(SIZE, np.uint8)
    for id, mask in masks(places).items():
        values[mask] = id
    return values


def write_masks(folder: Path, frames: Sequence[Places], start: int = 0) -> Path:
    """Write a folder of indexed masks. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, places in enumerate(frames, start):
        image = Image.fromarray(index_map(places))
        image.putpalette([value for i in range(256) for value in (i, 255 - i, i * 7 % 256)])
        image.save(folder / f"{number:05d}.png")
    return folder

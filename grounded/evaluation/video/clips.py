"""Clips whose objects are known frame by frame, as truth or as a prediction: values that all readers give."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float64, Integer
from scipy.ndimage import find_objects

from grounded.errors import ResultError
from segany.utils.rle import RLE, decode_rle, encode_columns, encode_rle, rle_area, rle_boxes

VOID = 255  # in masks of 8 bits: pixels of which it is not known what they are (Pont-Tuset et al., 2017)


@dataclass(frozen=True, eq=False)
class FrameObjects:
    """The objects that are in sight in one frame.

    ids         (n) of each, different from one another
    boxes       (n, 4) xyxy in pixels
    rles        (n) of one size, none empty; None in files that hold boxes alone
    image_size  (height, width); None where nothing states it
    ignored     pixels in which a prediction is neither right nor wrong, if any

    Raises:
        ValueError: there is not one id per object, or one occurs twice.
    """

    ids: tuple[int, ...]
    boxes: Float64[np.ndarray, "n 4"]
    rles: tuple[RLE, ...] | None = None
    image_size: tuple[int, int] | None = None
    ignored: RLE | None = None

    def __post_init__(self) -> None:
        count = len(self.ids)
        if len(set(self.ids)) != count or len(self.boxes) != count or (self.rles and len(self.rles) != count):
            raise ValueError(f"ids must be {len(self.boxes)} different numbers, got {list(self.ids)}")

    @classmethod
    def from_rles(
        cls, rles: Mapping[int, RLE], image_size: tuple[int, int], ignored: RLE | None = None
    ) -> "FrameObjects":
        """The objects of these masks, by id; those of an empty mask are not in sight."""
        areas = rle_area(list(rles.values()))
        seen = {id: rle for (id, rle), area in zip(rles.items(), areas, strict=True) if area}
        return cls(tuple(seen), rle_boxes(list(seen.values())), tuple(seen.values()), image_size, ignored)

    @classmethod
    def from_masks(cls, masks: Mapping[int, Bool[np.ndarray, "h w"]], image_size: tuple[int, int]) -> "FrameObjects":
        """The objects of these masks, by id; those of an empty mask are not in sight."""
        return cls.from_rles({id: encode_rle(mask[None])[0] for id, mask in masks.items()}, image_size)

    @classmethod
    def from_index_map(cls, values: Integer[np.ndarray, "h w"], void: int | None = None) -> "FrameObjects":
        """The objects of an indexed mask, whose pixels hold the id of their object, and 0 for none.

        Args:
            values: the mask.
            void: the value of pixels of which it is not known what they are.
        """
        image_size = values.shape[0], values.shape[1]
        rles = {}
        for id, window in enumerate(find_objects(values), 1):
            if window is not None:
                columns = torch.from_numpy(np.ascontiguousarray((values[window] == id).T))
                corner = window[1].start, window[0].start
                rles[id] = encode_columns(columns[None], corner, image_size)[0]
        ignored = rles.pop(void, None) if void is not None else None
        return cls.from_rles(rles, image_size, ignored)

    def masks(self) -> Bool[np.ndarray, "n h w"]:
        """Decode the masks."""
        assert self.rles is not None
        return decode_rle(self.rles, self.image_size).numpy()


@runtime_checkable
class AnnotatedClip(Protocol):
    """A clip whose objects can be read frame by frame, in any order."""

    @property
    def name(self) -> str:
        """By which truth and prediction are paired."""
        ...

    @property
    def numbers(self) -> Sequence[int]:
        """Of its frames, ascending."""
        ...

    @property
    def lists_frames(self) -> bool:
        """Whether `numbers` are all frames; False in formats that do not mention a frame without objects."""
        ...

    def read(self, number: int) -> FrameObjects:
        """Read the objects of the frame of that number.

        Raises:
            ResultError: there is something else, or it is damaged; the message names the clip and the frame.
        """
        ...


@dataclass(frozen=True)
class ClipInMemory:
    """An `AnnotatedClip` out of frames that are in memory, by number."""

    name: str
    frames: Mapping[int, FrameObjects]
    lists_frames: bool = True
    numbers: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", sorted(self.frames))

    def read(self, number: int) -> FrameObjects:
        return self.frames[number]


@dataclass(frozen=True)
class FirstMasks:
    """The simplest prediction, an `AnnotatedClip`: the mask that an object has when it is first seen, to the end."""

    name: str
    numbers: Sequence[int]
    rles: Mapping[int, RLE]  # of each object
    since: Mapping[int, int]  # the frame in which it is first seen
    image_size: tuple[int, int]
    lists_frames: bool = True

    @classmethod
    def of(cls, truth: AnnotatedClip) -> "FirstMasks":
        """Take them from the truth, which is read once; one frame is in memory at a time.

        Raises:
            ResultError: the truth has boxes alone, or no frame.
        """
        rles: dict[int, RLE] = {}
        since: dict[int, int] = {}
        image_size = None
        for number, objects in read_all(truth):
            if objects.rles is None or objects.image_size is None:
                raise ResultError(f"clip {truth.name}: the first masks of objects need a truth of masks, got boxes")
            image_size = image_size or objects.image_size
            for id, rle in zip(objects.ids, objects.rles, strict=True):
                if id not in rles:
                    rles[id], since[id] = rle, number
        if image_size is None:
            raise ResultError(f"clip {truth.name}: the truth has no frame")
        return cls(truth.name, truth.numbers, rles, since, image_size)

    def read(self, number: int) -> FrameObjects:
        seen = {id: rle for id, rle in self.rles.items() if self.since[id] <= number}
        return FrameObjects.from_rles(seen, self.image_size)


def read_all(clip: AnnotatedClip) -> Iterator[tuple[int, FrameObjects]]:
    """Read the frames of a clip one after the other."""
    for number in clip.numbers:
        yield number, clip.read(number)

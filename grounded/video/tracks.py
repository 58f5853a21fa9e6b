"""Tracks: the masks of the objects of a clip, frame by frame, with an id for each object that never changes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from grounded.data.instances import Instances
from grounded.data.parallel_arrays import select_rows, set_frozen
from grounded.errors import ResultError
from segany.utils.rle import RLE, decode_rle, encode_rle, rle_area, rle_union


@dataclass(frozen=True, eq=False, kw_only=True)
class TrackedFrame:
    """The instances of one frame, and which object each of them is.

    Indexing selects instances, as that of `Instances` does.

    Raises:
        ValueError: there is not one id per instance, or one occurs twice.
    """

    number: int  # of the frame, from 0
    seconds: float  # since the first frame
    instances: Instances
    track_ids: Int64[np.ndarray, "n"]  # 1, 2, … in the order in which objects were first seen
    is_key_frame: bool = False  # whether the detector looked at it, or masks were given on it

    def __post_init__(self) -> None:
        ids = np.asarray(self.track_ids, np.int64)
        if ids.shape != (len(self.instances),) or len(np.unique(ids)) != len(ids):
            raise ValueError(f"track_ids must be {len(self.instances)} different ids, got {ids.tolist()}")
        set_frozen(self, track_ids=ids)

    def __len__(self) -> int:
        return len(self.track_ids)

    def __getitem__(self, index: Any) -> "TrackedFrame":
        rows = select_rows(index, len(self))
        return TrackedFrame(
            number=self.number,
            seconds=self.seconds,
            instances=self.instances[rows],
            track_ids=self.track_ids[rows],
            is_key_frame=self.is_key_frame,
        )

    @property
    def in_sight(self) -> "TrackedFrame":
        """The objects whose masks are not empty."""
        return self[rle_area(self.instances.rles) > 0]

    def rle(self, track_id: int) -> RLE | None:
        """The mask of an object; None where it is not in this frame."""
        rows = np.flatnonzero(self.track_ids == track_id)
        return self.instances.rles[int(rows[0])] if len(rows) else None

    @property
    def names(self) -> list[str]:
        """What each object is called in overlays and file names: "a dog 3"."""
        labels = self.instances.labels.tolist()
        return [f"{label} {track}" for label, track in zip(labels, self.track_ids.tolist(), strict=True)]

    def id_map(self) -> Int32[np.ndarray, "h w"]:
        """Return the track id of each pixel, 0 where no mask is. Smaller masks lie above larger, as in overlays."""
        ids = np.zeros(self.instances.image_size, np.int32)
        areas = rle_area(self.instances.rles)
        for row in np.lexsort((self.track_ids, -areas)):
            if areas[row]:
                ids[decode_rle([self.instances.rles[row]])[0].numpy()] = self.track_ids[row]
        return ids

    def disjoint_rles(self) -> tuple[RLE, ...]:
        """Return the n masks such that each pixel is in one of them at most: that which `id_map` has there."""
        rles = self.instances.rles
        if len(rles) < 2 or rle_area([rle_union(rles)])[0] == rle_area(rles).sum():
            return rles
        ids = self.id_map()
        return tuple(encode_rle((ids == track)[None])[0] for track in self.track_ids)

    def header(self) -> dict[str, Any]:
        """Return which frame this is, for the "image" section of its JSON."""
        return {"frame": self.number, "seconds": round(self.seconds, 6), "key_frame": self.is_key_frame}

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars; `from_dict` reads them back."""
        data = self.instances.to_dict(self.header())
        for entry, track_id in zip(data["instances"], self.track_ids.tolist(), strict=True):
            entry["track_id"] = track_id
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrackedFrame":
        """Inverse of `to_dict`.

        Raises:
            ResultError: a key is missing, or a value is not of the expected form.
        """
        return cls.from_parts(data, Instances.from_dict(data))

    @classmethod
    def from_parts(cls, data: Mapping[str, Any], instances: Instances) -> "TrackedFrame":
        """As `from_dict`, where the instances in `data` have been read already."""
        try:
            image = data["image"]
            return cls(
                number=_whole("frame", image["frame"], 0),
                seconds=_finite("seconds", image["seconds"]),
                instances=instances,
                track_ids=np.array([_whole("track_id", entry["track_id"], 1) for entry in data["instances"]], np.int64),
                is_key_frame=bool(image["key_frame"]),
            )
        except KeyError as error:
            raise ResultError(f"a tracked frame must hold the key {error}, got none") from error
        except ResultError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise ResultError(f"not a tracked frame of this program: {error}") from error


def _whole(key: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ResultError(f"{key} must be a whole number from {least} on, got {value!r}")
    return value


def _finite(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ResultError(f"{key} must be a number, got {value!r}")
    return float(value)

"""The record of one labelled image, stored as one line of JSON.

It is checked by hand: reading a record takes as long as reading its instances, which pydantic does not make faster.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grounded.data.instances import Instances
from grounded.errors import ResultError
from grounded.video.tracks import TrackedFrame


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """The image that a record is about. Boxes and masks are in the frame of the upright image, width x height."""

    file: str  # name within the source, with / between folders; unique among records
    width: int
    height: int
    orientation: int = 1  # EXIF orientation that was applied on opening, 1 = as stored
    sha256: str | None = None  # of the file's bytes
    notes: tuple[str, ...] = ()  # on parts of the file that were not used: "animated: the first of 12 frames is used"
    address: str | None = None  # http or https, where it was fetched from
    clip: str | None = None  # name within the source of the clip that it is a frame of

    def to_dict(self) -> dict[str, Any]:
        values = {"file": self.file, "width": self.width, "height": self.height, "orientation": self.orientation}
        values |= {} if self.address is None else {"address": self.address}
        values |= {} if self.sha256 is None else {"sha256": self.sha256}
        values |= {"notes": list(self.notes)} if self.notes else {}
        return values if self.clip is None else {**values, "clip": self.clip}  # last, right before the frame's number


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """One finished image: its instances, and the models that found them."""

    image: ImageInfo
    instances: Instances
    models: Mapping[str, str | None] = field(default_factory=dict)  # checkpoint of each stage
    config: str = ""  # hash of everything that the instances depend on besides the image
    seconds: Mapping[str, float] = field(default_factory=dict)  # of each stage; an image's share of its batch
    frame: TrackedFrame | None = (
        None  # of a clip, with the same instances: which frame it is, and which tracks they are
    )

    def to_dict(self, *, phrase_scores: bool = True) -> dict[str, Any]:
        """Return plain dicts, lists and scalars; without `phrase_scores`, the n x p matrix of scores is left out."""
        data = self.instances.to_dict(self.image.to_dict(), self.models)
        if self.frame is not None:
            data["image"] |= self.frame.header()
            for entry, track_id in zip(data["instances"], self.frame.track_ids.tolist(), strict=True):
                entry["track_id"] = track_id
        if not phrase_scores:
            for entry in data["instances"]:
                del entry["phrase_scores"]
        seconds = {stage: round(value, 6) for stage, value in self.seconds.items()}
        return {**data, "config": self.config, "seconds": seconds}

    def to_line(self, *, phrase_scores: bool = True) -> bytes:
        """Return one line of JSON that begins with the file's name, so that names are read without the rest."""
        data = self.to_dict(phrase_scores=phrase_scores)
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_dict(cls, data: Any) -> "Record":
        """Inverse of `to_dict`.

        Raises:
            ResultError: a key is missing, or a value is not of the expected form.
        """
        instances = Instances.from_dict(data)
        try:
            image = data["image"]
            return cls(
                image=ImageInfo(
                    file=check_file_name(image["file"]),
                    width=int(image["width"]),
                    height=int(image["height"]),
                    orientation=int(image.get("orientation", 1)),
                    sha256=image.get("sha256"),
                    notes=tuple(map(str, image.get("notes", ()))),
                    address=image.get("address"),
                    clip=image.get("clip"),
                ),
                instances=instances,
                models=_checked_values(data, "models", str | None),
                config=str(data.get("config", "")),
                seconds=_checked_values(data, "seconds", int | float),
                frame=TrackedFrame.from_parts(data, instances) if "frame" in image else None,
            )
        except KeyError as error:
            raise ResultError(f"a record must hold the key {error}, got none") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ResultError(f"not a record of this program: {error}") from error

    @classmethod
    def from_line(cls, line: bytes | str) -> "Record":
        """Inverse of `to_line`.

        Raises:
            ResultError: the line is cut off or not JSON, or does not hold a record.
        """
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ResultError(f"not a line of JSON: {error}") from error
        return cls.from_dict(data)


def _checked_values(data: Mapping[str, Any], key: str, kind: Any) -> dict[str, Any]:
    """Return an object of values of one kind, empty where it is missing. Raises TypeError."""
    values = data.get(key, {})
    if not isinstance(values, dict) or not all(isinstance(value, kind) for value in values.values()):
        raise TypeError(f"{key} must be an object of values of one kind, got {values!r:.60}")
    return values


def check_file_name(name: object) -> str:
    """Return the name of an image that was read from a file. Raises TypeError or ValueError if it cannot be one."""
    if not isinstance(name, str):
        raise TypeError(f"the file of an image must be a text, got {name!r:.60}")
    name.encode()  # half of a surrogate pair cannot be stored again
    return name

"""The log of a person's reviews of labelled images: lines of JSON beside the records, which are never changed."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, Literal, get_args

from filelock import FileLock

from grounded.errors import ResultError
from grounded.labelling.store.run import REVIEWS
from grounded.utils.files import output_errors
from segany.utils.rle import RLE, check_rle

Action = Literal["accept", "reject", "relabel", "redraw", "add", "undo"]
InstanceKey = int | str  # an instance of a record by its row, one that a person added by its id
WHOLE_IMAGE: InstanceKey = ""  # the key of reviews of no instance
LOCK_FILE = ".reviews.lock"  # held while lines are appended
_WITHOUT_INSTANCE = ("accept", "undo")
_MOST = 1e9  # seconds or clicks
_NUMBERS: dict[str, type | UnionType] = {"instance": int, "clicks": int, "seconds": int | float}
_REQUIRED = {"relabel": ("phrase",), "redraw": ("mask",), "add": ("phrase", "mask")}


@dataclass(frozen=True, kw_only=True)
class Review:
    """One review of one instance. Of several reviews of the same instance, the later counts.

    `instance` is the row in the record; None for an instance that a person added, which has an `id` of its own. With
    neither, "accept" confirms that an image without instances is empty.
    "undo" takes back the latest review of that instance which is not taken back yet. "relabel" has the new phrase,
    "redraw" the new mask, "add" both.

    Raises:
        ValueError: fields do not fit the action.
    """

    file: str
    action: Action
    instance: int | None = None
    id: str | None = None
    phrase: str | None = None
    mask: RLE | None = None
    source: str = "browse"  # the tool that it was made in
    config: str = ""  # of the reviewed record: in a record of another run, rows mean other instances
    seconds: float | None = None  # that a person spent on it, where that was measured
    clicks: int | None = None  # that the mask took
    time: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="milliseconds"))

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"action must be one of {', '.join(get_args(Action))}, got {self.action!r}")
        named = (self.instance is not None) + bool(self.id)
        if named > 1 or (not named and self.action not in _WITHOUT_INSTANCE):
            raise ValueError(f"{self.action!r} must have either an instance or an id, got {self.instance}, {self.id!r}")
        if self.action == "add" and self.instance is not None:
            raise ValueError(f"an added instance must have an id, got the row {self.instance}")
        if self.instance is not None and self.instance < 0:
            raise ValueError(f"instance must be a row of the record, got {self.instance}")
        for name, value in (("seconds", self.seconds), ("clicks", self.clicks)):
            if value is not None and not 0 <= value < _MOST:
                raise ValueError(f"{name} must be from 0 to {_MOST:.0e}, got {value}")
        for name in _REQUIRED.get(self.action, ()):
            if not getattr(self, name):
                raise ValueError(f"{self.action!r} must have a {name}, got none")

    @property
    def key(self) -> InstanceKey:
        return self.instance if self.instance is not None else self.id or WHOLE_IMAGE

    def to_line(self) -> bytes:
        data = {name: value for name, value in asdict(self).items() if value is not None and value != ""}
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes | str) -> "Review":
        """Inverse of `to_line`. By hand, because pydantic refuses the TypedDict of a mask before Python 3.12.

        Raises:
            ResultError: the line is cut off or not JSON, or does not hold a review.
        """
        try:
            data = json.loads(line)
            mask = data.pop("mask", None)
            return cls(**_checked_fields(data), mask=None if mask is None else check_rle(mask))
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise ResultError(f"not a review: {error}") from error


def _checked_fields(data: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a review but its mask. Raises TypeError where one is of another type."""
    for name, value in data.items():
        expected = _NUMBERS.get(name, str)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise TypeError(f"{name} must be {'a text' if expected is str else 'a number'}, got {value!r:.60}")
        str(value).encode()  # half of a surrogate pair cannot be stored again
    if data.get("action") not in get_args(Action):
        raise ValueError(f"action must be one of {', '.join(get_args(Action))}, got {data.get('action')!r:.60}")
    return data


def read_reviews(folder: str | PathLike[str], damaged: list[str] | None = None) -> list[Review]:
    """Return the reviews in a run's folder in the order in which they were made; a last line cut off is left out.

    Args:
        folder: of the run.
        damaged: a line on each review that cannot be read is added, and the review left out; None to raise an error.

    Raises:
        ResultError: a line before the last does not hold a review, or the file cannot be read.
    """
    return read_reviews_from(folder, 0, damaged)[0]


def read_reviews_from(
    folder: str | PathLike[str], offset: int, damaged: list[str] | None = None
) -> tuple[list[Review], int]:
    """Read the reviews behind the first `offset` bytes of the file; also return the offset to continue from later.

    Raises:
        ResultError: as in `read_reviews`.
    """
    path = Path(folder) / REVIEWS
    try:
        with path.open("rb") as file:
            file.seek(offset)
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    found = []
    for line in lines:
        if not line.strip():  # the line feed of a review that was read before it was there
            offset += len(line)
            continue
        try:
            found.append(Review.from_line(line))
        except ResultError as error:
            if not line.endswith(b"\n"):
                break
            message = f"{path}, byte {offset}: {error}"
            if damaged is None:
                raise ResultError(message) from error
            damaged.append(message)
        offset += len(line)
    return found, offset


def group_by_file(reviews: Iterable[Review]) -> dict[str, list[Review]]:
    """Return the reviews of each image, in their order."""
    files: dict[str, list[Review]] = {}
    for review in reviews:
        files.setdefault(review.file, []).append(review)
    return files


def append_reviews(folder: str | PathLike[str], *reviews: Review) -> None:
    """Add reviews to those in a run's folder; on return they are on the disk, and outlive a crash.

    The rest of a line that a crash cut off is removed first. Several processes may append at once.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(folder) / REVIEWS
    with output_errors(path):
        is_new = not path.exists()
        with path.open("a+b") as file, FileLock(path.with_name(LOCK_FILE)):
            _repair(file)
            file.write(b"".join(review.to_line() for review in reviews))
            file.flush()
            os.fsync(file.fileno())
        if is_new and hasattr(os, "O_DIRECTORY"):  # the name of a new file is on the disk with its folder
            handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _repair(file: BinaryIO) -> None:
    """Remove a last line that was cut off; complete one that lacks only the line end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read(1) in (b"", b"\n"):
        return
    file.seek(0)
    data = file.read()
    start = data.rfind(b"\n") + 1
    try:
        Review.from_line(data[start:])
    except ResultError:
        file.truncate(start)
        file.seek(start)
    else:
        file.write(b"\n")

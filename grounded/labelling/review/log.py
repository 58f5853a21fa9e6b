"""What a person says of labelled pictures: one line of JSON each, beside the records, which stay as they are."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from grounded.errors import ResultError
from grounded.labelling.store.run import REVIEWS
from grounded.utils.files import explained
from segany.utils.rle import RLE

Action = Literal["accept", "reject", "relabel", "redraw", "add", "undo"]
Key = int | str  # an instance of a record by its row, one that a person added by its id
WHOLE_PICTURE: Key = ""  # of what is said of no instance
_OF_PICTURES = ("accept", "undo")
_NEEDS = {"relabel": ("phrase",), "redraw": ("mask",), "add": ("phrase", "mask")}


@dataclass(frozen=True, kw_only=True)
class Review:
    """One thing said of one instance. Of several about the same one, the later counts.

    `instance` is the row in the record; None for an instance that a person added, which has an `id` of its own. With
    neither, "accept" is of a picture in which nothing was found: nothing is there.
    "undo" takes back the latest review of that instance which is not taken back yet. "relabel" has the new phrase,
    "redraw" the new mask, "add" both.
    """

    file: str
    action: Action
    instance: int | None = None
    id: str | None = None
    phrase: str | None = None
    mask: RLE | None = None
    source: str = "browse"  # where it was said, such as the tool that a correction was imported from
    config: str = ""  # of the record that was looked at: of one with another, rows mean something else
    time: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="milliseconds"))

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"action must be one of {', '.join(get_args(Action))}, got {self.action!r}")
        named = (self.instance is not None) + bool(self.id)
        if named > 1 or (not named and self.action not in _OF_PICTURES):
            raise ValueError(f"{self.action!r} must have either an instance or an id, got {self.instance}, {self.id!r}")
        if self.action == "add" and self.instance is not None:
            raise ValueError(f"an added instance must have an id, got the row {self.instance}")
        if self.instance is not None and self.instance < 0:
            raise ValueError(f"instance must be a row of the record, got {self.instance}")
        for name in _NEEDS.get(self.action, ()):
            if not getattr(self, name):
                raise ValueError(f"{self.action!r} must have a {name}, got none")

    @property
    def key(self) -> Key:
        return self.instance if self.instance is not None else self.id or WHOLE_PICTURE

    def to_line(self) -> bytes:
        data = {name: value for name, value in asdict(self).items() if value is not None and value != ""}
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes | str) -> "Review":
        """Inverse of `to_line`.

        Raises:
            ResultError: the line is cut off or not JSON, or does not hold a review.
        """
        try:
            data = json.loads(line)
            mask = data.pop("mask", None)
            rle = None if mask is None else RLE(size=[int(side) for side in mask["size"]], counts=str(mask["counts"]))
            return cls(**data, mask=rle)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ResultError(f"not a review: {error}") from error


def read(folder: str | PathLike[str]) -> list[Review]:
    """Return the reviews in a run's folder in the order in which they were made; a last line cut off is left out.

    Raises:
        ResultError: a line before the last does not hold a review, or the file cannot be read.
    """
    return read_from(folder, 0)[0]


def read_from(folder: str | PathLike[str], offset: int) -> tuple[list[Review], int]:
    """`read` of what follows the first `offset` bytes of the file; and where to go on from later.

    Raises:
        ResultError: as `read`.
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
        try:
            found.append(Review.from_line(line))
        except ResultError as error:
            if not line.endswith(b"\n"):
                break
            raise ResultError(f"{path}, byte {offset}: {error}") from error
        offset += len(line)
    return found, offset


def by_file(reviews: Iterable[Review]) -> dict[str, list[Review]]:
    """The reviews of each picture, in their order."""
    files: dict[str, list[Review]] = {}
    for review in reviews:
        files.setdefault(review.file, []).append(review)
    return files


def append(folder: str | PathLike[str], *reviews: Review) -> None:
    """Add reviews to those in a run's folder; on return they are on the disk, and outlive a crash.

    What a crash left of a last line is removed first. Several processes may do so at once.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(folder) / REVIEWS
    with explained(path):
        is_new = not path.exists()
        with path.open("a+b") as file:
            _lock(file)
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


def _lock(file: BinaryIO) -> None:
    """Wait until no other process appends; closing the file lets the next one in."""
    try:
        import fcntl
    except ImportError:  # Windows: two servers on one folder would have to take turns by themselves
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _repair(file: BinaryIO) -> None:
    """Drop what is left of a last line that was cut off; end one that is whole but for the line end."""
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

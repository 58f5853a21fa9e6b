"""What a person says of labelled pictures: one line of JSON each, beside the records, which stay as they are."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np

from grounded import editing
from grounded.answers import from_masks, tight_boxes
from grounded.errors import ResultError
from grounded.files import explained
from grounded.instances import Instances
from grounded.labelling import store
from grounded.labelling.records import Record
from grounded.labelling.store.run import REVIEWS
from segany.masks import RLE

Action = Literal["accept", "reject", "relabel", "redraw", "add", "undo"]
Key = int | str  # an instance of a record by its row, one that a person added by its id
_NEEDS = {"relabel": ("phrase",), "redraw": ("mask",), "add": ("phrase", "mask")}


@dataclass(frozen=True, kw_only=True)
class Review:
    """One thing said of one instance. Of several about the same one, the later counts.

    `instance` is the row in the record; None for an instance that a person added, which has an `id` of its own.
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
        if (self.instance is None) == (not self.id):
            raise ValueError(f"a review must have either an instance or an id, got {self.instance} and {self.id!r}")
        if self.action == "add" and self.instance is not None:
            raise ValueError(f"an added instance must have an id, got the row {self.instance}")
        if self.instance is not None and self.instance < 0:
            raise ValueError(f"instance must be a row of the record, got {self.instance}")
        for name in _NEEDS.get(self.action, ()):
            if not getattr(self, name):
                raise ValueError(f"{self.action!r} must have a {name}, got none")

    @property
    def key(self) -> Key:
        return self.instance if self.instance is not None else str(self.id)

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


@dataclass(frozen=True)
class Verdict:
    """Where the reviews of one instance have led to."""

    action: Action  # the latest that counts; whatever it is but "reject", the instance stays
    phrase: str | None = None  # instead of the record's
    mask: RLE | None = None  # instead of the record's
    mask_seen: bool = False  # whether a person has accepted or redrawn the mask

    @property
    def kept(self) -> bool:
        return self.action != "reject"


def standing(record: Record, reviews: Iterable[Review]) -> list[Review]:
    """The reviews of this record that count: of its file and configuration, and not taken back."""
    found: list[Review] = []
    for review in reviews:
        if review.file != record.image.file or is_outdated(review, record):
            continue
        if review.action != "undo":
            found.append(review)
            continue
        latest = next((i for i in reversed(range(len(found))) if found[i].key == review.key), None)
        if latest is not None:
            del found[latest]
    return found


def is_outdated(review: Review, record: Record) -> bool:
    """Whether a review was of a record of the same picture that another run has replaced."""
    return bool(review.config) and review.config != record.config


def verdicts(record: Record, reviews: Iterable[Review]) -> dict[Key, Verdict]:
    """What the reviews say of each instance of this record that they are about, added ones included.

    Raises:
        ResultError: a review is of a row that the record does not have, or its mask is of another size.
    """
    found: dict[Key, Verdict] = {}
    size = [record.image.height, record.image.width]
    for review in standing(record, reviews):
        where = f"a review of {review.file}"
        if review.instance is not None and review.instance >= len(record.instances):
            raise ResultError(f"{where} is of instance {review.instance}, the record has {len(record.instances)}")
        if review.mask is not None and list(review.mask["size"]) != size:
            raise ResultError(f"{where} has a mask of size {review.mask['size']}, the picture is {size}")
        before = found.get(review.key)
        if before is None:
            if review.id is not None and review.action != "add":
                continue  # its "add" was taken back, which takes back all that was said of it
            before = Verdict(review.action)
        found[review.key] = Verdict(
            action=review.action,
            phrase=review.phrase or before.phrase,
            mask=review.mask or before.mask,
            mask_seen=before.mask_seen or review.action in ("accept", "redraw", "add"),
        )
    return found


def apply(record: Record, reviews: Iterable[Review], *, accepted_only: bool = False) -> Record:
    """Return the record as a person has corrected it: rejected instances dropped, added ones at the end.

    A redrawn mask has its own tight box and no scores that were of the mask before; a relabelled instance no scores
    that were of the phrase before. An added one has the source "person", and no scores at all.

    Args:
        record: as it was made.
        reviews: of any pictures; those of others do not matter.
        accepted_only: leave out what nobody has looked at.

    Raises:
        ResultError: a review does not fit the record.
    """
    found = verdicts(record, reviews)
    instances, kept = record.instances, []
    for row in range(len(record.instances)):
        verdict = found.get(row)
        if verdict is None:
            kept += [] if accepted_only else [row]
        elif verdict.kept:
            kept.append(row)
            instances = _corrected(instances, row, verdict)
    instances = instances[kept]
    for key, verdict in found.items():
        if isinstance(key, str) and verdict.kept:
            instances = editing.add(instances, _added(verdict, instances.image_size))
    return replace(record, instances=instances)


def _corrected(instances: Instances, row: int, verdict: Verdict) -> Instances:
    if verdict.phrase is not None:
        instances = editing.relabel(instances, row, verdict.phrase)
    if verdict.mask is None:
        return instances
    rles, boxes = list(instances.rles), instances.boxes.copy()
    rles[row], boxes[row] = verdict.mask, tight_boxes([verdict.mask])[0]
    clip_scores, predicted_iou = instances.clip_scores.copy(), instances.predicted_iou.copy()
    clip_scores[row] = predicted_iou[row] = np.nan
    return replace(instances, rles=tuple(rles), boxes=boxes, clip_scores=clip_scores, predicted_iou=predicted_iou)


def _added(verdict: Verdict, image_size: tuple[int, int]) -> Instances:
    assert verdict.phrase is not None and verdict.mask is not None  # Review sees to it
    unknown = np.full(1, np.nan, np.float32)
    return from_masks((verdict.phrase,), image_size, [verdict.mask], np.zeros(1, np.int64), unknown, "person")


def corrected(folder: str | PathLike[str], accepted_only: bool = False) -> Iterator[Record]:
    """Yield the records of a run as they were corrected, in their order.

    Args:
        folder: of the run.
        accepted_only: yield only what a person has looked at: the instances that were not rejected, and pictures of
            which there is such an instance or all instances were rejected.

    Raises:
        ResultError: a line is no record or no review, or a review does not fit its record.
    """
    reviews = by_file(read(folder))
    for record in store.records(folder):
        own = reviews.get(record.image.file, [])
        result = apply(record, own, accepted_only=accepted_only)
        if accepted_only and not len(result.instances) and not _all_rejected(record, own):
            continue
        yield result


def _all_rejected(record: Record, reviews: Iterable[Review]) -> bool:
    found, rows = verdicts(record, reviews), range(len(record.instances))
    return len(rows) > 0 and all(row in found and not found[row].kept for row in rows)

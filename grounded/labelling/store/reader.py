"""Reads a run's folder line by line, while it is being written or after."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from grounded.errors import ResultError
from grounded.labelling.records import Record, check_file_name
from grounded.labelling.store.run import CLIPS, FAILURES, RECORDS, Failure, FinishedClip

# The beginning of a record, up to the end of the file's name, so that a name is read without parsing the masks.
_FILE_PREFIX = re.compile(rb'\{"image":\{"file":("(?:[^"\\]|\\.)*")')
# Of which clip a record is a frame, and which one; quotes within texts are escaped, so that no text looks like it.
_FRAME = re.compile(rb'"clip":("(?:[^"\\]|\\.)*"),"frame":(\d+)')


def read_records(folder: str | PathLike[str], damaged: list[str] | None = None) -> Iterator[Record]:
    """Yield the records of a run, shard by shard, each image once; one is in memory at a time.

    Args:
        folder: of the run.
        damaged: a line on each record that cannot be read is added, and the record left out; None to raise an error.

    Raises:
        ResultError: the folder does not exist, or a line other than a cut-off last one is not a record.
    """
    seen: set[str] = set()
    for shard in list_shards(folder):
        for offset, line in complete_lines(shard):
            try:
                record = _parse_record(line, shard, offset)
            except ResultError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
                continue
            if record.image.file not in seen:
                seen.add(record.image.file)
                yield record


def damaged_lines(damaged: Sequence[str], shown: int = 3) -> list[str]:
    """Return what to print about records and reviews that could not be read: the first ones, then how many."""
    lines = [f"left out: {line}" for line in damaged[:shown]]
    return [*lines, f"{len(damaged)} records or reviews cannot be read"] if damaged else []


def read_done_files(folder: str | PathLike[str]) -> set[str]:
    """Return the names of the images that have a record. Raises ResultError as `read_records` does."""
    return {parse_file_name(line, shard) for shard in list_shards(folder) for _, line in complete_lines(shard)}


def read_failures(folder: str | PathLike[str]) -> dict[str, Failure]:
    """Return the last failure of each image that has no record, and of each clip that was not tracked to its end.

    Raises ResultError as `read_records` does.
    """
    done = read_done_files(folder) | read_finished_clips(folder).keys()
    return {file: failure for file, failure in read_all_failures(Path(folder)).items() if file not in done}


def index_records(folder: str | PathLike[str], damaged: list[str] | None = None) -> dict[str, tuple[Path, int]]:
    """Return (shard, byte offset) of the record of each image, by name, for `read_record_at`.

    Args:
        folder: of the run.
        damaged: as in `read_records`, of lines that do not even tell their image.

    Raises:
        ResultError: as in `read_records`.
    """
    index: dict[str, tuple[Path, int]] = {}
    for shard in list_shards(folder):
        for offset, line in complete_lines(shard):
            try:
                index.setdefault(parse_file_name(line, shard), (shard, offset))
            except ResultError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
    return index


class FramePlace(NamedTuple):
    """Where the record of a frame lies: its number and name, for `read_record_at`."""

    number: int
    file: str
    shard: Path
    offset: int


def index_frames(folder: str | PathLike[str], without: Collection[str] = ()) -> dict[str, list[FramePlace]]:
    """Return the places of the frames of each clip, by its name, in the order of their numbers.

    Args:
        folder: of the run.
        without: names of clips to leave out.

    Raises:
        ResultError: as in `read_records`.
    """
    index: dict[str, dict[int, FramePlace]] = {}
    for shard in list_shards(folder):
        for offset, line in complete_lines(shard):
            end = line.find(b'"instances":')
            found = _FRAME.search(line, 0, end if end > 0 else len(line))
            if found is None or (clip := json.loads(found[1])) in without:
                continue
            place = FramePlace(int(found[2]), parse_file_name(line, shard), shard, offset)
            index.setdefault(clip, {}).setdefault(place.number, place)
    return {clip: [places[number] for number in sorted(places)] for clip, places in index.items()}


def read_finished_clips(folder: str | PathLike[str]) -> dict[str, FinishedClip]:
    """Return the clips of a run whose frames all have a record, by name. Raises ResultError."""
    path = Path(folder) / CLIPS
    if not path.exists():
        return {}
    found = (FinishedClip.from_line(line) for _, line in complete_lines(path))
    return {clip.file: clip for clip in found}


def read_record_at(shard: Path, offset: int) -> Record:
    """Read the record that begins `offset` bytes into `shard`, a position from `index_records`.

    Raises:
        ResultError: none begins there.
    """
    try:
        with shard.open("rb") as file:
            file.seek(offset)
            line = file.readline()
    except OSError as error:
        raise ResultError(f"cannot read {shard}: {error.strerror or error}") from error
    return _parse_record(line, shard, offset)


def list_shards(folder: str | PathLike[str]) -> list[Path]:
    """Return the files of records, in order. Raises ResultError if the folder does not exist."""
    path = Path(folder)
    if not path.is_dir():
        raise ResultError(f"no such folder: {path}")
    return sorted((path / RECORDS).glob("*.jsonl"))


def read_all_failures(folder: Path) -> dict[str, Failure]:
    """The last failure of each image, whether or not it was labelled later."""
    path = folder / FAILURES
    if not path.exists():
        return {}
    found = (Failure.from_line(line) for _, line in complete_lines(path))
    return {failure.file: failure for failure in found}


class RunFollower:
    """Reads the lines of a run's shards, each once, while the run is being written."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = folder
        self._ends: dict[Path, tuple[int, int]] = {}  # of each shard its inode, and the end of the last line read

    def lines(self, behind: "RunFollower | None" = None) -> Iterator[tuple[Path, int, bytes]]:
        """Yield (shard, offset, line) of new lines; a line counts as read once the next one is taken.

        Args:
            behind: another follower, which is not overtaken.

        Raises:
            ResultError: the folder does not exist.
        """
        for shard in list_shards(self.folder):
            inode = shard.stat().st_ino
            for offset, line in complete_lines(shard, self._ends.get(shard, (inode, 0))[1]):
                if behind is not None and offset >= behind._ends.get(shard, (inode, 0))[1]:
                    break
                yield shard, offset, line
                self._ends[shard] = inode, offset + len(line)

    def is_lost(self) -> bool:
        """Whether a line that was read is gone, as when a run is begun anew in the folder."""
        for shard, (inode, end) in self._ends.items():
            try:
                current = shard.stat()
            except FileNotFoundError:
                return True
            if current.st_ino != inode or current.st_size < end:
                return True
        return False


def complete_lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of the lines that end in a line feed, from the one that begins at `start`."""
    offset = start
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


def parse_file_name(line: bytes, shard: Path) -> str:
    """The name of the image of a record's line. Raises ResultError."""
    prefix = _FILE_PREFIX.match(line)
    try:
        return check_file_name(json.loads(prefix[1]) if prefix else json.loads(line)["image"]["file"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultError(f"{shard} holds a line that is no record: {error}") from error


def _parse_record(line: bytes, shard: Path, offset: int) -> Record:
    try:
        return Record.from_line(line)
    except ResultError as error:
        prefix = _FILE_PREFIX.match(line)
        name = f" ({prefix[1].decode(errors='replace')})" if prefix else ""
        raise ResultError(f"{shard}, {offset} bytes from its beginning{name}: {error}") from error

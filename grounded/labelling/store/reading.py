"""What a run's folder holds, read line by line while it is being written or after."""

import json
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from grounded.errors import ResultError
from grounded.labelling.records import Record
from grounded.labelling.store.run import FAILURES, RECORDS, Failure

# The beginning of a record, up to the end of the file's name: the masks behind it need not be parsed for that.
_BEGINNING = re.compile(rb'\{"image":\{"file":("(?:[^"\\]|\\.)*")')


def records(folder: str | PathLike[str]) -> Iterator[Record]:
    """Yield the records of a run, shard by shard, each picture once; one is in memory at a time.

    Raises:
        ResultError: the folder holds no run, or a line other than a cut-off last one is no record.
    """
    seen: set[str] = set()
    for shard in shards(folder):
        for offset, line in complete_lines(shard):
            record = _parsed(line, shard, offset)
            if record.image.file not in seen:
                seen.add(record.image.file)
                yield record


def files_done(folder: str | PathLike[str]) -> set[str]:
    """Return the names of the pictures that have a record. Raises ResultError as `records` does."""
    return {file_of(line, shard) for shard in shards(folder) for _, line in complete_lines(shard)}


def failures(folder: str | PathLike[str]) -> dict[str, Failure]:
    """Return the last failure of each picture that has no record. Raises ResultError as `records` does."""
    done = files_done(folder)
    return {file: failure for file, failure in all_failures(Path(folder)).items() if file not in done}


def record_index(folder: str | PathLike[str]) -> dict[str, tuple[Path, int]]:
    """Return where the record of each picture begins, by name, for `record_at`. Raises ResultError."""
    index: dict[str, tuple[Path, int]] = {}
    for shard in shards(folder):
        for offset, line in complete_lines(shard):
            index.setdefault(file_of(line, shard), (shard, offset))
    return index


def record_at(shard: Path, offset: int) -> Record:
    """Read the record that begins `offset` bytes into `shard`, as `record_index` told.

    Raises:
        ResultError: none begins there.
    """
    try:
        with shard.open("rb") as file:
            file.seek(offset)
            line = file.readline()
    except OSError as error:
        raise ResultError(f"cannot read {shard}: {error.strerror or error}") from error
    return _parsed(line, shard, offset)


def shards(folder: str | PathLike[str]) -> list[Path]:
    """Return the files of records, in order. Raises ResultError where the folder is no run's."""
    path = Path(folder)
    if not path.is_dir():
        raise ResultError(f"no such folder: {path}")
    return sorted((path / RECORDS).glob("*.jsonl"))


def all_failures(folder: Path) -> dict[str, Failure]:
    """The last failure of each picture, whether or not it was labelled later."""
    path = folder / FAILURES
    if not path.exists():
        return {}
    found = (Failure.from_line(line) for _, line in complete_lines(path))
    return {failure.file: failure for failure in found}


class Follower:
    """The lines of a run's shards, each once, while the run is being written."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = folder
        self._ends: dict[Path, tuple[int, int]] = {}  # of each shard the file's number and the end of the last line

    def lines(self, behind: "Follower | None" = None) -> Iterator[tuple[Path, int, bytes]]:
        """Yield (shard, offset, line) of what was not yielded before; a line that was not done with comes again.

        Args:
            behind: another one, which is not overtaken.

        Raises:
            ResultError: the folder is no run's.
        """
        for shard in shards(self.folder):
            file = shard.stat().st_ino
            for offset, line in complete_lines(shard, self._ends.get(shard, (file, 0))[1]):
                if behind is not None and offset >= behind._ends.get(shard, (file, 0))[1]:
                    break
                yield shard, offset, line
                self._ends[shard] = file, offset + len(line)

    def is_lost(self) -> bool:
        """Whether something that was yielded is not there any more, as when a run is begun anew in the folder."""
        for shard, (file, end) in self._ends.items():
            try:
                now = shard.stat()
            except FileNotFoundError:
                return True
            if now.st_ino != file or now.st_size < end:
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


def file_of(line: bytes, shard: Path) -> str:
    """The name of the picture that a line is about. Raises ResultError."""
    beginning = _BEGINNING.match(line)
    try:
        return str(json.loads(beginning[1]) if beginning else json.loads(line)["image"]["file"])
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{shard} holds a line that is no record: {error}") from error


def _parsed(line: bytes, shard: Path, offset: int) -> Record:
    try:
        return Record.from_line(line)
    except ResultError as error:
        raise ResultError(f"{shard}, {offset} bytes from its beginning: {error}") from error

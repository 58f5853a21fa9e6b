"""Index of a run's records for the review page: sorts, filters and finds images without keeping the records."""

import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isnan, nan
from pathlib import Path
from typing import Any, Literal, get_args

from grounded.errors import GroundedError, ResultError
from grounded.labelling.records import Record, check_file_name
from grounded.labelling.store import read_record_at
from grounded.labelling.store.reader import RunFollower, parse_file_name

Sort = Literal["lowest", "highest", "most", "fewest", "name"]
SORTS: tuple[Sort, ...] = get_args(Sort)
_CACHED_ORDERS = 8


class UnknownImageError(ResultError):
    """The run has no record of an image of that name."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The values of a record that its image is sorted and filtered by."""

    file: str
    instances: int
    lowest_scores: tuple[tuple[str, float], ...]  # of each phrase that has instances, nan where unknown

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "IndexEntry":
        """Read a record as plain dicts and lists. Raises KeyError or TypeError where it is not one."""
        lowest: dict[str, float] = {}
        for instance in data["instances"]:
            phrase, score = sys.intern(instance["phrase"]), instance["score"]
            before = lowest.get(phrase, nan)
            lowest[phrase] = before if score is None else min(score, inf if isnan(before) else before)
        return cls(check_file_name(data["image"]["file"]), len(data["instances"]), tuple(lowest.items()))

    def lowest_score(self, phrase: str | None) -> float | None:
        """Return the lowest score of one phrase, or of all; None where there is none."""
        scores = [score for name, score in self.lowest_scores if phrase in (None, name) and not isnan(score)]
        return min(scores, default=None)


def read_entries(
    run: RunFollower, seen: set[str], behind: RunFollower | None = None, damaged: list[str] | None = None
) -> Iterator[IndexEntry]:
    """Yield the entry of each record of a run; the masks, which are most of a record, are not decoded.

    Args:
        run: the lines that are left to read.
        seen: names of the images that have an entry already; it grows.
        behind: as in `RunFollower.lines`.
        damaged: a line on each record that cannot be read is added, and the record left out; None to raise an error.

    Raises:
        ResultError: the folder holds no run, or a line is not a record.
    """
    for shard, offset, line in run.lines(behind):
        try:
            entry = IndexEntry.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"{shard}, {offset} bytes from its beginning: not a record"
            if damaged is None:
                raise ResultError(message) from error
            damaged.append(message)
            continue
        if entry.file not in seen:
            seen.add(entry.file)
            yield entry


@dataclass(frozen=True)
class IndexPage:
    """Part of a list of entries, and the length of the whole list."""

    entries: tuple[IndexEntry, ...]
    total: int


class RecordIndex:
    """The entries of a run's records, read by a thread of its own: the first are there at once.

    The names of all images are known from the start, in `places`. A run that is still being written grows here with
    every `refresh`.

    Args:
        folder: of the run.

    Raises:
        GroundedError: the folder holds no run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._reset()
        self.refresh()

    def _reset(self) -> None:
        self.places: dict[str, tuple[Path, int]] = {}  # image -> shard, and offset of the record in it
        self.damaged: list[str] = []  # lines on records that cannot be read, and are left out
        self._failure: str | None = None  # why reading has ended early
        self._names, self._contents = RunFollower(self.folder), RunFollower(self.folder)
        self._seen: set[str] = set()
        self._entries: list[IndexEntry] = []
        self._orders: OrderedDict[tuple[Sort, str | None, int], list[IndexEntry]] = OrderedDict()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def refresh(self) -> None:
        """Add the records written since the last call. Raises GroundedError where the folder holds no run any more."""
        with self._refreshing:
            if self._reader.is_alive():
                return
            if self._names.is_lost():
                self._reset()
            has_new = False
            for shard, offset, line in self._names.lines():
                has_new = True
                with suppress(ResultError):  # said when its entry is read
                    self.places.setdefault(parse_file_name(line, shard), (shard, offset))
            if has_new:
                self._reader = threading.Thread(target=self._read, daemon=True)
                self._reader.start()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def error(self) -> str | None:
        """Why images are missing from the lists, in one sentence; None where none are."""
        if self._failure is not None or not self.damaged:
            return self._failure
        return f"{len(self.damaged)} records cannot be read, and are left out: {self.damaged[0]}"

    @property
    def entries_read(self) -> int:
        """Number of entries so far."""
        return len(self._entries)

    def wait(self) -> None:
        """Wait until all entries are read."""
        if self._reader.is_alive():
            self._reader.join()

    def record(self, file: str) -> Record:
        """Return a record by the name of its image. Raises UnknownImageError where there is none."""
        if file not in self.places:
            raise UnknownImageError(f"there is no image {file!r} in this run")
        return read_record_at(*self.places[file])

    def phrases(self) -> dict[str, int]:
        """Return the phrases that have instances, each with its number of images, the most frequent first."""
        counts: dict[str, int] = {}
        for entry in self._entries[:]:
            for phrase, _ in entry.lowest_scores:
                counts[phrase] = counts.get(phrase, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def page(
        self,
        sort: Sort,
        phrase: str | None = None,
        include: Callable[[str], bool] = lambda file: True,
        extra_files: Sequence[str] = (),
        after: str | None = None,
        limit: int = 60,
    ) -> IndexPage:
        """Return part of a list. It goes on after a name rather than a number, because a list may shrink meanwhile.

        Args:
            sort: by lowest score, by number of instances, or by name; with a phrase, by the scores of it alone.
            phrase: list images with instances of this phrase alone.
            include: whether to list a file.
            extra_files: files that are listed with the phrase, though their records have no instance of it.
            after: the file that the part follows, whether or not it is listed itself.
            limit: most entries to return.
        """
        order = self._order(sort, phrase, frozenset(extra_files))
        start = next((i + 1 for i, entry in enumerate(order) if entry.file == after), 0) if after is not None else 0
        listed = [i for i, entry in enumerate(order) if include(entry.file)]
        return IndexPage(tuple(order[i] for i in listed if i >= start)[:limit], len(listed))

    def _order(self, sort: Sort, phrase: str | None, extra_files: frozenset[str]) -> list[IndexEntry]:
        with self._lock:
            entries = self._entries[:]
            key = sort, phrase, hash((len(entries), extra_files))
            if key in self._orders:
                self._orders.move_to_end(key)
                return self._orders[key]
        if phrase is not None:
            entries = [
                entry
                for entry in entries
                if entry.file in extra_files or any(phrase == name for name, _ in entry.lowest_scores)
            ]
        entries.sort(key=lambda entry: _sort_key(entry, sort, phrase))
        with self._lock:
            self._orders[key] = entries
            while len(self._orders) > _CACHED_ORDERS:
                self._orders.popitem(last=False)
        return entries

    def _read(self) -> None:
        self._failure = None
        try:
            for entry in read_entries(self._contents, self._seen, self._names, self.damaged):
                self._entries.append(entry)
        except GroundedError as error:
            self._failure = str(error)


def _sort_key(entry: IndexEntry, sort: Sort, phrase: str | None) -> tuple[float, str]:
    """Order equal entries by name; images without scores come last."""
    if sort in ("lowest", "highest"):
        score = entry.lowest_score(phrase)
        return inf if score is None else score if sort == "lowest" else -score, entry.file
    return {"most": -1.0, "fewest": 1.0}.get(sort, 0.0) * entry.instances, entry.file

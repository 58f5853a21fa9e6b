"""What is in a run, in the order and selection that a person asks for, without holding the records."""

import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan
from pathlib import Path
from typing import Any, Literal, get_args

from grounded.errors import GroundedError, ResultError
from grounded.labelling import store
from grounded.labelling.records import Record
from grounded.labelling.store.reading import Follower, file_of

Sort = Literal["lowest", "highest", "most", "fewest", "name"]
SORTS: tuple[Sort, ...] = get_args(Sort)
_ORDERS_KEPT = 8


class UnknownPictureError(ResultError):
    """The run has no record of a picture of that name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a picture is sorted and filtered by."""

    file: str
    instances: int
    lowest: tuple[tuple[str, float], ...]  # of each phrase that was found the lowest score, nan where unknown

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Entry":
        """Of a record as plain dicts and lists. Raises KeyError and TypeError for what is none."""
        lowest: dict[str, float] = {}
        for instance in data["instances"]:
            phrase, score = sys.intern(instance["phrase"]), instance["score"]
            before = lowest.get(phrase, nan)
            lowest[phrase] = before if score is None else min(score, inf if isnan(before) else before)
        return cls(data["image"]["file"], len(data["instances"]), tuple(lowest.items()))

    def score(self, phrase: str | None) -> float | None:
        """The lowest score, of one phrase or of all; None where there is none."""
        scores = [score for name, score in self.lowest if phrase in (None, name) and not isnan(score)]
        return min(scores, default=None)


def entries(run: Follower, seen: set[str], behind: Follower | None = None) -> Iterator[Entry]:
    """Yield the entry of each record of a run; of the masks, which are most of it, nothing is made.

    Args:
        run: what is left of it to read.
        seen: names of the pictures that have an entry already; it grows.
        behind: as in `Follower.lines`.

    Raises:
        ResultError: the folder holds no run, or a line is no record.
    """
    for shard, offset, line in run.lines(behind):
        try:
            entry = Entry.of(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{shard}, {offset} bytes from its beginning: not a record") from error
        if entry.file not in seen:
            seen.add(entry.file)
            yield entry


@dataclass(frozen=True)
class Page:
    """Some entries of a list, and how long it is in all."""

    entries: tuple[Entry, ...]
    total: int


class Catalogue:
    """The entries of a run's records, read by a thread of its own: the first are there at once.

    A run that is still being written grows here with every `refresh`.

    Args:
        folder: of the run.

    Raises:
        GroundedError: the folder holds no run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._begin()
        self.refresh()

    def _begin(self) -> None:
        self.places: dict[str, tuple[Path, int]] = {}
        self.error: str | None = None  # why reading has ended early
        self._names, self._contents = Follower(self.folder), Follower(self.folder)
        self._seen: set[str] = set()
        self._entries: list[Entry] = []
        self._orders: OrderedDict[tuple[Sort, str | None, int], list[Entry]] = OrderedDict()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def refresh(self) -> None:
        """Take in what was written since. Raises GroundedError where the folder holds no run any more."""
        with self._refreshing:
            if self._reader.is_alive():
                return
            if self._names.is_lost():
                self._begin()
            before = len(self.places)
            for shard, offset, line in self._names.lines():
                self.places.setdefault(file_of(line, shard), (shard, offset))
            if len(self.places) > before:
                self._reader = threading.Thread(target=self._read, daemon=True)
                self._reader.start()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def read(self) -> int:
        """How many entries are there so far."""
        return len(self._entries)

    def wait(self) -> None:
        """Until all entries are there."""
        if self._reader.is_alive():
            self._reader.join()

    def record(self, file: str) -> Record:
        """Return a record by the name of its picture. Raises UnknownPictureError where there is none."""
        if file not in self.places:
            raise UnknownPictureError(f"there is no picture {file!r} in this run")
        return store.record_at(*self.places[file])

    def phrases(self) -> dict[str, int]:
        """The phrases that were found, each with the number of pictures, the most frequent first."""
        counts: dict[str, int] = {}
        for entry in self._entries[:]:
            for phrase, _ in entry.lowest:
                counts[phrase] = counts.get(phrase, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def page(
        self,
        sort: Sort,
        phrase: str | None = None,
        keep: Callable[[str], bool] = lambda file: True,
        also: Sequence[str] = (),
        after: str | None = None,
        limit: int = 60,
    ) -> Page:
        """Return part of a list. It goes on after a name rather than a number, for a list may shrink as one works.

        Args:
            sort: by lowest score, by number of instances, or by name; of one phrase, the scores are those of it alone.
            phrase: only pictures in which it was found.
            keep: whether a file is listed.
            also: files that are listed with the phrase, though it was not found there.
            after: the file that the part follows, whether or not it is listed itself.
            limit: how many.
        """
        order = self._order(sort, phrase, frozenset(also))
        start = next((i + 1 for i, entry in enumerate(order) if entry.file == after), 0) if after is not None else 0
        listed = [i for i, entry in enumerate(order) if keep(entry.file)]
        return Page(tuple(order[i] for i in listed if i >= start)[:limit], len(listed))

    def _order(self, sort: Sort, phrase: str | None, also: frozenset[str]) -> list[Entry]:
        with self._lock:
            entries = self._entries[:]
            key = sort, phrase, hash((len(entries), also))
            if key in self._orders:
                self._orders.move_to_end(key)
                return self._orders[key]
        if phrase is not None:
            entries = [e for e in entries if e.file in also or any(phrase == name for name, _ in e.lowest)]
        entries.sort(key=_sorting(sort, phrase))
        with self._lock:
            self._orders[key] = entries
            while len(self._orders) > _ORDERS_KEPT:
                self._orders.popitem(last=False)
        return entries

    def _read(self) -> None:
        self.error = None
        try:
            for entry in entries(self._contents, self._seen, self._names):
                self._entries.append(entry)
        except GroundedError as error:
            self.error = str(error)


def _sorting(sort: Sort, phrase: str | None) -> Callable[[Entry], tuple[float, str]]:
    """Equal ones by name; pictures without scores at the end."""

    def key(entry: Entry) -> tuple[float, str]:
        if sort in ("lowest", "highest"):
            score = entry.score(phrase)
            return inf if score is None else score if sort == "lowest" else -score, entry.file
        return {"most": -1.0, "fewest": 1.0}.get(sort, 0.0) * entry.instances, entry.file

    return key

"""Records and failures on their way to the disk: appended, synced, locked, repaired."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from grounded.errors import ConfigError, OutputError, ResultError
from grounded.labelling.records import Record
from grounded.labelling.store.lock import Lock
from grounded.labelling.store.reading import all_failures, complete_lines, file_of, shards
from grounded.labelling.store.run import FAILURES, RECORDS, REVIEWS, RUN_FILE, Failure, Run
from grounded.utils.files import check_folder, explained, write_atomically

SYNC_SECONDS = 5.0
_BLOCK = 1 << 16
_REMEDY = "use --restart to begin again, or another folder"


def open_run(
    folder: str | PathLike[str], run: Run, restart: bool = False, *, sync_seconds: float = SYNC_SECONDS
) -> "Writer":
    """Begin a run in `folder`, or go on with the one that is there; lines that a killed run cut off are removed.

    Args:
        folder: created where it is missing.
        run: what is asked.
        restart: put aside what an earlier run left, under `replaced/`, and begin again.
        sync_seconds: longest time for which a crash of the machine may lose records; that of the process loses none.

    Raises:
        ConfigError: another run is writing into the folder, or the run that is there was asked something else, and
            `restart` is not set.
        OutputError: the folder cannot be written to.
        ResultError: the folder is damaged beyond a cut-off line.
    """
    path = Path(folder)
    check_folder(path)
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(path)
    try:
        if restart:
            _put_aside(path)
        earlier = _earlier(path, run)
        run = replace(run, weights=(earlier or run).weights)
        if earlier != run:
            run.write(path)
            with explained(path):
                _sync_path(path / RUN_FILE)
                _sync_path(path)
        with explained(path):
            (path / RECORDS).mkdir(exist_ok=True)
        for file in (*shards(path), path / FAILURES):
            _repair(file)
        done = {file_of(line, shard) for shard in shards(path) for _, line in complete_lines(shard)}
        failed = {file: failure for file, failure in all_failures(path).items() if file not in done}
        return Writer(path, run, lock, done, failed, sync_seconds)
    except BaseException:
        lock.release()
        raise


class Writer:
    """Appends to a run's folder, which it holds alone; made by `open_run`, used in a `with` statement and one thread.

    A line reaches the operating system before `append` returns, so that a process that is killed loses no finished
    picture, and the disk after `sync_seconds` at most.

    Attributes:
        folder: of the run.
        run: what is asked.
        done: names of the pictures that have a record.
        failed: the failures so far, by name.
    """

    def __init__(
        self, folder: Path, run: Run, lock: Lock, done: set[str], failed: dict[str, Failure], sync_seconds: float
    ) -> None:
        self.folder, self.run, self.done, self.failed = folder, run, done, failed
        self._lock, self._sync_seconds = lock, sync_seconds
        self._files: dict[Path, BinaryIO] = {}
        self._unsynced: set[Path] = set()
        self._synced_at = time.monotonic()
        self._superseded = False  # whether failures.jsonl holds lines that no longer hold

    def append(self, record: Record, worker: int = 0) -> bool:
        """Add the record of a finished picture to the shard of `worker`; False where the picture has one already.

        Raises:
            OutputError: it cannot be written, as on a full disk. The folder is then as it was before.
        """
        file = record.image.file
        if file in self.done:
            return False
        line = record.to_line(phrase_scores=self.run.phrase_scores)
        self._write(self.folder / RECORDS / f"{worker:05d}.jsonl", line)
        self.done.add(file)
        if self.failed.pop(file, None):
            self._superseded = True
        return True

    def fail(self, failure: Failure) -> bool:
        """Add a picture without an answer; False where it has a record. Attempts of earlier runs are added to its own.

        Raises:
            OutputError: as in `append`.
        """
        if failure.file in self.done:
            return False
        earlier = self.failed.get(failure.file)
        if earlier:
            failure = replace(failure, attempts=failure.attempts + earlier.attempts)
            self._superseded = True
        self._write(self.folder / FAILURES, failure.to_line())
        self.failed[failure.file] = failure
        return True

    def require_weights(self, weights: Mapping[str, str]) -> None:
        """State by which weights the coming pictures are labelled, and refuse others than those before.

        Args:
            weights: by stage, as `grounded.models.weights.hashes` tells them apart. A stage that is missing here or in the
                run is not compared.

        Raises:
            ConfigError: those of a stage are others than the run was labelled with so far.
            OutputError: it cannot be written.
        """
        known = self.run.weights
        changed = [stage for stage, one in weights.items() if self.done and known.get(stage, one) != one]
        if changed:
            names = " and ".join(changed)
            raise ConfigError(f"{self.folder} holds a run with other weights of {names} under the same name; {_REMEDY}")
        if weights.items() - known.items():
            self.run = replace(self.run, weights={**known, **weights})
            self.run.write(self.folder)

    def sync(self) -> None:
        """Wait until all lines so far are on the disk. Raises OutputError."""
        for path in sorted(self._unsynced):
            with explained(path):
                os.fsync(self._files[path].fileno())
        self._unsynced.clear()
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync, leave one line per picture in `failures.jsonl`, and let go of the folder. Raises OutputError."""
        try:
            self.sync()
            if self._superseded:
                lines = b"".join(failure.to_line() for failure in self.failed.values())
                write_atomically(self.folder / FAILURES, lines)
                self._superseded = False
        finally:
            for file in self._files.values():
                file.close()
            self._files.clear()
            self._lock.release()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except OutputError:
            if error is None:  # else the first error is the one to hear of
                raise

    def _write(self, path: Path, line: bytes) -> None:
        with explained(path):
            file = self._files.get(path)
            if file is None:
                new = not path.exists()
                file = self._files[path] = path.open("ab", buffering=0)
                if new:
                    _sync_path(path.parent)
            end = file.seek(0, os.SEEK_END)
            try:
                # A disk that fills up takes a part of the line before it refuses the rest.
                view = memoryview(line)
                while view:
                    view = view[file.write(view) :]
            except BaseException:
                with suppress(OSError):  # else the next writer removes the beginning of the line
                    file.truncate(end)
                raise
        self._unsynced.add(path)
        if time.monotonic() - self._synced_at >= self._sync_seconds:
            self.sync()


def _earlier(folder: Path, run: Run) -> Run | None:
    """The run that the folder holds, if any. Raises ConfigError where its answers and those to `run` must not mix."""
    try:
        earlier = Run.read(folder)
    except ResultError as error:
        if (folder / RUN_FILE).exists() or any((folder / RECORDS).glob("*.jsonl")):
            raise ConfigError(f"{folder} holds records, but not what was asked: {error}; {_REMEDY}") from error
        return None
    if earlier.config != run.config:
        changed = ", ".join(_differences(earlier, run)) or "the configuration"
        raise ConfigError(f"{folder} holds a run that differs in {changed}; {_REMEDY}")
    if earlier.source != run.source:
        raise ConfigError(f"{folder} holds a run on {earlier.source}, got {run.source}; {_REMEDY}")
    return earlier


def _differences(earlier: Run, run: Run) -> list[str]:
    """The settings in which two runs differ: "phrases", "detector.box_threshold"."""
    names = [name for name in ("phrases", "vocabulary", "tiles") if getattr(earlier, name) != getattr(run, name)]
    return names[:1] + _changed_keys(earlier.configuration, run.configuration)


def _changed_keys(before: object, after: object, prefix: str = "") -> list[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [prefix.rstrip(".")]
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [name for key in keys for name in _changed_keys(before.get(key), after.get(key), f"{prefix}{key}.")]


def _put_aside(folder: Path) -> None:
    """Move what a run left out of the way, `run.json` last: until then the folder cannot be taken for another run's."""
    names = [name for name in (RECORDS, FAILURES, REVIEWS, RUN_FILE) if (folder / name).exists()]
    if not names:
        return
    with explained(folder):
        number = 1
        while (folder / "replaced" / f"{number:03d}").exists():
            number += 1
        aside = folder / "replaced" / f"{number:03d}"
        aside.mkdir(parents=True)
        for name in names:
            os.replace(folder / name, aside / name)
        _sync_path(folder)


def _repair(path: Path) -> None:
    """Remove what follows the last line feed: a line that was being written when the process or the machine died."""
    if not path.exists():
        return
    with explained(path), path.open("r+b") as file:
        end = start = file.seek(0, os.SEEK_END)
        kept = 0
        while start and not kept:
            start, stop = max(0, start - _BLOCK), start
            file.seek(start)
            feed = file.read(stop - start).rfind(b"\n")
            kept = start + feed + 1 if feed >= 0 else 0
        if kept != end:
            file.truncate(kept)


def _sync_path(path: Path) -> None:
    """Make a file, or the names in a folder, survive a crash of the machine, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

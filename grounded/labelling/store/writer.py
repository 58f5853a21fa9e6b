"""Writes records and failures: appends and syncs lines, locks the folder, and repairs the files of a killed run."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from filelock import FileLock, Timeout

from grounded.errors import BusyError, ConfigError, OutputError, ResultError
from grounded.labelling.records import Record
from grounded.labelling.store.reader import (
    complete_lines,
    list_shards,
    parse_file_name,
    read_all_failures,
    read_finished_clips,
)
from grounded.labelling.store.run import CLIPS, FAILURES, RECORDS, REVIEWS, RUN_FILE, Failure, FinishedClip, Run
from grounded.labelling.store.source_ids import SOURCE_IDS
from grounded.utils.files import LOCK_FILE, check_folder, output_errors, write_atomically

SYNC_SECONDS = 5.0
OWNER_FILE = ".lock-owner"  # names the process that holds the lock; only read for the message to others
_BLOCK = 1 << 16
_REMEDY = "use --restart to begin again, or another folder"


def open_run(
    folder: str | PathLike[str], run: Run, restart: bool = False, *, sync_seconds: float = SYNC_SECONDS
) -> "Writer":
    """Begin a run in `folder`, or continue the one that is there; lines that a killed run cut off are removed.

    Args:
        folder: created where it is missing.
        run: description of the run.
        restart: move the files of an earlier run aside, to `replaced/`, and begin again.
        sync_seconds: longest time for which a crash of the machine may lose records; that of the process loses none.

    Raises:
        BusyError: another run is writing into the folder.
        ConfigError: the run that is there has other phrases or settings, and `restart` is not set.
        OutputError: the folder cannot be written to.
        ResultError: the folder is damaged beyond a cut-off line.
    """
    path = Path(folder)
    check_folder(path)
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    lock = _lock_folder(path)
    try:
        if restart:
            _move_aside(path)
        _check_stored_text(run)
        earlier = _read_earlier_run(path, run)
        run = replace(run, weights=(earlier or run).weights)
        if earlier != run:
            run.write(path)
            with output_errors(path):
                _sync_path(path / RUN_FILE)
                _sync_path(path)
        with output_errors(path):
            (path / RECORDS).mkdir(exist_ok=True)
        for file in (*list_shards(path), path / FAILURES, path / CLIPS):
            _repair(file)
        done = {parse_file_name(line, shard) for shard in list_shards(path) for _, line in complete_lines(shard)}
        clips = read_finished_clips(path)
        failures = read_all_failures(path)
        failed = {file: failure for file, failure in failures.items() if file not in done and file not in clips}
        return Writer(path, run, lock, done, failed, sync_seconds, clips)
    except BaseException:
        lock.release()
        raise


class Writer:
    """Appends to a run's folder, which it has locked; made by `open_run`, used in a `with` statement and one thread.

    A line reaches the operating system before `append` returns, so that a process that is killed loses no finished
    image, and the disk after `sync_seconds` at most.

    Attributes:
        folder: of the run.
        run: its description.
        done: names of the images, frames among them, that have a record.
        clips: the clips whose frames all have one, by name.
        failed: the failures so far, by name.
    """

    def __init__(
        self,
        folder: Path,
        run: Run,
        lock: FileLock,
        done: set[str],
        failed: dict[str, Failure],
        sync_seconds: float,
        clips: dict[str, FinishedClip],
    ) -> None:
        self.folder, self.run, self.done, self.failed, self.clips = folder, run, done, failed, clips
        self._lock, self._sync_seconds = lock, sync_seconds
        self._files: dict[Path, BinaryIO] = {}
        self._unsynced: set[Path] = set()
        self._synced_at = time.monotonic()
        self._has_stale_failures = False  # whether failures.jsonl holds lines that are out of date

    def append(self, record: Record, worker: int = 0) -> bool:
        """Add the record of a finished image to the shard of `worker`; False if the image has one already.

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
            self._has_stale_failures = True
        return True

    def finish(self, clip: FinishedClip) -> bool:
        """Add a clip whose frames all have a record; False if that is known.

        Raises:
            OutputError: as in `append`.
        """
        if clip.file in self.clips:
            return False
        self._write(self.folder / CLIPS, clip.to_line())
        self.clips[clip.file] = clip
        if self.failed.pop(clip.file, None):
            self._has_stale_failures = True
        return True

    def fail(self, failure: Failure) -> bool:
        """Add an image or clip that failed; False if it has a record. Attempts of earlier runs are added to its own.

        Raises:
            OutputError: as in `append`.
        """
        if failure.file in self.done or failure.file in self.clips:
            return False
        earlier = self.failed.get(failure.file)
        if earlier:
            failure = replace(failure, attempts=failure.attempts + earlier.attempts)
            self._has_stale_failures = True
        self._write(self.folder / FAILURES, failure.to_line())
        self.failed[failure.file] = failure
        return True

    def require_weights(self, weights: Mapping[str, str], models: Mapping[str, str | None] | None = None) -> None:
        """State the weights that label the following images, and refuse others than those so far.

        Args:
            weights: a hash for each stage, from `grounded.models.checkpoints.hash_checkpoints`. A stage that is missing
                here or in the run is not compared.
            models: the checkpoint of each stage with its commit on the hub, which is known once it is downloaded.

        Raises:
            ConfigError: those of a stage differ from the ones that the run was labelled with so far.
            OutputError: it cannot be written.
        """
        known = self.run.weights
        changed = [stage for stage, one in weights.items() if self.done and known.get(stage, one) != one]
        if changed:
            names = " and ".join(changed)
            raise ConfigError(f"{self.folder} holds a run with other weights of {names} under the same name; {_REMEDY}")
        models = {**self.run.models, **(models or {})}
        if weights.items() - known.items() or models != self.run.models:
            self.run = replace(self.run, weights={**known, **weights}, models=models)
            self.run.write(self.folder)

    def sync(self) -> None:
        """Wait until all lines so far are on the disk. Raises OutputError."""
        for path in sorted(self._unsynced):
            with output_errors(path):
                os.fsync(self._files[path].fileno())
        self._unsynced.clear()
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync, leave one line per image in `failures.jsonl`, and unlock the folder. Raises OutputError."""
        try:
            self.sync()
            if self._has_stale_failures:
                lines = b"".join(failure.to_line() for failure in self.failed.values())
                write_atomically(self.folder / FAILURES, lines)
                self._has_stale_failures = False
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
            if error is None:  # else the first error is the one to report
                raise

    def _write(self, path: Path, line: bytes) -> None:
        with output_errors(path):
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


def _lock_folder(folder: Path) -> FileLock:
    """Lock a folder; the system unlocks it when the process ends, however it ends.

    Raises:
        BusyError: another process, or another writer of this one, holds the lock.
        OutputError: the lock's file cannot be written.
    """
    lock, owner_file = FileLock(folder / LOCK_FILE), folder / OWNER_FILE
    with output_errors(folder / LOCK_FILE):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            owner = "unknown"
            with suppress(OSError):
                owner = owner_file.read_text(errors="replace").strip() or owner
            raise BusyError(f"another run is writing into {folder}: {owner}") from error
    with suppress(OSError):  # only informs; later writes find out about a full disk
        owner_file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    return lock


def _read_earlier_run(folder: Path, run: Run) -> Run | None:
    """The run that the folder holds, if any. Raises ConfigError if its records and those of `run` must not mix."""
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
    names = [
        name for name in ("phrases", "vocabulary", "tiles", "clips") if getattr(earlier, name) != getattr(run, name)
    ]
    return names[:1] + _changed_keys(earlier.configuration, run.configuration)


def _changed_keys(before: object, after: object, prefix: str = "") -> list[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [prefix.rstrip(".")]
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [name for key in keys for name in _changed_keys(before.get(key), after.get(key), f"{prefix}{key}.")]


def _check_stored_text(run: Run) -> None:
    """Raise ConfigError where the place of the images cannot be stored: run.json is UTF-8."""
    try:
        run.source.encode()
    except UnicodeEncodeError as error:
        shown = run.source.encode(errors="backslashreplace").decode()
        raise ConfigError(f"the name of the images must be UTF-8, to be stored with the run, got {shown}") from error


def _move_aside(folder: Path) -> None:
    """Move the files of a run to `replaced/`, `run.json` last: until then the folder stays recognisable as a run's."""
    names = [name for name in (RECORDS, FAILURES, CLIPS, REVIEWS, SOURCE_IDS, RUN_FILE) if (folder / name).exists()]
    if not names:
        return
    with output_errors(folder):
        number = 1
        while (folder / "replaced" / f"{number:03d}").exists():
            number += 1
        aside = folder / "replaced" / f"{number:03d}"
        aside.mkdir(parents=True)
        for name in names:
            os.replace(folder / name, aside / name)
        _sync_path(folder)


def _repair(path: Path) -> None:
    """Cut a file after its last line feed: the rest is a line that was written when the process or the machine died."""
    if not path.exists():
        return
    with output_errors(path), path.open("r+b") as file:
        end = start = file.seek(0, os.SEEK_END)
        whole = 0  # bytes up to the end of the last whole line
        while start and not whole:
            start, stop = max(0, start - _BLOCK), start
            file.seek(start)
            feed = file.read(stop - start).rfind(b"\n")
            whole = start + feed + 1 if feed >= 0 else 0
        if whole != end:
            file.truncate(whole)


def _sync_path(path: Path) -> None:
    """Make a file, or the names in a folder, survive a crash of the machine, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Progress of a labelling run: counts, a bar on a terminal or lines in a log file, and the summary at the end."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tqdm import tqdm

from grounded.data.phrases import shortened
from grounded.labelling.records import Record
from grounded.labelling.store import Failure, FinishedClip

# Phrases of a summary, most frequent first; a long vocabulary would fill the screen.
_PHRASES_LISTED = 20
_CLIPS_LISTED = 5  # by name, of those in which nothing was seen
LINE_SECONDS = 30.0


@dataclass(frozen=True)
class RunSummary:
    """Results of one run; those of earlier runs into the same folder are only in `skipped`."""

    images: int = 0  # with a new record, frames of clips among them
    failures: int = 0
    skipped: int = 0  # labelled before
    instances: Mapping[str, int] = field(default_factory=dict)  # by phrase
    seconds: float = 0.0
    interrupted: bool = False
    frames: int = 0  # of clips
    clips: tuple[FinishedClip, ...] = ()  # whose last frames are among them

    @property
    def rate(self) -> float:
        """Images and frames per second, failures among them."""
        return (self.images + self.failures) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        before = f", {self.skipped} labelled before" if self.skipped else ""
        frames = f" and {_counted(self.frames, 'frame')} of clips" if self.frames else ""
        lines = [
            f"{'interrupted: ' if self.interrupted else ''}{_counted(self.images - self.frames, 'image')}{frames} "
            f"labelled{before}, {_counted(self.failures, 'failure')}, in {_duration(self.seconds)}, "
            f"{self.rate:.2f} images/s",
            _counted(sum(self.instances.values()), "instance"),
        ]
        ranked = sorted(self.instances.items(), key=lambda entry: -entry[1])
        lines += [f"  {count:>8}  {shortened(phrase)}" for phrase, count in ranked[:_PHRASES_LISTED]]
        if len(ranked) > _PHRASES_LISTED:
            others = ranked[_PHRASES_LISTED:]
            lines.append(f"  {sum(count for _, count in others):>8}  {len(others)} other phrases")
        return "\n".join([*lines, *self._clip_lines()])

    def _clip_lines(self) -> list[str]:
        """How many objects were followed through the clips that are finished, and in which clips there was none."""
        if not self.clips:
            return []
        tracks = sum(sum(clip.tracks.values()) for clip in self.clips)
        lines = [f"{_counted(len(self.clips), 'clip')} finished, {_counted(tracks, 'track')}"]
        empty = [clip.file for clip in self.clips if not clip.tracks]
        if empty:
            others = f" and {len(empty) - _CLIPS_LISTED} more" if len(empty) > _CLIPS_LISTED else ""
            lines.append(f"nothing was seen in {', '.join(empty[:_CLIPS_LISTED])}{others}")
        return lines


class RunCounter:
    """Counts images, frames, failures and instances while a run goes on."""

    def __init__(self, phrases: Sequence[str] = ()) -> None:
        self.images = self.failures = self.instances = self.frames = 0
        self._clips: list[FinishedClip] = []
        self._per_phrase: Counter[str] = Counter(dict.fromkeys(phrases, 0))
        self._start = time.monotonic()

    def add(self, outcome: Record | Failure | FinishedClip) -> None:
        if isinstance(outcome, Failure):
            self.failures += 1
            return
        if isinstance(outcome, FinishedClip):
            self._clips.append(outcome)
            return
        self.images += 1
        self.frames += outcome.frame is not None
        self.instances += len(outcome.instances)
        self._per_phrase.update(outcome.instances.labels.tolist())

    @property
    def done(self) -> int:
        """Images that were labelled or failed."""
        return self.images + self.failures

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def summary(self, skipped: int = 0, interrupted: bool = False) -> RunSummary:
        return RunSummary(
            images=self.images,
            failures=self.failures,
            skipped=skipped,
            instances=dict(self._per_phrase),
            seconds=self.seconds,
            interrupted=interrupted,
            frames=self.frames,
            clips=tuple(self._clips),
        )


@runtime_checkable
class RunProgress(Protocol):
    """Shows how far a run has come: `start` once, `update` after every image, `close` at the end."""

    def start(self, done_before: int, count: Callable[[], int | None]) -> None:
        """Begin to show.

        Args:
            done_before: images that were labelled or failed in earlier runs.
            count: returns the number of all images, or None where unknown; may take minutes.
        """
        ...

    def update(self, counter: RunCounter) -> None: ...

    def close(self, counter: RunCounter) -> None: ...


@runtime_checkable
class TextStream(Protocol):
    """The part of a text file that progress needs, such as `sys.stderr`."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


class NoProgress:
    """Shows nothing."""

    def start(self, done_before: int, count: Callable[[], int | None]) -> None: ...

    def update(self, counter: RunCounter) -> None: ...

    def close(self, counter: RunCounter) -> None: ...


class ProgressBar:
    """A bar with the rate, the remaining time, instances and failures."""

    def __init__(self, stream: TextStream) -> None:
        self._bar = tqdm(unit="image", file=stream, dynamic_ncols=True, disable=True)
        self._stream = stream

    def start(self, done_before: int, count: Callable[[], int | None]) -> None:
        self._bar = tqdm(unit="image", file=self._stream, dynamic_ncols=True, initial=done_before, smoothing=0.05)
        _count_in_thread(count, self._set_total)

    def update(self, counter: RunCounter) -> None:
        self._bar.set_postfix(instances=counter.instances, failures=counter.failures, refresh=False)
        self._bar.update()

    def close(self, counter: RunCounter) -> None:
        self._bar.close()

    def _set_total(self, total: int) -> None:
        self._bar.total = total


class ProgressLines:
    """A line every `every` seconds, for log files."""

    def __init__(self, stream: TextStream, every: float = LINE_SECONDS) -> None:
        self._stream, self._every = stream, every
        self._done_before, self._printed_at = 0, time.monotonic()
        self._total: int | None = None

    def start(self, done_before: int, count: Callable[[], int | None]) -> None:
        self._done_before, self._printed_at = done_before, time.monotonic()
        _count_in_thread(count, self._set_total)

    def update(self, counter: RunCounter) -> None:
        if time.monotonic() - self._printed_at >= self._every:
            self._print(counter)

    def close(self, counter: RunCounter) -> None:
        self._print(counter)

    def _set_total(self, total: int) -> None:
        self._total = total

    def _print(self, counter: RunCounter) -> None:
        self._printed_at = time.monotonic()
        done, rate = self._done_before + counter.done, counter.done / max(counter.seconds, 1e-9)
        parts = [f"{done} images" if self._total is None else f"{done} of {self._total} images"]
        parts.append(f"{rate:.2f} images/s")
        if self._total is not None and rate:
            parts.append(f"{_duration(max(0, self._total - done) / rate)} left")
        parts += [_counted(counter.instances, "instance"), _counted(counter.failures, "failure")]
        print(", ".join(parts), file=self._stream, flush=True)


def open_progress(stream: TextStream | None = None, every: float = LINE_SECONDS) -> RunProgress:
    """Return a bar if `stream` is a terminal, else lines every so many seconds; by default on the standard error."""
    stream = sys.stderr if stream is None else stream
    return ProgressBar(stream) if stream.isatty() else ProgressLines(stream, every)


def _count_in_thread(count: Callable[[], int | None], set_total: Callable[[int], None]) -> None:
    """Count while the run goes on, because listing millions of files takes minutes."""

    def work() -> None:
        try:
            total = count()
        except Exception:  # the run itself will report an unreadable source
            return
        if total is not None:
            set_total(total)

    threading.Thread(target=work, daemon=True, name="count").start()


def _duration(seconds: float) -> str:
    """Format as 1 h 02 min, 3 min 20 s, or 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remainder:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"

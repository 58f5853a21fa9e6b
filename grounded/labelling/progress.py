"""How far labelling has come: a bar on a terminal, lines elsewhere, and a summary at the end."""

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
from grounded.labelling.store import Failure

# Phrases of a summary, most frequent first; a long vocabulary would fill the screen.
_PHRASES_LISTED = 20
LINE_SECONDS = 30.0


@dataclass(frozen=True)
class Summary:
    """What one run did; earlier runs into the same folder are only in `skipped`."""

    pictures: int = 0  # with a new record
    failures: int = 0
    skipped: int = 0  # labelled before
    instances: Mapping[str, int] = field(default_factory=dict)  # by phrase
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def rate(self) -> float:
        """Pictures per second, failures among them."""
        return (self.pictures + self.failures) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        before = f", {self.skipped} labelled before" if self.skipped else ""
        lines = [
            f"{'interrupted: ' if self.interrupted else ''}{_number(self.pictures, 'picture')} labelled{before}, "
            f"{_number(self.failures, 'failure')}, in {_clock(self.seconds)}, {self.rate:.2f} pictures/s",
            _number(sum(self.instances.values()), "instance"),
        ]
        ranked = sorted(self.instances.items(), key=lambda entry: -entry[1])
        lines += [f"  {count:>8}  {shortened(phrase)}" for phrase, count in ranked[:_PHRASES_LISTED]]
        if len(ranked) > _PHRASES_LISTED:
            rest = ranked[_PHRASES_LISTED:]
            lines.append(f"  {sum(count for _, count in rest):>8}  {len(rest)} other phrases")
        return "\n".join(lines)


class Tally:
    """Counts outcomes as they come."""

    def __init__(self, phrases: Sequence[str] = ()) -> None:
        self.pictures = self.failures = self.found = 0
        self._per_phrase: Counter[str] = Counter(dict.fromkeys(phrases, 0))
        self._start = time.monotonic()

    def add(self, outcome: Record | Failure) -> None:
        if isinstance(outcome, Failure):
            self.failures += 1
            return
        self.pictures += 1
        self.found += len(outcome.instances)
        self._per_phrase.update(outcome.instances.labels.tolist())

    @property
    def handled(self) -> int:
        """Pictures that were labelled or failed."""
        return self.pictures + self.failures

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def summary(self, skipped: int = 0, interrupted: bool = False) -> Summary:
        counts = dict(self._per_phrase)
        return Summary(self.pictures, self.failures, skipped, counts, self.seconds, interrupted)


@runtime_checkable
class Progress(Protocol):
    """Shows how far a run is. `begin` comes first, `end` last."""

    def begin(self, before: int, count: Callable[[], int | None]) -> None:
        """Start, with pictures that were handled before, and a function that finds out, slowly, how many there are."""
        ...

    def show(self, tally: Tally) -> None:
        """Another picture is done."""
        ...

    def end(self, tally: Tally) -> None: ...


@runtime_checkable
class Stream(Protocol):
    """Where text is shown, such as `sys.stderr`."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


class Silent:
    """Shows nothing."""

    def begin(self, before: int, count: Callable[[], int | None]) -> None: ...

    def show(self, tally: Tally) -> None: ...

    def end(self, tally: Tally) -> None: ...


class Bar:
    """A bar with the rate, the remaining time, instances and failures."""

    def __init__(self, stream: Stream) -> None:
        self._bar = tqdm(unit="picture", file=stream, dynamic_ncols=True, disable=True)
        self._stream = stream

    def begin(self, before: int, count: Callable[[], int | None]) -> None:
        self._bar = tqdm(unit="picture", file=self._stream, dynamic_ncols=True, initial=before, smoothing=0.05)
        _count_aside(count, self._set_total)

    def show(self, tally: Tally) -> None:
        self._bar.set_postfix(instances=tally.found, failures=tally.failures, refresh=False)
        self._bar.update()

    def end(self, tally: Tally) -> None:
        self._bar.close()

    def _set_total(self, total: int) -> None:
        self._bar.total = total


class Lines:
    """A line now and then, for log files."""

    def __init__(self, stream: Stream, every: float = LINE_SECONDS) -> None:
        self._stream, self._every = stream, every
        self._before, self._last = 0, time.monotonic()
        self._total: int | None = None

    def begin(self, before: int, count: Callable[[], int | None]) -> None:
        self._before, self._last = before, time.monotonic()
        _count_aside(count, self._set_total)

    def show(self, tally: Tally) -> None:
        if time.monotonic() - self._last >= self._every:
            self._print(tally)

    def end(self, tally: Tally) -> None:
        self._print(tally)

    def _set_total(self, total: int) -> None:
        self._total = total

    def _print(self, tally: Tally) -> None:
        self._last = time.monotonic()
        done, rate = self._before + tally.handled, tally.handled / max(tally.seconds, 1e-9)
        parts = [f"{done} pictures" if self._total is None else f"{done} of {self._total} pictures"]
        parts.append(f"{rate:.2f} pictures/s")
        if self._total is not None and rate:
            parts.append(f"{_clock(max(0, self._total - done) / rate)} left")
        parts += [_number(tally.found, "instance"), _number(tally.failures, "failure")]
        print(", ".join(parts), file=self._stream, flush=True)


def on(stream: Stream | None = None, every: float = LINE_SECONDS) -> Progress:
    """Return what suits `stream`, the standard error by default: a bar on a terminal, a line every so many seconds."""
    stream = sys.stderr if stream is None else stream
    return Bar(stream) if stream.isatty() else Lines(stream, every)


def _count_aside(count: Callable[[], int | None], tell: Callable[[int], None]) -> None:
    """Count while work goes on: listing millions of files takes minutes."""

    def work() -> None:
        try:
            total = count()
        except Exception:  # the run itself will meet what is wrong with the source
            return
        if total is not None:
            tell(total)

    threading.Thread(target=work, daemon=True, name="count").start()


def _clock(seconds: float) -> str:
    """1 h 02 min, 3 min 20 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _number(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"

"""Progress of long events: time limits, the names of the stages, and a progress bar as HTML."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

from grounded.errors import GroundedError
from grounded.utils.timing import Stopwatch

T = TypeVar("T")
ReportProgress = Callable[[int, int], None]  # called with what is done and what there is in all

# What users read of each stage, in the order in which they usually run.
_STAGE_TEXTS = {
    "open": "opening the image",
    "detect": "looking for boxes",
    "embed_text": "reading the phrases",
    "dense_prompts": "reading the phrases",
    "encode": "encoding the image",
    "segment": "decoding masks",
    "zoom": "zooming in on small instances",
    "clean": "removing small regions",
    "score": "comparing with the phrases",
    "automatic_masks": "segmenting everything",
}


class TimeLimitError(GroundedError, TimeoutError):
    """The time that one event may take is up."""


class Deadline(Stopwatch):
    """A stopwatch that lets no stage begin after the time is up. A stage that has begun is allowed to finish.

    Args:
        seconds: from now.
        synchronize: as in `Stopwatch`.
    """

    def __init__(self, seconds: float, synchronize: Callable[[], None] | None = None) -> None:
        super().__init__(synchronize)
        self.limit = seconds
        self._end = time.monotonic() + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """As in `Stopwatch`.

        Raises:
            TimeLimitError: the time is up.
        """
        self.check()
        with super().stage(name):
            yield

    def check(self) -> None:
        """Do nothing while there is time.

        Raises:
            TimeLimitError: the time is up.
        """
        if time.monotonic() >= self._end:
            raise TimeLimitError(
                f"the time limit of {self.limit:g} s is reached: try a smaller image, fewer phrases or fewer images"
            )

    def split(self) -> "Deadline":
        """A stopwatch that starts at zero and has the same deadline, for one of several images."""
        stopwatch = Deadline(self.limit, self._synchronize)
        stopwatch._end = self._end
        return stopwatch


class StageProgress(Deadline):
    """A deadline that reports each stage to a progress bar before it begins.

    Args:
        seconds: as in `Deadline`.
        report: called with the approximate share of the work that is done, from 0 to 1, and a text on the next stage.
    """

    def __init__(self, seconds: float, report: Callable[[float, str], None]) -> None:
        super().__init__(seconds)
        self._report = report

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """As in `Deadline`."""
        stages = list(_STAGE_TEXTS)
        done = (stages.index(name) if name in stages else len(stages) - 1) / len(stages)
        self._report(done, _STAGE_TEXTS.get(name, name))
        with super().stage(name):
            yield


class _Closed(Exception):
    """The generator was closed: nobody needs the result any more."""


def run_with_progress(call: Callable[[ReportProgress], T]) -> Generator[tuple[int, int], None, T]:
    """Run a call that reports (done, total) in a thread. Yields the reports, and returns what the call returns.

    Closing the generator ends the call at its next report, without waiting for it: the thread that closes it may be
    the one that serves all users.

    Raises:
        Exception: what the call raises.
    """
    reports: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
    closed = threading.Event()

    def report(done: int, total: int) -> None:
        if closed.is_set():
            raise _Closed
        reports.put((done, total))

    pool = ThreadPoolExecutor(1, thread_name_prefix="progress")
    try:
        result = pool.submit(call, report)
        result.add_done_callback(lambda _: reports.put(None))
        while (step := reports.get()) is not None:
            yield step
        return result.result()
    finally:
        closed.set()
        pool.shutdown(wait=False)


@dataclass(frozen=True)
class ProgressBar:
    """A bar with a line below it, as HTML."""

    unit: str  # in the plural: "points"
    start: float = field(default_factory=time.monotonic)
    before: int = 0  # how much was done at the start

    def waiting(self, text: str) -> str:
        """A bar that only shows that something is going on."""
        return _bar_html(1.0, "", text)

    def at(self, done: int, total: int, note: str = "") -> str:
        """A bar at `done` of `total`, with the rate so far, the time that is left, and a note of the app's own."""
        elapsed = max(time.monotonic() - self.start, 1e-6)
        text = f"{done} of {total} {self.unit}" + (f", {note}" if note else "")
        if done > self.before:
            rate = (done - self.before) / elapsed
            left = round((total - done) / rate)
            text += f", {rate:.{0 if rate >= 10 else 1}f} per second, about "
            text += f"{left} s left" if left < 90 else f"{round(left / 60)} min left"
        return _bar_html(done / max(total, 1), f' aria-valuenow="{done}" aria-valuemax="{total}"', text)


def message_html(text: str) -> str:
    """A line without a bar. `text` must be the app's own and not a user's."""
    return f'<p role="status" style="margin: 0">{text}</p>' if text else ""


def _bar_html(share: float, values: str, text: str) -> str:
    # A bar whose end is not known is faint all over.
    opacity = "" if values else "; opacity: 0.35"
    return (
        f'<div role="progressbar" aria-label="Progress" aria-valuemin="0"{values} style="height: 0.5rem; '
        'border-radius: 0.25rem; overflow: hidden; background: var(--border-color-primary)">'
        f'<div style="height: 100%; width: {share:.1%}; background: var(--color-accent){opacity}"></div></div>'
        f'<p role="status" style="margin: 0.25rem 0 0">{text}</p>'
    )

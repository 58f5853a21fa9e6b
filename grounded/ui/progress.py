"""Progress of long events: a call as a generator of its steps, and steps as a line with a bar."""

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
Report = Callable[[int, int], None]


class _Closed(Exception):
    """Nobody waits for the answer any more."""


def steps(call: Callable[[Report], T]) -> Generator[tuple[int, int], None, T]:
    """Run a call that reports (done, total) in a thread, and yield what it reports; the value is what it returns.

    Closing the generator ends the call at its next report, without waiting for that: who closes it may be the one who
    serves all users.

    Raises:
        Exception: what the call raises.
    """
    told: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
    closed = threading.Event()

    def report(done: int, total: int) -> None:
        if closed.is_set():
            raise _Closed
        told.put((done, total))

    pool = ThreadPoolExecutor(1, thread_name_prefix="steps")
    try:
        answer = pool.submit(call, report)
        answer.add_done_callback(lambda _: told.put(None))
        while (step := told.get()) is not None:
            yield step
        return answer.result()
    finally:
        closed.set()
        pool.shutdown(wait=False)


@dataclass(frozen=True)
class Line:
    """One line on how far an event is, with a bar."""

    unit: str  # in the plural: "points"
    start: float = field(default_factory=time.monotonic)

    def waiting(self, text: str) -> str:
        """HTML of a bar that only shows that something goes on."""
        return _html(1.0, "", text)

    def at(self, done: int, total: int) -> str:
        """HTML of a bar at `done` of `total`, with the rate so far and the time that is left."""
        spent = max(time.monotonic() - self.start, 1e-6)
        text = f"{done} of {total} {self.unit}"
        if done:
            text += f", {_number(done / spent)} per second, about {_time((total - done) * spent / done)} left"
        return _html(done / max(total, 1), f' aria-valuenow="{done}" aria-valuemax="{total}"', text)


def words(text: str) -> str:
    """HTML of a line without a bar: `text`, which must be the app's own and not a user's."""
    return f'<p role="status" style="margin: 0">{text}</p>' if text else ""


def _html(share: float, values: str, text: str) -> str:
    # A bar whose end is not known is faint all over.
    opacity = "" if values else "; opacity: 0.35"
    return (
        f'<div role="progressbar" aria-label="Progress" aria-valuemin="0"{values} style="height: 0.5rem; '
        'border-radius: 0.25rem; overflow: hidden; background: var(--border-color-primary)">'
        f'<div style="height: 100%; width: {share:.1%}; background: var(--color-accent){opacity}"></div></div>'
        f'<p role="status" style="margin: 0.25rem 0 0">{text}</p>'
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{round(whole / 60)} min"

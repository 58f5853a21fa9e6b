"""Ending a run from outside: what is in work is finished and written, unless one insists."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Tells whether a signal has come, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """128 + the signal, as shells have it: 130 for Ctrl-C, 143 for SIGTERM; 0 where none came."""
        return 128 + self.signal if self.signal is not None else 0


@contextmanager
def interruptible(say: Callable[[str], None] | None = None) -> Iterator[Interruption]:
    """Within the `with` statement, take Ctrl-C and SIGTERM as a wish to stop, and a second one as an order.

    At the second the process ends at once: lines that were written are with the operating system already. Outside the
    main thread, which alone receives signals, nothing changes.

    Args:
        say: told what happens, in one line.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def take(number: int, frame: FrameType | None) -> None:
        if interruption():
            sys.stderr.flush()
            os._exit(128 + number)
        interruption.signal = number
        if say:
            say("Stopping: the pictures in work are finished first. Once more to stop at once.")

    earlier = {number: signal.signal(number, take) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)

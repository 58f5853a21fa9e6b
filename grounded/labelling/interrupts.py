"""Ctrl-C and SIGTERM during a run: batches in progress are finished and written, unless a second signal comes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """The first signal that came, if any. Calling it says whether to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """128 + the signal, as in shells: 130 for Ctrl-C, 143 for SIGTERM; 0 without a signal."""
        return 128 + self.signal if self.signal is not None else 0


@contextmanager
def catch_interrupts(notify: Callable[[str], None] | None = None) -> Iterator[Interrupt]:
    """Within the `with` statement, record Ctrl-C or SIGTERM instead of raising; a second one ends the process at once.

    Ending at once loses no record, because written lines are with the operating system already. Outside the main
    thread, which alone receives signals, nothing changes.

    Args:
        notify: called with one line for the user when the first signal comes.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt():
            sys.stderr.flush()
            os._exit(128 + number)
        interrupt.signal = number
        if notify:
            notify("Stopping: the images in work are finished first. Once more to stop at once.")

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""An end to the time that one event of the app may take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grounded.errors import GroundedError
from grounded.utils.timing import Stopwatch


class TimeLimitError(GroundedError, TimeoutError):
    """The time that one event may take is up."""


class Deadline(Stopwatch):
    """A stopwatch under which no stage begins after the time is up. A stage that has begun is let finish.

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
                f"the time limit of {self.limit:g} s is reached: try a smaller picture, fewer phrases or fewer pictures"
            )

    def lap(self) -> "Deadline":
        """A stopwatch with no seconds on it that ends with this one."""
        lap = Deadline(self.limit, self._synchronize)
        lap._end = self._end
        return lap

"""Where the time goes, by stage."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds spent in named stages.

    The caller makes one and passes it in, so that nothing is remembered between calls that it did not ask for:

        watch = Stopwatch()
        pipeline.segment(image, text, watch)
        watch.seconds  # {"detect": 0.21, "encode": 0.34, "decode": 0.05, ...}

    `synchronize` is called at both ends of a stage. On a GPU pass `torch.cuda.synchronize`: kernels run on after the
    call that started them, and their time would fall into a later stage.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._synchronize = synchronize or (lambda: None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement, also where it raises."""
        self._synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.seconds.items())

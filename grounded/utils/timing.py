"""A stopwatch that adds up the time of each stage. For the pipeline and its callers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

S = TypeVar("S", bound="Stopwatch")


class Stopwatch:
    """Adds up the seconds spent in named stages.

    The caller makes one and passes it in, so that nothing is remembered from one call to the next by itself:

        stopwatch = Stopwatch.for_device()
        pipeline.segment(image, text, stopwatch=stopwatch)
        stopwatch.seconds  # {"detect": 0.21, "encode": 0.34, "decode": 0.05, ...}

    `synchronize` is called at both ends of a stage. On a GPU it must be `torch.cuda.synchronize`, as `for_device` has
    it: kernels run on after the call that started them, and their time would fall into a later stage.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._synchronize = synchronize or (lambda: None)

    @classmethod
    def for_device(cls: type[S], **options: Any) -> S:
        """Return a stopwatch that waits for the GPU at both ends of a stage, if PyTorch is using one by now.

        Args:
            options: further arguments of a subclass.
        """
        import torch  # here, so that the command line starts without it

        return cls(synchronize=torch.cuda.synchronize if torch.cuda.is_initialized() else None, **options)

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

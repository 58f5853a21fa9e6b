"""Stages of the pipeline, said aloud while they run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grounded.ui.deadline import Deadline

# In the order in which they usually run.
_WORDS = {
    "open": "opening the picture",
    "detect": "looking for boxes",
    "text": "reading the phrases",
    "encode": "encoding the picture",
    "decode": "decoding masks",
    "refine": "refining masks",
    "masks": "scaling masks",
    "score": "comparing with the phrases",
    "automatic": "segmenting everything",
}


class Announced(Deadline):
    """A stopwatch that tells of each stage before it begins.

    Args:
        seconds: until the end, as in `Deadline`.
        say: called with about the share of the work that is done, from 0 to 1, and words for what comes.
    """

    def __init__(self, seconds: float, say: Callable[[float, str], None]) -> None:
        super().__init__(seconds)
        self._say = say

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """As in `Deadline`."""
        stages = list(_WORDS)
        done = (stages.index(name) if name in stages else len(stages) - 1) / len(stages)
        self._say(done, _WORDS.get(name, name))
        with super().stage(name):
            yield

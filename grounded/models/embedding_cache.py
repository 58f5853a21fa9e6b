"""A small memory of what was embedded before."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock

from jaxtyping import Float
from torch import Tensor


class EmbeddingCache:
    """A bounded mapping from phrases to embeddings that forgets what was not asked for longest. Safe with threads."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._entries: OrderedDict[str, Float[Tensor, c]] = OrderedDict()
        self._lock = Lock()

    def find(self, phrases: Sequence[str]) -> dict[str, Float[Tensor, "c"]]:
        """Return those of `phrases` that are known."""
        with self._lock:
            found = {phrase: self._entries[phrase] for phrase in phrases if phrase in self._entries}
            for phrase in found:
                self._entries.move_to_end(phrase)
        return found

    def store(self, embeddings: Mapping[str, Float[Tensor, "c"]]) -> None:
        """Add `embeddings`, then forget the oldest entries beyond the capacity."""
        with self._lock:
            self._entries.update(embeddings)
            while len(self._entries) > self.capacity:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)

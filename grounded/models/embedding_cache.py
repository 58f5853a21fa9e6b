"""A bounded cache of text embeddings, shared by CLIP and the detectors."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock

from jaxtyping import Float
from torch import Tensor


class EmbeddingCache:
    """A least recently used cache from texts to embeddings, for any number of threads.

    Args:
        capacity: most entries.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._entries: OrderedDict[str, Float[Tensor, c]] = OrderedDict()
        self._lock = Lock()

    def find(self, texts: Sequence[str]) -> dict[str, Float[Tensor, "c"]]:
        """Return the embeddings of those of `texts` that are cached."""
        with self._lock:
            found = {text: self._entries[text] for text in texts if text in self._entries}
            for text in found:
                self._entries.move_to_end(text)
        return found

    def store(self, embeddings: Mapping[str, Float[Tensor, "c"]]) -> None:
        """Add `embeddings`, then drop the least recently used entries beyond the capacity."""
        with self._lock:
            self._entries.update(embeddings)
            while len(self._entries) > self.capacity:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)

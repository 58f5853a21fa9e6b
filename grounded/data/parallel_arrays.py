"""Values that hold one entry per row in several arrays: the base class of detections and instances."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Int64, Shaped
from numpy.typing import DTypeLike

P = TypeVar("P", bound="ParallelArrays")


@dataclass(frozen=True, eq=False)
class ParallelArrays:
    """Base of frozen dataclasses of which some fields, arrays or tuples, have one entry per row.

    Indexing takes what NumPy takes for one axis, and gives a value of the same class: a boolean array of length n or an
    integer array selects, a slice cuts, an int gives a value of length one.
    """

    ROWS: ClassVar[tuple[str, ...]]  # the fields with one entry per row
    SHARED: ClassVar[str]  # what `shared` returns, in words for an error message

    @property
    def shared(self) -> Hashable:
        """What all rows have in common; only parts of which it is equal can be joined."""
        raise NotImplementedError

    @classmethod
    def concatenate(cls: type[P], parts: Sequence[P]) -> P:
        """Join the rows of `parts`, in the order given.

        Raises:
            ValueError: there are no parts, or their rows do not belong together.
        """
        different = len({part.shared for part in parts})
        if different != 1:
            got = f"{different} different ones" if parts else "no part"
            raise ValueError(f"parts must be one or more with the same {cls.SHARED}, got {got}")
        columns = {name: [getattr(part, name) for part in parts] for name in cls.ROWS}
        joined = {
            name: tuple(chain(*column)) if isinstance(column[0], tuple) else np.concatenate(column)
            for name, column in columns.items()
        }
        return replace(parts[0], **joined)

    def __len__(self) -> int:
        return len(getattr(self, self.ROWS[0]))

    def __getitem__(self: P, index: Any) -> P:
        rows = select_rows(index, len(self))
        columns = {name: getattr(self, name) for name in self.ROWS}
        selected = {
            name: tuple(column[row] for row in rows) if isinstance(column, tuple) else column[rows]
            for name, column in columns.items()
        }
        return replace(self, **selected)

    def __iter__(self: P) -> Iterator[P]:
        return (self[i] for i in range(len(self)))

    def convert(self, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
        """Turn a field into an array, for `__post_init__`. Raises ValueError unless it then has `shape`."""
        array = np.asarray(getattr(self, name), dtype=dtype)
        if array.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {array.shape}")
        set_frozen(self, **{name: array})


def check_phrase_ids(ids: Shaped[np.ndarray, "..."], p: int) -> None:
    """Raise ValueError unless `ids` are indices of p phrases."""
    if len(ids) and (ids.min() < 0 or ids.max() >= p):
        raise ValueError(f"phrase_ids must lie in [0, {p}), got {ids.min()} to {ids.max()}")


def select_rows(index: Any, length: int) -> Int64[np.ndarray, "m"]:
    """Return any NumPy index of one axis as row numbers, so that arrays and tuples are selected alike."""
    if isinstance(index, list) and not index:
        index = np.zeros(0, np.int64)  # NumPy would take [] for floats
    return np.atleast_1d(np.arange(length, dtype=np.int64)[index])


def set_frozen(value: object, **attributes: Any) -> None:
    """Set attributes of a frozen dataclass that is being built."""
    for name, attribute in attributes.items():
        object.__setattr__(value, name, attribute)

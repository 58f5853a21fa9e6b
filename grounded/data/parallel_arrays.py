"""Checks and selections that the values made of parallel arrays share."""

from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped


def check_shape(name: str, array: Shaped[np.ndarray, "..."], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `array` has `shape`."""
    if array.shape != shape:
        raise ValueError(f"{name} must be {shape}, got {array.shape}")


def check_phrase_ids(ids: Shaped[np.ndarray, "..."], n: int, p: int) -> None:
    """Raise ValueError unless `ids` are n indices of p phrases."""
    check_shape("phrase_ids", ids, (n,))
    if n and (ids.min() < 0 or ids.max() >= p):
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

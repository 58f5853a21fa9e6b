"""Work on image cells in blocks whose intermediate values stay in the cache of a CPU."""

from collections.abc import Iterator

import torch

_CELLS_AT_ONCE = {"cpu": 2048}
_CELLS_AT_ONCE_ELSEWHERE = 1 << 20


def cells_at_once(device: torch.device) -> int:
    """How many cells of an image embedding to work on together: on a CPU, a megabyte or two."""
    return _CELLS_AT_ONCE.get(device.type, _CELLS_AT_ONCE_ELSEWHERE)


def blocks(length: int, step: int) -> Iterator[slice]:
    """Consecutive slices of `step`, at least 1, that cover `length`."""
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, length, step))

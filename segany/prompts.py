"""Prompts for segmentation as one validated value: points, boxes, masks and text embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from segany.errors import PromptError

ArrayLike = Tensor | np.ndarray | Sequence[Any]
Index = int | np.integer | slice | Tensor | np.ndarray | Sequence[int] | Sequence[bool]

_SHAPES = {
    "points": "(n, k, 2)",
    "point_labels": "(n, k)",
    "boxes": "(n, 4)",
    "masks": "(n, 1, h, w)",
    "text": "(n, t, c)",
}


@dataclass(frozen=True, init=False, eq=False)
class Prompts:
    """n independent prompts; each combines all fields that are given.

    Coordinates are (x, y) and xyxy in pixels: of the original image for a `Predictor`, of the model frame for `SegAny`.

    points        (n, k, 2) float32
    point_labels  (n, k) int64: 1 foreground, 0 background, -1 padding. Padding does not affect the prediction.
    boxes         (n, 4) float32, x0 y0 x1 y1
    masks         (n, 1, h, w) float32 low-resolution logits of an earlier prediction
    text          (n, t, c) float32 CLIP embeddings, t for each prompt; their norm does not matter

    Fields can be tensors, arrays or nested lists. n = 0 is valid, but at least one field must be given. Indexing
    selects prompts and always returns `Prompts`, also for one integer.

    Raises:
        PromptError: wrong shapes, differing n, values that are not finite, or labels other than -1, 0 and 1.
    """

    points: Float[Tensor, "n k 2"] | None
    point_labels: Int[Tensor, "n k"] | None
    boxes: Float[Tensor, "n 4"] | None
    masks: Float[Tensor, "n 1 h w"] | None
    text: Float[Tensor, "n t c"] | None

    def __init__(
        self,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        masks: ArrayLike | None = None,
        text: ArrayLike | None = None,
    ) -> None:
        given = {"points": points, "point_labels": point_labels, "boxes": boxes, "masks": masks, "text": text}
        fields = {name: _as_tensor(name, value) for name, value in given.items()}
        _check(fields)
        self._set(fields)

    def _set(self, fields: dict[str, Tensor | None]) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Prompts":
        """Apply `function` to every given field. Skips validation: it was done before, and would stall a GPU."""
        mapped = object.__new__(Prompts)
        fields = {name: getattr(self, name) for name in _SHAPES}
        mapped._set({name: None if value is None else function(value) for name, value in fields.items()})
        return mapped

    def __len__(self) -> int:
        return next(value.shape[0] for name in _SHAPES if (value := getattr(self, name)) is not None)

    def __getitem__(self, index: Index) -> "Prompts":
        selection = as_selection(index, len(self))
        return self._map(lambda value: value[selection])

    def to(self, device: torch.device | str) -> "Prompts":
        return self._map(lambda value: value.to(device))


def as_selection(index: Index, n: int) -> slice | Tensor:
    """Convert an index into n prompts to one that keeps the axis: an integer to a slice, a sequence to a tensor.

    Raises:
        IndexError: an integer is outside -n..n-1.
    """
    if isinstance(index, slice):
        return index
    if isinstance(index, int):
        if not -n <= index < n:
            raise IndexError(f"index {index} is out of range for {n} prompts")
        return slice(index % n, index % n + 1)
    selection = torch.as_tensor(index).cpu()  # a CPU index works for tensors on every device
    if selection.ndim == 0:
        return as_selection(int(selection), n)
    return selection if selection.numel() else selection.long()


def _as_tensor(name: str, value: ArrayLike | None) -> Tensor | None:
    if value is None:
        return None
    dtype = torch.int64 if name == "point_labels" else torch.float32
    try:
        tensor = torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{name} must be a rectangular {_SHAPES[name]} array: {error}") from error
    # An empty list does not define the inner axes.
    empty = {"points": (0, 0, 2), "point_labels": (0, 0), "boxes": (0, 4)}
    return tensor.reshape(empty[name]) if tensor.shape == (0,) and name in empty else tensor


def _check(fields: dict[str, Tensor | None]) -> None:
    given = {name: value for name, value in fields.items() if value is not None}
    if not given:
        raise PromptError(f"Prompts needs at least one of {', '.join(_SHAPES)}")
    for name, value in given.items():
        _check_shape(name, value)
    counts = {name: value.shape[0] for name, value in given.items()}
    if len(set(counts.values())) > 1:
        raise PromptError(f"all fields must hold the same number of prompts, got {counts}")
    _check_points(fields["points"], fields["point_labels"])
    for name, value in given.items():
        if not bool(torch.isfinite(value).all()):
            raise PromptError(f"{name} must be finite, got nan or infinity")


def _check_shape(name: str, value: Tensor) -> None:
    expected = _SHAPES[name].strip("()").split(", ")
    agrees = value.ndim == len(expected) and all(
        not size.isdigit() or int(size) == actual for size, actual in zip(expected, value.shape, strict=True)
    )
    if not agrees:
        raise PromptError(f"{name} must be {_SHAPES[name]}, got {tuple(value.shape)}")


def _check_points(points: Tensor | None, labels: Tensor | None) -> None:
    if points is None and labels is None:
        return
    if points is None or labels is None:
        raise PromptError("points and point_labels must be given together")
    if points.shape[:2] != labels.shape:
        raise PromptError(f"point_labels must be {tuple(points.shape[:2])} like points, got {tuple(labels.shape)}")
    if labels.numel() and not bool(((labels >= -1) & (labels <= 1)).all()):
        values = sorted(set(labels.unique().tolist()) - {-1, 0, 1})
        raise PromptError(f"point_labels must be 1, 0 or -1, got {values}")

"""A user's clicks as checked values. For the stages and for corrections."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grounded.errors import PromptError
from segany.prompts import ArrayLike
from segany.utils.points import BACKGROUND, FOREGROUND


@dataclass(frozen=True, eq=False)
class Clicks:
    """A user's k points in original pixels, (x, y), and their labels: 1 foreground, 0 background."""

    points: Float[Tensor, "k 2"]
    labels: Int[Tensor, "k"]

    @classmethod
    def read(cls, points: ArrayLike | None, labels: ArrayLike | None, image_size: tuple[int, int]) -> "Clicks":
        """Check clicks as they come from a user; no points are no clicks, and no labels mean foreground.

        Arguments and errors are those of `validate_points`.
        """
        if points is None and labels is not None:
            raise PromptError("point_labels need points, got none")
        points = () if points is None else points
        return cls(*validate_points(points, [FOREGROUND] * len(points) if labels is None else labels, image_size))

    def __len__(self) -> int:
        return len(self.points)


def validate_points(
    points: ArrayLike, labels: ArrayLike, image_size: tuple[int, int]
) -> tuple[Float[Tensor, "k 2"], Int[Tensor, "k"]]:
    """Return a user's clicks as tensors.

    Args:
        points: (k, 2), x and y in pixels of the original image, its edges included; k may be 0.
        labels: (k), 1 foreground, 0 background.
        image_size: (height, width) in pixels.

    Raises:
        PromptError: a wrong shape, a value that is not finite, a point outside the image, another label.
    """
    clicks, kinds = finite_floats("points", points), finite_floats("labels", labels)
    if clicks.shape == (0,):
        clicks = clicks.reshape(0, 2)  # an empty list has lost its inner axis
    if clicks.ndim != 2 or clicks.shape[1] != 2:
        raise PromptError(f"points must be (k, 2), got {tuple(clicks.shape)}")
    if kinds.shape != clicks.shape[:1]:
        raise PromptError(f"labels must be one per point, ({len(clicks)},), got {tuple(kinds.shape)}")
    if bool(((kinds != FOREGROUND) & (kinds != BACKGROUND)).any()):
        raise PromptError(f"labels must be 1 (foreground) or 0 (background), got {kinds.tolist()}")
    height, width = image_size
    outside = (clicks < 0).any(1) | (clicks[:, 0] > width) | (clicks[:, 1] > height)
    if bool(outside.any()):
        first = clicks[outside][0].tolist()
        raise PromptError(f"points must lie in the image of {width} x {height} pixels, got {first}")
    return clicks, kinds.long()


def finite_floats(name: str, values: ArrayLike) -> Float[Tensor, "..."]:
    """Values of any shape as float32 on the CPU. Raises PromptError for what are no numbers, nan and infinity."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise PromptError(f"{name} must be numbers in a rectangular array: {error}") from error
    if not bool(torch.isfinite(tensor).all()):
        raise PromptError(f"{name} must be finite, got {tensor.tolist()}")
    return tensor

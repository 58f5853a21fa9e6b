"""Masks of everything in an image, as one value of parallel arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from segany.prompts import Index, as_selection
from segany.utils.rle import RLE, decode_rle


@dataclass(frozen=True, eq=False)
class AutomaticMasks:
    """n masks of one image and what is known about each; coordinates are pixels of that image.

    Tensors are on the CPU. Indexing selects masks and always returns `AutomaticMasks`, also for one integer.

    Raises ValueError where the arrays differ in length.
    """

    rles: tuple[RLE, ...]
    boxes: Float[Tensor, "n 4"]  # xyxy, tight: indices of the first and the last pixel
    areas: Int[Tensor, "n"]  # in pixels
    predicted_iou: Float[Tensor, "n"]
    stability_score: Float[Tensor, "n"]
    points: Float[Tensor, "n 2"]  # the (x, y) prompt that each mask answers
    crop_boxes: Float[Tensor, "n 4"]  # xyxy, the part of the image in which each mask was found
    image_size: tuple[int, int]  # (height, width)

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self._arrays().items()} | {"rles": len(self.rles)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all arrays must be of one length, got {lengths}")

    def _arrays(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Index) -> "AutomaticMasks":
        positions = torch.arange(len(self))[as_selection(index, len(self))].reshape(-1)
        arrays = {name: values[positions] for name, values in self._arrays().items()}
        return AutomaticMasks(
            rles=tuple(self.rles[position] for position in positions.tolist()), image_size=self.image_size, **arrays
        )

    @property
    def masks(self) -> Bool[Tensor, "n h w"]:
        """The masks at the size of the image, decoded anew on every access."""
        return decode_rle(self.rles, self.image_size)

    @classmethod
    def concatenate(cls, parts: Sequence["AutomaticMasks"]) -> "AutomaticMasks":
        """All masks of `parts`, of which there is at least one, in order.

        Raises ValueError where the parts are of images of different sizes.
        """
        sizes = {part.image_size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"parts must be of one image size, got {sorted(sizes)}")
        names = parts[0]._arrays()
        arrays = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls(rles=tuple(rle for part in parts for rle in part.rles), image_size=parts[0].image_size, **arrays)

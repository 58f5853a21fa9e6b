"""Original pictures to the model frame, and mask logits back.

The model frame is a square of `image_size` pixels: the picture is resized so that its long side fills it and lies in
the top left corner, the rest is padding. Every step equals that of the published Segment Anything, so that published
weights see what they were trained on.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from segany.config import SegAnyConfig

ImageLike = Image.Image | np.ndarray | str | os.PathLike[str]
Size = tuple[int, int]  # (height, width)


class ImageError(ValueError):
    """An image cannot be read, or is not 8-bit RGB."""


@dataclass(frozen=True)
class ResizeFrame:
    """How a picture lies in the model frame. Sizes are (height, width) in pixels; `resized_size` leaves padding out."""

    original_size: Size
    resized_size: Size
    image_size: int

    @classmethod
    def fit(cls, original_size: Size, image_size: int) -> "ResizeFrame":
        """Scale the long side to `image_size`. Raises ImageError for an empty picture."""
        height, width = original_size
        if height < 1 or width < 1:
            raise ImageError(f"image must have at least one pixel, got height {height} and width {width}")
        scale = image_size / max(height, width)
        # A very thin picture would otherwise vanish.
        resized = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        return cls((height, width), resized, image_size)

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) factors from original to resized pixels. They differ slightly, since sizes are whole pixels."""
        return self.resized_size[1] / self.original_size[1], self.resized_size[0] / self.original_size[0]

    def resize_points(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """(x, y) in original pixels to (x, y) in the model frame."""
        return points * points.new_tensor(self.scale)

    def resize_boxes(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """xyxy in original pixels to xyxy in the model frame."""
        return boxes * boxes.new_tensor(self.scale * 2)

    def restore_logits(self, low_res: Float[Tensor, "n m h w"]) -> Float[Tensor, "n m height width"]:
        """Low-resolution mask logits to logits of the original picture.

        Bilinear to the model frame, padding cut away, bilinear to the original size.
        """
        height, width = self.resized_size
        if low_res.shape[0] == 0 or low_res.shape[1] == 0:
            return low_res.new_zeros(*low_res.shape[:2], *self.original_size)
        frame = F.interpolate(low_res, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        return F.interpolate(frame[..., :height, :width], self.original_size, mode="bilinear", align_corners=False)


def open_image(image: ImageLike) -> Image.Image:
    """An RGB picture from a path, a PIL image or a uint8 (height, width, 3) RGB array.

    EXIF orientation is applied to paths and PIL images; an array is taken as it lies.
    Raises ImageError for unreadable files and for arrays of another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ImageError(f"image array must be (height, width, 3) uint8, got {image.shape} {image.dtype}")
        if 0 in image.shape:
            raise ImageError(f"image must have at least one pixel, got {image.shape}")
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    try:
        with Image.open(image) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read image {os.fspath(image)}: {error}") from error


def prepare_image(image: ImageLike, config: SegAnyConfig) -> tuple[Float[Tensor, "3 s s"], ResizeFrame]:
    """Resize, normalise and pad a picture to the model frame. Raises ImageError as `open_image` does."""
    picture = open_image(image)
    frame = ResizeFrame.fit((picture.height, picture.width), config.image_size)
    height, width = frame.resized_size
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()  # (3, height, width)
    mean = torch.tensor(config.pixel_mean)[:, None, None]
    std = torch.tensor(config.pixel_std)[:, None, None]
    normalised = (pixels - mean) / std
    return F.pad(normalised, (0, config.image_size - width, 0, config.image_size - height)), frame

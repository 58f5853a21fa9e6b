"""Transforms of images and prompts to the model frame, and of mask logits back to the original image.

The model frame is the square input of `image_size` pixels: the image is resized until its long side fills the frame,
placed in the top left corner, and padded. Every step equals the published Segment Anything, so published weights get
the input that they were trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segany.config import SegAnyConfig
from segany.errors import ImageError
from segany.fast.resize import Bands, ComposedResize
from segany.precision import own_precision
from segany.utils.images import ImageLike, read_image

Size = tuple[int, int]  # (height, width)

# Logit of a certain pixel in a mask prompt made from a bool mask: a probability of 0.9997. Predicted logits have about
# this range, so the prompt resembles those of training.
CONFIDENT_LOGIT = 8.0
_PIXELS_AT_ONCE = 1 << 22  # of masks resized to the model frame together; bounds the memory of their float copies


def logits_of(masks: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """Masks as logits: 8 inside, -8 outside, in float16, which represents both exactly in half the memory."""
    inside = torch.tensor(CONFIDENT_LOGIT, dtype=torch.float16, device=masks.device)
    return torch.where(masks, inside, -inside)


@dataclass(frozen=True)
class ResizeFrame:
    """The position of an image in the model frame.

    original_size  (height, width) of the original image
    resized_size   (height, width) of the image in the model frame, without padding
    image_size     side of the model frame in pixels
    """

    original_size: Size
    resized_size: Size
    image_size: int

    @classmethod
    def fit(cls, original_size: Size, image_size: int) -> "ResizeFrame":
        """Scale the long side to `image_size`.

        Raises:
            ImageError: the image has no pixels.
        """
        height, width = original_size
        if height < 1 or width < 1:
            raise ImageError(f"image must have at least one pixel, got height {height} and width {width}")
        scale = image_size / max(height, width)
        # At least 1, so that a very thin image does not vanish.
        resized = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        return cls((height, width), resized, image_size)

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) factors from original to resized pixels. They differ slightly because sizes are whole pixels."""
        return self.resized_size[1] / self.original_size[1], self.resized_size[0] / self.original_size[0]

    def resize_points(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """(x, y) in original pixels to (x, y) in the model frame."""
        return points * points.new_tensor(self.scale)

    def resize_boxes(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """xyxy in original pixels to xyxy in the model frame."""
        return boxes * boxes.new_tensor(self.scale * 2)

    @own_precision()
    def restore_logits(self, low_res: Float[Tensor, "n m h w"]) -> Float[Tensor, "n m height width"]:
        """Low-resolution mask logits to logits at the size of the original image.

        Bilinear to the model frame, padding cropped away, bilinear to the original size, in one step and in float32;
        see `ComposedResize`.
        """
        low_res, dtype, shape = low_res.float().flatten(0, 1), low_res.dtype, low_res.shape
        return self.composed(shape[2:], low_res.device).restore_logits(low_res).unflatten(0, shape[:2]).to(dtype)

    @own_precision()
    def restore_masks(self, low_res: Float[Tensor, "n m h w"]) -> Bool[Tensor, "n m height width"]:
        """Masks where `restore_logits` is above zero, without storing full-size logits."""
        resize = self.composed(low_res.shape[2:], low_res.device)
        return resize.restore_masks(low_res.float().flatten(0, 1)).unflatten(0, low_res.shape[:2])

    def composed(self, low_res_size: Sequence[int], device: torch.device) -> ComposedResize:
        """The resize from (height, width) low-resolution logits of the whole model frame to the original image."""
        axes = zip(low_res_size, self.resized_size, self.original_size, strict=True)
        rows, columns = (Bands.build(cells, self.image_size, *sizes, device) for cells, *sizes in axes)
        return ComposedResize(rows, columns)

    def crop_padding(self, low_res: Float[Tensor, "*n side side"]) -> Float[Tensor, "*n h w"]:
        """The part of low-resolution mask logits that lies in the image, including logits partly on padding."""
        height, width = (math.ceil(extent * low_res.shape[-1] / self.image_size) for extent in self.resized_size)
        return low_res[..., :height, :width]

    @own_precision()
    def mask_prompts(
        self, masks: Float[Tensor, "n h w"] | Bool[Tensor, "n h w"], low_res_size: int
    ) -> Float[Tensor, "n 1 side side"]:
        """Masks of the whole original image to low-resolution mask prompts, in float32; reverses `restore_logits`.

        Masks are resized bilinearly, with antialiasing, to the image in the model frame, padded with confident
        background, and resized to `low_res_size`.

        Args:
            masks: of any resolution and aspect ratio, with at least one pixel: logits, or bool, which `logits_of`
                converts.
            low_res_size: side of the mask prompts.
        """
        side = (low_res_size, low_res_size)
        prompts = torch.zeros((len(masks), 1, *side), device=masks.device)
        right, bottom = self.image_size - self.resized_size[1], self.image_size - self.resized_size[0]
        step = max(1, _PIXELS_AT_ONCE // max(masks.shape[1] * masks.shape[2], self.image_size**2))
        for start in range(0, len(masks), step):
            part = masks[start : start + step]
            logits = (logits_of(part) if part.dtype == torch.bool else part)[:, None].float()
            resized = F.interpolate(logits, self.resized_size, mode="bilinear", antialias=True)
            padded = F.pad(resized, (0, right, 0, bottom), value=-CONFIDENT_LOGIT)
            prompts[start : start + step] = F.interpolate(padded, side, mode="bilinear", antialias=True)
        return prompts


def open_image(image: ImageLike) -> Image.Image:
    """An image as upright RGB; see `segany.utils.images.read_image` for sources.

    Raises:
        ImageError: the image cannot be read.
    """
    return read_image(image).pixels


def prepare_image(image: ImageLike, config: SegAnyConfig) -> tuple[Float[Tensor, "3 s s"], ResizeFrame]:
    """Resize, normalise and pad an image to the model frame.

    Raises:
        ImageError: the image cannot be read.
    """
    image = open_image(image)
    frame = ResizeFrame.fit((image.height, image.width), config.image_size)
    height, width = frame.resized_size
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()  # (3, height, width)
    mean = torch.tensor(config.pixel_mean)[:, None, None]
    std = torch.tensor(config.pixel_std)[:, None, None]
    normalised = (pixels - mean) / std
    return F.pad(normalised, (0, config.image_size - width, 0, config.image_size - height)), frame

"""Original pictures to the model frame, and mask logits back.

The model frame is a square of `image_size` pixels: the picture is resized so that its long side fills it and lies in
the top left corner, the rest is padding. Every step equals that of the published Segment Anything, so that published
weights see what they were trained on.
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
from segany.utils.images import ImageLike, read

Size = tuple[int, int]  # (height, width)

# A mask that is certain of every pixel, as logits: a probability of 0.9997. Predictions go about as far, so that a mask
# prompt made of it looks like those of training; no prediction is infinitely certain.
CONFIDENT_LOGIT = 8.0
_PIXELS_AT_ONCE = 1 << 22  # of masks on their way to the model frame; bounds the float memory behind bool masks


def logits_of(masks: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """Masks as logits: 8 inside, -8 outside, in float16, which holds both exactly in half the memory."""
    inside = torch.tensor(CONFIDENT_LOGIT, dtype=torch.float16, device=masks.device)
    return torch.where(masks, inside, -inside)


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

        Bilinear to the model frame, padding cut away, bilinear to the original size, in one step and in float32; see
        `ComposedResize`.
        """
        low_res, kind, shape = low_res.float().flatten(0, 1), low_res.dtype, low_res.shape
        return self.composed(shape[2:], low_res.device).restore(low_res).unflatten(0, shape[:2]).to(kind)

    def restore_masks(self, low_res: Float[Tensor, "n m h w"]) -> Bool[Tensor, "n m height width"]:
        """Where `restore_logits` is above zero, without holding full-size logits."""
        resize = self.composed(low_res.shape[2:], low_res.device)
        return resize.draw(low_res.float().flatten(0, 1)).unflatten(0, low_res.shape[:2])

    def composed(self, low_res_size: Sequence[int], device: torch.device) -> ComposedResize:
        """The way from (height, width) cells, which cover the whole model frame, to the original picture."""
        axes = zip(low_res_size, self.resized_size, self.original_size, strict=True)
        rows, columns = (Bands.build(cells, self.image_size, *sizes, device) for cells, *sizes in axes)
        return ComposedResize(rows, columns)

    def crop_padding(self, low_res: Float[Tensor, "*n side side"]) -> Float[Tensor, "*n h w"]:
        """The part of low-resolution mask logits that shows the picture; a cell partly on padding is kept."""
        height, width = (math.ceil(extent * low_res.shape[-1] / self.image_size) for extent in self.resized_size)
        return low_res[..., :height, :width]

    def mask_prompts(
        self, masks: Float[Tensor, "n h w"] | Bool[Tensor, "n h w"], low_res_size: int
    ) -> Float[Tensor, "n 1 side side"]:
        """The way back from `restore_logits`: masks of the whole picture as low-resolution mask prompts, in float32.

        Bilinear, smoothed where the masks shrink, to the resized picture; a confident negative on the padding; bilinear
        to `low_res_size`, the side of the mask prompts.

        Args:
            masks: at least one pixel each, of any size and aspect: logits, or bool, which counts as `logits_of` it.
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
    """An upright RGB picture of what `segany.utils.images.read` takes. Raises ImageError."""
    return read(image).pixels


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

"""Cut-outs: each instance on a transparent background, for users and the app."""

from math import ceil

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

from grounded.data.image import ImageLike, SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import ImageError
from segany.utils.rle import decode_rle


def cutouts(
    image: ImageLike | SourceImage,
    instances: Instances,
    margin: int = 0,
    crop: bool = True,
    softness: float = 0.0,
) -> list[Image.Image]:
    """Return one RGBA image per instance: the image inside the mask, transparent black outside.

    Args:
        image: the image that was segmented, in any form that the pipeline takes.
        instances: of that image.
        margin: pixels kept around the mask's box, as far as the image goes.
        crop: whether to crop to the mask's box, or to keep the frame of the image. The cut-out of an empty mask is a
            single transparent pixel.
        softness: pixels over which the edge fades, half of them outside the mask, by which the box grows; 0 is hard.

    Raises:
        ImageError: the image cannot be read, or is not of the size that the instances are of.
        ValueError: margin or softness is negative.
    """
    if margin < 0 or softness < 0:
        raise ValueError(f"margin and softness must not be negative, got {margin} and {softness}")
    source = open_image(image)
    if source.size != instances.image_size:
        raise ImageError(f"the image must be of (height, width) {instances.image_size}, got {source.size}")
    pixels = np.asarray(source.pixels)
    cut = []
    for rle in instances.rles:  # one by one: all masks of a large image at once may not fit into memory
        mask = decode_rle([rle])[0].numpy()
        rows, columns = mask_window(mask, margin + ceil(softness / 2)) if crop else (slice(None), slice(None))
        alpha = _alpha(mask[rows, columns], softness)
        # Black where transparent: colours would be saved, and come back in programs that drop the alpha channel.
        colours = np.where(alpha[..., None] > 0, pixels[rows, columns], np.uint8(0))
        cut.append(Image.fromarray(np.dstack([colours, alpha])))
    return cut


def mask_window(mask: Bool[np.ndarray, "h w"], margin: int) -> tuple[slice, slice]:
    """Return rows and columns of the box around a mask, grown by `margin`; the first pixel for an empty mask."""
    occupied = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    if len(occupied[0]) == 0:
        return slice(0, 1), slice(0, 1)
    rows, columns = (slice(max(0, int(side[0]) - margin), int(side[-1]) + 1 + margin) for side in occupied)
    return rows, columns


def _alpha(mask: Bool[np.ndarray, "h w"], softness: float) -> UInt8[np.ndarray, "h w"]:
    alpha = mask.astype(np.uint8) * 255
    if softness == 0:
        return alpha
    # A box blur turns a straight edge into a ramp of the width of the box. Two of half the width round its ends off.
    blur = ImageFilter.BoxBlur(softness / 4)
    return np.asarray(Image.fromarray(alpha).filter(blur).filter(blur))

"""Images in which each colour is an object, and a perfect segmenter of them or of any part of them."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from segany.utils.rle import encode_rle

PHRASES = ("a dog", "a cat", "a hound")


def rectangle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (70, 100)) -> np.ndarray:
    """A (height, width) bool mask."""
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def ring(x: int, y: int, radius: int, size: tuple[int, int] = (70, 100)) -> np.ndarray:
    """A (height, width) bool mask with a hole."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(columns - x, rows - y)
    return (distance < radius) & (distance > radius / 2)


def paint(objects: Sequence[tuple[int, np.ndarray]], size: tuple[int, int] = (70, 100)) -> SourceImage:
    """An image of objects, each a phrase and a mask; red is the number of the object, green its phrase."""
    pixels = np.zeros((*size, 3), np.uint8)
    for number, (phrase, mask) in enumerate(objects, start=1):
        pixels[mask] = number, phrase, 0
    return SourceImage(Image.fromarray(pixels))


def perfect(
    least_share: float = 0.0, blind_at: tuple[int, int] | None = None
) -> Callable[[Sequence[SourceImage]], list[Instances]]:
    """Return a segmenter of painted objects that fill at least this share of the image; larger ones score higher.

    In images of size `blind_at` it finds nothing.
    """

    def segment(image: SourceImage) -> Instances:
        pixels = np.asarray(image.pixels)
        found = []
        for number in sorted(set(pixels[..., 0].ravel().tolist()) - {0}):
            mask = pixels[..., 0] == number
            if mask.mean() >= least_share and image.size != blind_at:
                found.append((int(pixels[mask][0, 1]), mask))
        masks = np.array([mask for _, mask in found], bool).reshape(len(found), *image.size)
        scores = masks.mean(axis=(1, 2), dtype=np.float32) if found else np.zeros(0, np.float32)
        ids = np.array([phrase for phrase, _ in found], np.int64)
        return Instances.from_masks(PHRASES, image.size, encode_rle(masks), ids, scores, "text")

    return lambda images: [segment(image) for image in images]

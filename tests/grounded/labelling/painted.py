"""Pictures in which each colour is an object, and what a perfect segmenter answers about them or any part of them."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.stages.answers import from_masks
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
    """A picture of objects, each a phrase and a mask; red is the number of the object, green its phrase."""
    pixels = np.zeros((*size, 3), np.uint8)
    for number, (phrase, mask) in enumerate(objects, start=1):
        pixels[mask] = number, phrase, 0
    return SourceImage(Image.fromarray(pixels))


def perfect(
    least_share: float = 0.0, blind_at: tuple[int, int] | None = None
) -> Callable[[Sequence[SourceImage]], list[Instances]]:
    """Segments painted objects that fill at least this share of the picture; the more of it, the higher the score.

    In pictures of size `blind_at` it sees nothing.
    """

    def look(picture: SourceImage) -> Instances:
        pixels = np.asarray(picture.pixels)
        found = []
        for number in sorted(set(pixels[..., 0].ravel().tolist()) - {0}):
            mask = pixels[..., 0] == number
            if mask.mean() >= least_share and picture.size != blind_at:
                found.append((int(pixels[mask][0, 1]), mask))
        masks = np.array([mask for _, mask in found], bool).reshape(len(found), *picture.size)
        scores = masks.mean(axis=(1, 2), dtype=np.float32) if found else np.zeros(0, np.float32)
        ids = np.array([phrase for phrase, _ in found], np.int64)
        return from_masks(PHRASES, picture.size, encode_rle(masks), ids, scores, "text")

    return lambda pictures: [look(picture) for picture in pictures]

"""Encode an image, or a window of it, once for all prompts about it."""

from typing import Any

from grounded.data.image import SourceImage
from grounded.data.protocols import Segmenter
from grounded.errors import PromptError


def encode(segmenter: Segmenter, image: SourceImage) -> Any:
    """Return the segmenter's embedding of an image."""
    return segmenter.encode(image.pixels)


def encode_window(segmenter: Segmenter, image: SourceImage, corners: tuple[int, int, int, int]) -> Any:
    """Return the segmenter's embedding of a part of an image.

    Args:
        corners: x0, y0, x1, y1 in whole pixels, the far sides behind the last pixel.
    """
    return segmenter.encode(image.pixels.crop(corners))


def check_embedding(embedding: Any | None, image: SourceImage) -> None:
    """Raise PromptError where a given embedding is of an image of another size."""
    if embedding is not None and tuple(embedding.original_size) != image.size:
        raise PromptError(f"the embedding must be of an image of {image.size}, got one of {embedding.original_size}")

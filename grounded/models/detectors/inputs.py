"""What every detector is given: pictures, and for each of them the phrases to look for."""

from collections.abc import Sequence

from PIL import Image

from grounded.data.image import ImageLike, open_image
from grounded.errors import PromptError


def open_inputs(
    images: Sequence[ImageLike], phrases: Sequence[Sequence[str]]
) -> tuple[list[Image.Image], list[tuple[str, ...]]]:
    """Upright RGB pictures, and for each of them its phrases.

    Raises:
        ValueError: not one list of phrases per picture.
        ImageError: a picture is not one.
        PromptError: a text where a sequence of phrases belongs.
    """
    if len(images) != len(phrases):
        raise ValueError(f"phrases must be one list per image, got {len(phrases)} for {len(images)} images")
    for own in phrases:
        if isinstance(own, str):
            raise PromptError(f"the phrases of an image must be a sequence of phrases, got {own!r}")
    return [open_image(image).pixels for image in images], [tuple(own) for own in phrases]

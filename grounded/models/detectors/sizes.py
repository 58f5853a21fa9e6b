"""The size at which a picture is shown to Grounding DINO."""

from collections.abc import Mapping, Sequence
from math import ceil

from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width


def with_image_size(rule: Mapping[str, int | None], image_size: int | None) -> dict[str, int]:
    """The size rule of a saved image processor, rescaled to a shorter edge of `image_size` pixels (None: as saved).

    The limit on the longer edge keeps its ratio to the shorter one, so that wide pictures are treated alike.
    """
    known = {key: value for key, value in rule.items() if value is not None}
    scale = 1.0 if image_size is None else image_size / min(known.values())
    return {key: round(value * scale) for key, value in known.items()}


def resized(image_size: tuple[int, int], rule: Mapping[str, int]) -> tuple[int, int]:
    """(height, width) of a picture of `image_size` (height, width) after resizing by `rule`, at least 1 pixel each.

    The arithmetic is that of the image processors in `transformers`, which round a thin picture down to no pixels.

    Raises:
        ValueError: `rule` has neither shortest_edge, nor height and width, nor max_height and max_width.
    """
    match rule:
        case {"shortest_edge": shortest}:
            height, width = get_size_with_aspect_ratio(image_size, shortest, rule.get("longest_edge"))
        case {"height": height, "width": width}:
            pass
        case {"max_height": max_height, "max_width": max_width}:
            height, width = get_image_size_for_max_height_width(image_size, max_height, max_width)
        case _:
            raise ValueError(f"size must have shortest_edge, height and width, or max_height and max_width, got {rule}")
    return max(1, height), max(1, width)


def feature_locations(size: tuple[int, int], strides: Sequence[int]) -> int:
    """Number of feature vectors for a picture of `size` (height, width), over maps with `strides` pixels a step."""
    height, width = size
    return sum(ceil(height / stride) * ceil(width / stride) for stride in strides)


def enlarged(size: tuple[int, int], strides: Sequence[int], minimum: int) -> tuple[int, int]:
    """The least (height, width) from `size` upwards with at least `minimum` feature locations.

    The shorter side grows first. That bends the aspect ratio of a thin picture, which is the price for an answer:
    the detector picks its queries among the feature locations and fails where there are fewer of them.
    """
    height, width = size
    step = min(strides)
    while feature_locations((height, width), strides) < minimum:
        if height <= width:
            height = (height // step + 1) * step
        else:
            width = (width // step + 1) * step
    return height, width

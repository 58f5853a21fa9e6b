"""Pictures in which each pixel has one value, though instances may overlap: the best score lies on top."""

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Integer
from PIL import Image

from grounded.data.instances import Instances
from segany.utils.rle import rle_area


def count_hidden(instances: Instances, visible: Sequence[int] | Int[np.ndarray, "n"], lost: Counter[str]) -> None:
    """Count among what is lost the instances of which fewer pixels are visible than their masks have."""
    left = np.asarray(visible)
    lost["instances wholly under better ones"] += int((left == 0).sum())
    areas = rle_area(instances.rles)
    lost["instances partly under better ones"] += int(((left > 0) & (left < areas)).sum())


def visible_pixels(instance_map: Int[np.ndarray, "h w"], n: int) -> Int[np.ndarray, "n"]:
    """Return how many pixels of `Instances.instance_map` each of the n instances has."""
    return np.bincount(instance_map.ravel(), minlength=n + 1)[1:]


def png(values: Integer[np.ndarray, "h w"], palette: Sequence[int] | None = None) -> bytes:
    """Return values as a PNG file of 8 bits, or of 16 where their dtype is uint16.

    Args:
        values: uint8 or uint16.
        palette: red, green and blue of each value, for uint8 values only; grey without.
    """
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()

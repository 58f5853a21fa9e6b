"""Arrays and tensors as images: which axis holds the channels, and which values are allowed. For `read_image`."""

import numpy as np
import torch
from PIL import Image

from segany.errors import ImageError
from segany.utils.bit_depth import from_16_bits

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_SHAPES = "(h, w), (h, w, c) or (c, h, w) with 1, 3 or 4 channels"
_DTYPES = "uint8, uint16, bool, or floats in 0..1"
# A value just outside 0..1 is one of rounding: bicubic resizing and half precision make such.
_ROUNDING = 1e-3


def image_from_array(array: np.ndarray | torch.Tensor) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an array as an image of mode L, RGB or RGBA, and notes on what was done to its values.

    Channels come last wherever the last axis can hold them, which 1, 3 or 4 entries can: (3, 7, 3) is an image of 3 x 7
    pixels. Only where it cannot and the first axis can, channels come first: (3, 7, 9) has 7 x 9 pixels.

    Args:
        array: of any layout in memory, may be read-only; a tensor may be on any device, and may require gradients.
            uint8, bool (False is black, True is white), floats in 0..1, or uint16, which `bit_depth` explains.

    Raises:
        ImageError: another shape or dtype, or floats outside 0..1.
    """
    kind = "tensor" if isinstance(array, torch.Tensor) else "array"
    values = _to_numpy(array) if isinstance(array, torch.Tensor) else array
    dtype = str(array.dtype).removeprefix("torch.")
    values = _with_channels_last(values, f"an image {kind} must be {_SHAPES}, got {dtype} {tuple(array.shape)}")
    notes: tuple[str, ...] = ()
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    elif values.dtype.kind == "f":
        values = _from_unit_range(values)
    elif values.dtype == np.uint16:
        values, notes = _from_16_bits(values)
    elif values.dtype != np.uint8:
        raise ImageError(f"an image {kind} must hold {_DTYPES}, got {dtype}{_hint(values)}")
    return Image.fromarray(np.ascontiguousarray(values)), notes


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    try:
        detached = tensor.detach()
        # NumPy has neither bfloat16 nor the 8-bit floats.
        as_float = detached.dtype.is_floating_point and detached.dtype not in (torch.float32, torch.float64)
        converted: np.ndarray = (detached.float() if as_float else detached).numpy(force=True)
        return converted
    except Exception as error:  # of kinds that have no values at hand: meta, sparse, quantised
        raise ImageError(f"cannot read the tensor as an image: {' '.join(str(error).split())}") from error


def _with_channels_last(values: np.ndarray, expected: str) -> np.ndarray:
    """Return (h, w) or (h, w, c) with 3 or 4 channels."""
    if values.ndim == 4:
        raise ImageError(f"{expected}: pass the images of a batch one by one")
    if values.ndim not in (2, 3) or values.size == 0:
        raise ImageError(expected)
    if values.ndim == 2:
        return values
    if values.shape[2] not in _CHANNELS:
        if values.shape[0] not in _CHANNELS:
            raise ImageError(expected)
        values = np.moveaxis(values, 0, 2)  # (c, h, w) -> (h, w, c)
    return values[:, :, 0] if values.shape[2] == 1 else values


def _from_unit_range(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    if not finite.all():
        count = int((~finite).sum())
        raise ImageError(f"floats of an image must lie in 0..1, got {count} of {values.size} that are nan or infinite")
    low, high = float(values.min()), float(values.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = ": undo the normalisation" if low < 0 else ": divide them by 255" if high <= 255 else ""
        raise ImageError(f"floats of an image must lie in 0..1, got {low:.4g} to {high:.4g}{hint}")
    return np.rint(values.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)


def _from_16_bits(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Alpha is no brightness: it keeps its upper bits."""
    if values.ndim == 2 or values.shape[2] == 3:
        return from_16_bits(values)
    colours, notes = from_16_bits(values[..., :3])
    return np.dstack([colours, (values[..., 3] >> 8).astype(np.uint8)]), notes


def _hint(values: np.ndarray) -> str:
    if values.dtype.kind not in "iu":
        return ""
    low, high = int(values.min()), int(values.max())
    fits = ": convert them to uint8" if low >= 0 and high <= 255 else ""
    return f" with values from {low} to {high}{fits}"

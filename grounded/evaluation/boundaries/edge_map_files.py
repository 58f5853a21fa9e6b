"""Reads and writes edge maps as grey PNG files of 8 or 16 bits: 0 is no edge, the greatest value the strongest."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from grounded.errors import ResultError, one_line
from grounded.utils.files import image_bytes

_GREATEST = {"1": 1, "L": 255, "I": 65535, "I;16": 65535, "I;16B": 65535}  # by the mode of Pillow


def find_edge_maps(folder: Path) -> dict[str, Path]:
    """Return the PNG files of a folder by their names without suffix.

    Raises:
        ResultError: there is none.
    """
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".png"}
    if not found:
        raise ResultError(f"{folder} must hold edge maps as PNG files, got none")
    return found


def read_edge_map(path: Path) -> Float32[np.ndarray, "h w"]:
    """Read a grey PNG of 1, 8 or 16 bits as strengths from 0 to 1.

    Raises:
        ResultError: the file cannot be read, or has colours.
    """
    try:
        with Image.open(path) as image:
            greatest = _GREATEST.get(image.mode)
            if greatest is None:
                raise ResultError(f"{path} must be grey with 8 or 16 bits, got an image of mode {image.mode}")
            return (np.asarray(image) / greatest).astype(np.float32)
    except ResultError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ResultError(f"cannot read {path}: {one_line(error)}") from error


def edge_map_bytes(edge_map: Float[np.ndarray, "h w"]) -> bytes:
    """Return strengths from 0 to 1 as a grey PNG of 16 bits."""
    return image_bytes(Image.fromarray(np.rint(edge_map * 65535).astype(np.uint16)))

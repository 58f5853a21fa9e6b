"""Tracks as a folder of indexed PNGs, one per frame, whose values are the track ids, as DAVIS has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from grounded.errors import OutputError
from grounded.utils.files import atomic_folder, image_bytes, json_bytes, write_new
from grounded.video.output.write import Write
from grounded.video.tracks import TrackedFrame

LABELS = "labels.json"  # which phrase each value is; and by which a folder that may be replaced is recognised
VOID = 255  # a pixel that belongs to no object, and not to the background either


@contextmanager
def mask_folder(folder: Path) -> Iterator[Write]:
    """Write 00000.png, 00001.png, … by frame number, in the colours of DAVIS, and labels.json: {"1": "a dog"}.

    Where masks overlap a pixel is of the smallest. An earlier folder of this kind is replaced.

    Raises:
        OutputError: the folder holds something else, or cannot be written, or a track id is above 254.
    """
    with atomic_folder(folder, LABELS) as new:
        labels: dict[int, str] = {}

        def write(frame: TrackedFrame, image: Image.Image) -> None:
            for track, label in zip(frame.track_ids.tolist(), frame.instances.labels.tolist(), strict=True):
                labels[track] = label
            if not all(0 < track < VOID for track in labels):
                raise OutputError(
                    f"{folder} can hold up to {VOID - 1} tracks, whose ids are its pixels: use another format for "
                    f"track {max(labels)}"
                )
            write_new(new / f"{frame.number:05d}.png", image_bytes(indexed_image(frame.id_map().astype(np.uint8))))

        yield write
        write_new(new / LABELS, json_bytes({str(track): labels[track] for track in sorted(labels)}))


def indexed_image(ids: UInt8[np.ndarray, "h w"]) -> Image.Image:
    """Return ids of pixels as an image with the palette of DAVIS."""
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.ravel())
    image.putpalette(davis_palette().ravel().tolist())
    return image


@cache
def davis_palette() -> UInt8[np.ndarray, "256 3"]:
    """The colour map of PASCAL VOC, which DAVIS uses: of every three bits of an index one is red, green and blue."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette

"""What `grounded segment` leaves on disk: `overlay.png`, `masks/` and `result.json`."""

import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.drawing import draw
from grounded.files import write_atomically
from grounded.images import SourceImage
from grounded.types import Instances
from segany.masks import decode_rle

_MASK_NAME = re.compile(r"\d{3,}-[^/]*\.png")


def write_result(
    folder: Path, source: SourceImage, instances: Instances, models: Mapping[str, str | None] | None = None
) -> None:
    """Write the result of one image into `folder`, over an earlier one.

    Masks are PNG files of the image's size, 255 inside and 0 outside, named by rank and phrase ("000-a-dog.png").
    `result.json` is written last: where it is, the rest is complete. Its "image" section states the file name and the
    EXIF orientation that was applied.
    """
    masks = folder / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    names = [mask_name(i, str(label)) for i, label in enumerate(instances.labels)]
    for name, rle in zip(names, instances.rles, strict=True):
        mask = decode_rle([rle])[0].numpy().astype(np.uint8) * 255
        write_atomically(masks / name, png_bytes(Image.fromarray(mask)))
    # Masks that an earlier run left there would be counted as instances of this one.
    for path in masks.iterdir():
        if _MASK_NAME.fullmatch(path.name) and path.name not in names:
            path.unlink()
    write_atomically(folder / "overlay.png", png_bytes(draw(source, instances)))
    image = {"file": source.path.name if source.path else None, "orientation": source.orientation}
    instances.to_json(folder / "result.json", image=image, models=models)


def output_folders(images: Sequence[Path], out: Path) -> list[Path]:
    """Return where each result goes: to `out` for one image, else to `out`/stem, numbered where stems are equal."""
    if len(images) == 1:
        return [out]
    folders: list[Path] = []
    # Stems that differ in upper and lower case alone share a folder on some file systems.
    taken: set[str] = set()
    for image in images:
        stem = image.stem or "image"
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        folders.append(out / name)
    return folders


def mask_name(rank: int, phrase: str) -> str:
    """Return a file name that every file system takes: "000-a-dog.png"."""
    plain = unicodedata.normalize("NFKD", phrase).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    return f"{rank:03d}-{slug or 'phrase'}.png"


def png_bytes(image: Image.Image) -> bytes:
    """Return `image` as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()

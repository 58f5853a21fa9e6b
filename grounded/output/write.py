"""Writing the result of one image into a folder: `overlay.png`, `masks/` and `result.json`. For the command line."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.output.draw import draw
from grounded.utils.files import atomic_files, cut_name, image_bytes, json_bytes, output_errors
from segany.utils.addresses import address_name, is_address, shown_address
from segany.utils.rle import decode_rle

_LONGEST_STEM = 240  # bytes; file systems take 255, and a number may follow
_MASK_NAME = re.compile(r"\d{3,}-[^/]*\.png")


def write_result(
    folder: Path, source: SourceImage, instances: Instances, models: Mapping[str, str | None] | None = None
) -> None:
    """Write the result of one image into `folder`, over an earlier one.

    Masks are PNG files of the image's size, 255 inside and 0 outside, named by rank and phrase ("000-a-dog.png").
    Everything is written under temporary names first, so that a full disk or an interrupt leaves the earlier result.
    `result.json` takes its place last: where it exists, the rest is complete. Its "image" section states the file name,
    the address if there is one, the EXIF orientation that was applied, and the notes of the image if there are any.

    Raises:
        OutputError: a file cannot be written.
    """
    masks, result = folder / "masks", folder / "result.json"
    names = [mask_name(i, label) for i, label in enumerate(instances.labels)]
    with atomic_files() as write:
        for name, rle in zip(names, instances.rles, strict=True):
            mask = decode_rle([rle])[0].numpy().astype(np.uint8) * 255
            write(masks / name, image_bytes(Image.fromarray(mask)))
        write(folder / "overlay.png", image_bytes(draw(source, instances)))
        write(result, json_bytes(instances.to_dict(_image_section(source), models)))
        with output_errors(folder):
            result.unlink(missing_ok=True)
            masks.mkdir(exist_ok=True)
            # Masks that an earlier run left there would be counted as instances of this one.
            for path in masks.iterdir():
                if _MASK_NAME.fullmatch(path.name) and path.name not in names:
                    path.unlink()


def _image_section(source: SourceImage) -> dict[str, Any]:
    section: dict[str, Any] = {"file": source.file_name, "orientation": source.orientation}
    section |= {} if source.address is None else {"address": shown_address(source.address)}
    return {**section, "notes": list(source.notes)} if source.notes else section


def output_folders(images: Sequence[str | Path], out: Path) -> list[Path]:
    """Return where each result goes: to `out` for one image, else to `out`/stem, numbered where stems are equal.

    Args:
        images: paths and addresses; the stem of an address is that of its last part.
        out: the folder of all results.
    """
    if len(images) == 1:
        return [out]
    folders: list[Path] = []
    # Stems that differ in upper and lower case alone share a folder on some file systems.
    taken: set[str] = set()
    for image in images:
        stem = cut_name(_stem(image), _LONGEST_STEM)
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        folders.append(out / name)
    return folders


def _stem(image: str | Path) -> str:
    name = address_name(image) if isinstance(image, str) and is_address(image) else Path(image).name
    return Path(name).stem or "image"


def mask_name(rank: int, phrase: str) -> str:
    """Return the file name of a mask, in characters that every file system takes: "000-a-dog.png"."""
    plain = unicodedata.normalize("NFKD", phrase).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    return f"{rank:03d}-{slug or 'phrase'}.png"

"""Photographs with named masks as tensors, from folders in COCO format; all of them are held in memory, so that a batch
is drawn on the device where it is learnt from.

A folder of photographs is `FOLDER/NAME/` beside `FOLDER/NAME.json`, whose images may state a "source". Sources differ
in what they annotate: only names that a source has annotated everywhere tell that a thing is absent.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from grounded.labelling.formats.annotations import LeftOut, Notes
from grounded.labelling.formats.coco_file import CocoFile, CocoImage, read_coco
from segany.utils.rle import decode_rle, rle_area

MOST_OBJECTS = 250  # of an image, the largest; labels are bytes, and 255 is a pasted object
HINTS = 24  # boxes of a teacher, of an image
# Names that two sources call differently.
SAME = {"sofa": "couch", "motorbike": "motorcycle", "aeroplane": "airplane", "diningtable": "dining table"}


@dataclass(frozen=True, eq=False)
class Photographs:
    """n photographs in the upper left of squares of s pixels.

    images      RGB
    labels      1 + the row of the object that a pixel belongs to, 0 for none; small objects lie above large ones
    sizes       height and width of each, in pixels
    names       of the objects, as rows of `vocabulary`; -1 for none
    sources     of each, as rows of `source_names`
    hints       boxes of a teacher for names that a source does not annotate: xyxy in pixels, the name's row or -1, and
                whether it is sure (1), or only not to be taken for absent (0)
    """

    images: UInt8[Tensor, "n 3 s s"]
    labels: UInt8[Tensor, "n s s"]
    sizes: Float[Tensor, "n 2"]
    names: Int16[Tensor, "n 256"]
    sources: Int64[Tensor, "n"]
    hints: Float[Tensor, "n j 6"]
    vocabulary: tuple[str, ...]
    source_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Photographs":
        """The same on another device."""
        moved = (getattr(self, name).to(device) for name in ("images", "labels", "sizes", "names", "sources", "hints"))
        return Photographs(*moved, self.vocabulary, self.source_names)

    def has_named(self) -> Tensor:
        """(n) whether a photograph has an object with a name."""
        return (self.names >= 0).any(dim=1)

    def annotated_names(self) -> Tensor:
        """(sources, names) bool: which names occur in a source."""
        occurs = torch.zeros(len(self.source_names), len(self.vocabulary), dtype=torch.bool)
        for source in range(len(self.source_names)):
            own = self.names[self.sources == source].flatten().long()
            occurs[source, own[own >= 0].cpu()] = True
        return occurs


def read_photographs(
    folder: Path,
    name: str,
    side: int,
    vocabulary: Sequence[str] | None = None,
    hints: Path | None = None,
    limit: int | None = None,
) -> Photographs:
    """Read `FOLDER/NAME.json` and the images beside it.

    Args:
        folder: of the data.
        name: of the split.
        side: of the squares; larger photographs are reduced to it.
        vocabulary: the names to know, in their order; None: all of the file, by how often they occur.
        hints: JSON of a teacher: file name -> [[x0, y0, x1, y1, name, score, sure], ...].
        limit: most photographs, the first; None: all.

    Raises:
        ResultError: the file cannot be read.
        OSError: an image is missing or damaged.
    """
    coco, entries = read_coco(folder / f"{name}.json"), read_sources(folder / f"{name}.json")
    images = coco.images[:limit]
    taught = json.loads(hints.read_text()) if hints is not None else {}
    if vocabulary is None:
        vocabulary = _names_by_count(coco, taught)
    rows = {word: row for row, word in enumerate(vocabulary)}
    source_names = tuple(sorted({entries.get(image.file_name, name) for image in images}))
    pixels = torch.zeros(len(images), 3, side, side, dtype=torch.uint8)
    labels = torch.zeros(len(images), side, side, dtype=torch.uint8)
    sizes = torch.zeros(len(images), 2)
    names = torch.full((len(images), 256), -1, dtype=torch.int16)
    boxes = torch.zeros(len(images), HINTS, 6)
    boxes[..., 4] = -1

    def read(number: int) -> None:
        image = images[number]
        one, own, words = _read_image(folder / name, image, coco, side)
        height, width = own.shape
        pixels[number, :, :height, :width] = torch.from_numpy(one).permute(2, 0, 1)
        labels[number, :height, :width] = torch.from_numpy(own)
        sizes[number] = torch.tensor([height, width])
        for object_, word in enumerate(words, start=1):
            names[number, object_] = rows.get(word, -1)
        scale = height / image.image_size[0] if image.image_size else 1.0
        for hint, (x0, y0, x1, y1, word, _, sure) in enumerate(taught.get(image.file_name, ())[:HINTS]):
            box = [scale * x0, scale * y0, scale * x1, scale * y1]
            boxes[number, hint] = torch.tensor([*box, rows.get(SAME.get(word, word), -1), float(sure)])

    with ThreadPoolExecutor(4) as pool:
        list(tqdm(pool.map(read, range(len(images))), total=len(images), desc=name, unit="image"))
    sources = torch.tensor([source_names.index(entries.get(image.file_name, name)) for image in images])
    return Photographs(pixels, labels, sizes, names, sources, boxes, tuple(vocabulary), source_names)


def read_sources(path: Path) -> dict[str | None, str]:
    """The source of each image, by its file name, where the file states it."""
    images = json.loads(path.read_text())["images"]
    return {image["file_name"]: image["source"] for image in images if "source" in image}


def _names_by_count(coco: CocoFile, taught: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    by_id = {id: SAME.get(name, name) for id, name in coco.categories.items()}
    for entries in coco.annotations.values():
        for entry in entries:
            word = by_id.get(entry.get("category_id"))
            if word is not None:
                counts[word] = counts.get(word, 0) + 1
    for hints in taught.values():
        for hint in hints:
            counts.setdefault(SAME.get(hint[4], hint[4]), 0)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))


def _read_image(
    folder: Path, image: CocoImage, coco: CocoFile, side: int
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], list[str]]:
    """The pixels of an image, the object of each, and the names of the objects, the largest first."""
    with Image.open(folder / str(image.file_name)) as stored:
        opened = stored.convert("RGB")
    size = opened.height, opened.width
    objects = [
        one
        for one in coco.objects(image, size, LeftOut(Notes(), str(image.file_name)))
        if one.mask is not None and not one.is_crowd and rle_area([one.mask])[0]
    ]
    objects = sorted(objects, key=lambda one: -one.area)[:MOST_OBJECTS]
    labels = np.zeros(size, np.uint8)
    if objects:
        for row, mask in enumerate(decode_rle([one.mask for one in objects if one.mask is not None]), start=1):
            labels[mask.numpy()] = row
    if max(size) > side:
        smaller = round(size[1] * side / max(size)), round(size[0] * side / max(size))
        opened = opened.resize(smaller, Image.Resampling.BOX)
        labels = np.array(Image.fromarray(labels).resize(smaller, Image.Resampling.NEAREST))
    return np.array(opened), labels, [SAME.get(one.label, one.label) for one in objects]

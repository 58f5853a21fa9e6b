"""Photographs with known objects, and what is asked of each: the names that it shows and some that it does not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.evaluation.dataset import GroundTruthObject, read_ground_truth
from grounded.labelling.formats.coco_file import read_coco
from recipes.photo.data import SAME
from recipes.photo.models import SIDE
from segany.utils.rle import decode_rle

ABSENT = 8  # names asked of each photograph that it does not show
RARE = 40  # objects in the training data, below which a name is rare
LEAST_AREA = 160  # of an object, in pixels of the model frame; smaller ones are neither asked for nor counted


@dataclass(frozen=True, eq=False)
class Example:
    """One photograph of a validation set.

    present are the names of its objects, in order; absent are other names of the set.
    """

    file: str
    image: Image.Image
    objects: tuple[GroundTruthObject, ...]
    names: tuple[str, ...]  # of the objects
    present: tuple[str, ...]
    absent: tuple[str, ...]

    def masks(self, name: str | None = None) -> np.ndarray:
        """(n, h, w) bool: of the objects, or of those of a name."""
        rles = [one.require_mask() for one, own in zip(self.objects, self.names, strict=True) if name in (None, own)]
        if not rles:
            return np.zeros((0, self.image.height, self.image.width), bool)
        return decode_rle(rles).numpy()

    def boxes(self, name: str | None = None) -> np.ndarray:
        """(n, 4) xyxy in pixels: of the objects, or of those of a name."""
        boxes = [one.box for one, own in zip(self.objects, self.names, strict=True) if name in (None, own)]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)


class Validation:
    """The photographs of a split, one after the other; their queries are the same every time.

    Args:
        folder: of the data.
        split: reads FOLDER/SPLIT.json and the images in FOLDER/SPLIT.
        limit: most photographs, the first; None: all.
        names: objects of other names are left out; None: all count.
    """

    def __init__(self, folder: Path, split: str, limit: int | None = None, names: Sequence[str] | None = None) -> None:
        self.truth = read_ground_truth(folder / f"{split}.json")
        self.folder, self.split, self.wanted = folder / split, split, names
        self.files = list(self.truth.sizes)[:limit]
        self.vocabulary = sorted({SAME.get(name, name) for name in self.truth.classes})

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Example]:
        for number, file in enumerate(self.files):
            height, width = self.truth.sizes[file]
            least = LEAST_AREA * (max(height, width) / SIDE) ** 2
            every = [(SAME.get(o.label, o.label), o) for o in self.truth.objects(file) if o.mask and not o.is_crowd]
            kept = [
                (name, one) for name, one in every if one.area >= least and (self.wanted is None or name in self.wanted)
            ]
            if kept:
                shown = {name for name, _ in every}
                others = [name for name in self.vocabulary if name not in shown]
                absent = np.random.default_rng([7, number]).permutation(others)[:ABSENT].tolist()
                with Image.open(self.folder / file) as stored:
                    image = stored.convert("RGB")
                names = tuple(name for name, _ in kept)
                present = tuple(sorted(set(names)))
                yield Example(file, image, tuple(one for _, one in kept), names, present, tuple(absent))


def rare_names(folder: Path, split: str) -> list[str]:
    """The names of a split that have fewer than `RARE` objects in the training data."""
    train = read_coco(folder / "train.json")
    counts: Counter[str] = Counter()
    for entries in train.annotations.values():
        counts.update(train.categories.get(entry.get("category_id"), "") for entry in entries)
    merged: Counter[str] = Counter()
    for name, count in counts.items():
        merged[SAME.get(name, name)] += count
    return [name for name in Validation(folder, split).vocabulary if merged[name] < RARE]

"""A small run, and reviews of it."""

from pathlib import Path
from typing import Any

import numpy as np

from grounded.data.instances import Instances
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.review.log import Review
from grounded.labelling.store import Run, open_run
from segany.utils.rle import RLE, encode_rle
from tests.data import disk

SIZE = (40, 60)


def mask(x: float, radius: float = 8) -> RLE:
    return encode_rle(disk(*SIZE, x, 20, radius)[None])[0]


def record(file: str = "a.png", phrases: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Record:
    rles = [mask(10 + 15 * i) for i in range(count)]
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    found = Instances.from_masks(phrases, SIZE, rles, np.arange(count) % len(phrases), scores, "detector")
    return Record(image=ImageInfo(file=file, width=SIZE[1], height=SIZE[0]), instances=found, config="abc")


def make_review(action: str, instance: int | str | None = None, file: str = "a.png", **values: Any) -> Review:
    key = {"id": instance} if isinstance(instance, str) else {"instance": instance}
    return Review(file=file, action=action, **key, **values)


NEW = mask(50, 5)


def write_run(folder: Path, *records: Record) -> Path:
    with open_run(folder, Run(source="/nowhere", phrases=("cat", "dog"), config="abc")) as writer:
        for one in records:
            writer.append(one)
    return folder

"""Records of every kind that formats find hard, the bytes of their images, and a short way to export them."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grounded.data.instances import Instances
from grounded.labelling.formats.exporter import Exporter
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store.source_ids import SourceIds
from segany.utils.rle import encode_rle
from tests.data import disk

CLASSES = ("a dog", "ein Stück Käse 猫", "never seen")
NAN = float("nan")


def record(
    file: str,
    masks: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[str] = (),
    scores: Sequence[float] = (),
    size: tuple[int, int] = (30, 40),
    **image: object,
) -> Record:
    """A record of (height, width) masks, by default dogs whose scores fall from 0.9."""
    n = len(masks)
    labels = labels or ["a dog"] * n
    scores = np.array(scores or [0.9 - 0.05 * i for i in range(n)], np.float32)
    height, width = masks[0].shape if n else size
    phrases = tuple(dict.fromkeys([*labels, "asked for as well"]))  # phrases need not be classes
    unknown = np.full(n, np.nan, np.float32)
    instances = Instances(
        phrases=phrases,
        image_size=(height, width),
        phrase_ids=np.array([phrases.index(label) for label in labels], np.int64),
        boxes=np.arange(4 * n, dtype=np.float32).reshape(n, 4),
        rles=tuple(encode_rle(np.stack(masks))) if n else (),
        scores=scores,
        detector_scores=unknown,
        clip_scores=unknown,
        predicted_iou=scores,
        phrase_scores=np.zeros((n, len(phrases)), np.float32),
        sources=np.array(["detector"] * n, dtype=np.str_),
    )
    return Record(image=ImageInfo(file=file, width=width, height=height, **image), instances=instances)


def holed() -> np.ndarray:
    return disk(30, 40, 20, 15, 12) & ~disk(30, 40, 17, 14, 4) & ~disk(30, 40, 26, 17, 3)


def parts() -> np.ndarray:
    return disk(30, 40, 8, 8, 5) | disk(30, 40, 30, 20, 6) | disk(30, 40, 5, 25, 2)


def pixel() -> np.ndarray:
    mask = np.zeros((30, 40), bool)
    mask[7, 11] = True
    return mask


RECORDS = {
    "one": record("one.jpg", [disk(30, 40, 20, 15, 9)]),
    "nothing found": record("sub/nothing.png", []),
    "several parts": record("sub/parts.jpg", [parts()], ["ein Stück Käse 猫"]),
    "holes": record("holes.jpg", [holed()]),
    "one pixel": record("pixel.webp", [pixel()]),
    "whole image": record("sub/sub/whole.jpg", [np.ones((30, 40), bool)], scores=[NAN]),
    "overlapping": record(
        "overlapping.jpg",
        [disk(30, 40, 12, 15, 9), disk(30, 40, 12, 15, 5), disk(30, 40, 30, 9, 4), disk(30, 40, 12, 15, 2)],
        ["a dog", "ein Stück Käse 猫", "a dog", "a dog"],
        [0.8, 0.9, 0.7, NAN],
    ),
    "an empty mask among others": record("empty.jpg", [np.zeros((30, 40), bool), pixel()]),
    "turned": record("turned.jpg", [disk(40, 30, 12, 15, 9)], orientation=6, notes=("a note",)),
    "same stem": record("one.png", [disk(30, 40, 9, 15, 6)]),
    "out of the folder": record("../up//x.y.jpg", [pixel()]),
}
ALL = list(RECORDS.values())


def images(file: str) -> bytes:
    """The image of a record, stored as its orientation says; its upper left pixel, seen upright, is red."""
    found = next(one.image for one in ALL if one.image.file == file)
    pixels = np.full((found.height, found.width, 3), 120, np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    exif = Image.Exif()
    if found.orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    image.save(buffer, format="PNG" if file.endswith(".png") else "JPEG", exif=exif)
    return buffer.getvalue()


def write(
    exporter: type[Exporter],
    records: Sequence[Record],
    classes: Sequence[str],
    folder: Path,
    images: Callable[[str], bytes] | None = None,
    source_ids: SourceIds | None = None,
) -> Counter[str]:
    """Write a format's files into a folder, and return what was lost."""
    return exporter(classes, folder, images, source_ids).write(records)


def visible(instances: Instances) -> list[np.ndarray]:
    """What remains of each mask once better ones lie upon it, computed one by one."""
    left, taken = [np.zeros(0)] * len(instances), np.zeros(instances.image_size, bool)
    for row in sorted(range(len(instances)), key=lambda row: -np.nan_to_num(instances.scores[row], nan=-1)):
        left[row] = instances.masks[row] & ~taken
        taken |= instances.masks[row]
    return left


def shown(record: Record) -> Instances:
    """The instances that have pixels."""
    return record.instances[record.instances.masks.any(axis=(1, 2))]

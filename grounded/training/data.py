"""Training data as values: images, the objects in them, and how images are held out for validation."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from PIL import Image

from grounded.errors import ResultError
from grounded.labelling.formats.annotations import Box
from grounded.labelling.loading import decode_image
from segany.utils.rle import RLE


@dataclass(frozen=True)
class TrainingObject:
    """An object of an image: its class, its box in pixels of the upright image, and its mask where there is one."""

    label: str
    box: Box
    mask: RLE | None = None


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """An image that was decoded once, so that it is known to be readable, and its objects."""

    file: str
    size: tuple[int, int]  # (height, width), upright
    digest: str  # of the bytes of its file
    objects: tuple[TrainingObject, ...]
    read: Callable[[], bytes]

    def open(self) -> Image.Image:
        """Return the upright RGB image. Raises ImageError or OSError where the file has changed since the check."""
        return decode_image(self.read(), self.file).pixels


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Images with objects, and the classes that are annotated in all of them."""

    images: tuple[TrainingImage, ...]
    classes: tuple[str, ...]

    @property
    def objects(self) -> int:
        """Number of objects."""
        return sum(len(image.objects) for image in self.images)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of images and annotations: a training may only go on with the data that it began with."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for image in self.images:
            objects = [(one.label, one.box, one.mask and one.mask["counts"]) for one in image.objects]
            digest.update(json.dumps([image.file, image.digest, objects]).encode())
        return digest.hexdigest()[:16]

    def only_annotated(self) -> "TrainingData":
        """Return the images that have an object."""
        return replace(self, images=tuple(image for image in self.images if image.objects))


def hold_out(data: TrainingData, share: float) -> tuple[TrainingData, TrainingData]:
    """Split off images for validation, at least one: those whose names have the lowest hashes.

    So the same images are held out whatever the order of the file, and most of them after images were added.

    Args:
        data: at least two images with objects.
        share: of the images that have an object, 0 to 1.

    Returns:
        what to learn from, and what is held out.

    Raises:
        ResultError: there are not two images with objects.
    """
    annotated = data.only_annotated().images
    if len(annotated) < 2:
        raise ResultError(
            f"to hold out images for validation there must be two with objects, got {len(annotated)}: give more, "
            "or a file of their own for validation"
        )
    count = min(max(1, round(share * len(annotated))), len(annotated) - 1)
    ordered = sorted(annotated, key=lambda image: hashlib.sha256(image.file.encode()).digest())
    held = {image.file for image in ordered[:count]}
    learned = tuple(image for image in data.images if image.file not in held)
    return replace(data, images=learned), replace(data, images=tuple(i for i in data.images if i.file in held))


def describe(data: TrainingData, shown: int = 5) -> str:
    """Return one line on the size of data: "80 images, 212 objects, 2 classes (cat 120, dog 92)"."""
    counts = dict.fromkeys(data.classes, 0)
    for image in data.images:
        for one in image.objects:
            counts[one.label] += 1
    names = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    listed = ", ".join(f"{name} {counts[name]}" for name in names[:shown]) + (", …" if len(names) > shown else "")
    sizes = ((len(data.images), "image"), (data.objects, "object"), (len(names), "class"))
    return f"{', '.join(plural(count, noun) for count, noun in sizes)} ({listed})"


def plural(count: int, noun: str) -> str:
    """Return "1 class", "2 classes", "3 images"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"

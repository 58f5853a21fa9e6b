"""Exports records in an annotation format: the base class of all exporters, and `export`, which runs one of them.

docs/formats.md lists what each format keeps and loses.
"""

import hashlib
import importlib
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image, ImageOps

import grounded
from grounded.data.instances import Instances
from grounded.errors import ConfigError, ImageError, ResultError
from grounded.labelling.formats import EXPORT_FORMATS, NOTE
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store.source_ids import SourceIds
from grounded.utils.files import atomic_folder, image_bytes, write_new
from segany.utils.rle import rle_area

Lost: TypeAlias = Counter[str]
"""What a format could not hold, in words, and how often."""

_FRAME = "Boxes and masks are of the upright images, as they are seen once the EXIF orientation is applied."
# Formats in which an image that has been turned can be stored again. Others become PNG.
_WRITABLE = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
_JPEG_MODES = ("L", "RGB", "CMYK")


class Exporter(ABC):
    """Writes records in one format, image by image, so that a data set need not fit in memory.

    A format implements `add`, and `begin` and `end` where it has files about all images. It writes into `folder` and
    counts in `lost` what it cannot hold. Files that stay open meanwhile are entered into `open_files`.

    Args:
        classes: all labels there may be, in the order in which the format is to number them.
        folder: new or empty; `export` gives it its final name when it is complete.
        images: returns the bytes of an image by its `file`; with it, upright copies of the images are written to where
            the format has them.
        source_ids: ids of images and categories that formats with ids are to keep.
    """

    # Whether an image has files of its own, which share a unique stem with each other and with the copy of the image.
    has_file_per_image: ClassVar[bool] = False
    image_folder: ClassVar[str] = "images"  # of the copies, within the export
    keeps_empty_masks: ClassVar[bool] = False

    def __init__(
        self,
        classes: Sequence[str],
        folder: Path,
        images: Callable[[str], bytes] | None = None,
        source_ids: SourceIds | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.folder = folder
        self.images = images
        self.source_ids = source_ids
        self.lost: Lost = Counter()
        self.open_files = ExitStack()

    def write(self, records: Iterable[Record]) -> Lost:
        """Write records, each of another image, and return what the format could not hold.

        Raises:
            ResultError: an instance is of none of the classes.
            ConfigError: the format cannot hold the classes.
            ImageError: an image cannot be read, or not be turned upright.
            OutputError: a file cannot be written.
            ImportError: the format needs a package that is not installed.
        """
        names = ExportNames(self.lost)
        class_ids = {label: number for number, label in enumerate(self.classes)}
        with self.open_files:
            self.begin()
            for record in records:
                image = record.image
                instances = with_class_ids(record, class_ids)
                if not self.keeps_empty_masks:
                    has_pixels = rle_area(instances.rles) > 0
                    self.lost["instances left out, as their masks are empty"] += int((~has_pixels).sum())
                    instances = instances[has_pixels]
                stem = names.stem(image) if self.has_file_per_image else ""
                file = image.file
                if self.images is not None:
                    file = stem + copy_suffix(image) if self.has_file_per_image else names.file(image)
                    copy_image(self.folder / self.image_folder / file, image, self.images, self.lost)
                self.add(record, instances, stem, file)
            self.end()
        return self.lost

    def begin(self) -> None:  # noqa: B027, most formats need only one of the two
        """Called before the first record: write or open files about all images."""

    @abstractmethod
    def add(self, record: Record, instances: Instances, stem: str, file: str) -> None:
        """Write one record.

        Args:
            record: as it is.
            instances: those of the record that have pixels (all with `keeps_empty_masks`), with the classes for
                phrases: `phrase_ids` are the numbers of the classes, from 0.
            stem: unique name for the image's own files, with folders and without extension; "" unless
                `has_file_per_image`.
            file: name of the copy within `image_folder`, or the image's name in the record where no copies are made.
        """

    def end(self) -> None:  # noqa: B027
        """Called after the last record: complete files about all images."""


@dataclass(frozen=True)
class ExportSummary:
    """How many images and instances were exported, and what of them the format could not hold."""

    images: int
    instances: int
    lost: Lost

    def lines(self) -> list[str]:
        """One line for each kind of loss: what is lost, and how often."""
        return [f"{what}: {count}" for what, count in sorted(self.lost.items()) if count]


def exporter_class(name: str) -> type[Exporter]:
    """Return the exporter of a format.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in EXPORT_FORMATS:
        raise ConfigError(f"format must be one of {', '.join(EXPORT_FORMATS)}, got {name!r}")
    module, class_name = EXPORT_FORMATS[name]
    exporter: type[Exporter] = getattr(importlib.import_module(f"grounded.labelling.formats.{module}"), class_name)
    return exporter


def export(
    name: str,
    records: Iterable[Record],
    classes: Sequence[str],
    folder: str | PathLike[str],
    images: Callable[[str], bytes] | None = None,
    *,
    replace: bool = False,
    source_ids: SourceIds | None = None,
) -> ExportSummary:
    """Write records in one of the `EXPORT_FORMATS`, into a folder that appears when it is complete, and not before.

    Besides the format's own files it holds `export.txt`, a report of the losses.

    Args:
        name: of the format.
        records: each of another image; they are taken one by one.
        classes: all labels there may be, in the order in which the format is to number them.
        folder: new or empty, or with `replace` that of an earlier export, which is put away when the new one is ready.
        images: returns the bytes of an image by its `file`; with it, upright copies of the images are written.
        source_ids: of the COCO file that the images come from, which COCO formats keep.

    Raises:
        ConfigError: there is no such format, it cannot hold the classes, or a class is named twice.
        ResultError: an instance is of none of the classes.
        ImageError: an image cannot be read, or not be turned upright.
        OutputError: a file cannot be written, or the folder holds something else.
        ImportError: the format needs a package that is not installed.
    """
    exporter = exporter_class(name)
    if len(set(classes)) != len(classes):
        twice = next(label for label, count in Counter(classes).items() if count > 1)
        raise ConfigError(f"classes must differ from one another, got {twice!r} twice")
    totals: Counter[str] = Counter()

    def counted() -> Iterator[Record]:
        for record in records:
            totals["images"] += 1
            totals["instances"] += len(record.instances)
            totals["turned"] += record.image.orientation != 1
            yield record

    with atomic_folder(Path(folder), NOTE if replace else None) as place:
        lost = exporter(classes, place, images, source_ids).write(counted())
        if images is None:
            what = "images with an EXIF orientation, whose boxes do not fit for programs that ignore it"
            lost[f"{what} (copy the images along: the copies are upright)"] += totals["turned"]
        summary = ExportSummary(totals["images"], totals["instances"], lost)
        write_new(place / NOTE, _note(name, summary).encode())
    return summary


def _note(name: str, summary: ExportSummary) -> str:
    head = f"{summary.images} images, {summary.instances} instances as {name}, by grounded {grounded.__version__}."
    losses = summary.lines()
    body = ["Lost:", *(f"- {line}" for line in losses)] if losses else ["Nothing is lost."]
    return "\n".join([head, _FRAME, "", *body]) + "\n"


def with_class_ids(record: Record, class_ids: Mapping[str, int]) -> Instances:
    """Return the instances with the classes for phrases, so that `phrase_ids` are class ids; `phrase_scores` are nan.

    Raises:
        ResultError: an instance is of none of the classes.
    """
    instances = record.instances
    labels = instances.labels.tolist()
    for label in labels:
        if label not in class_ids:
            raise ResultError(f"{record.image.file}: {label!r} is not among the {len(class_ids)} classes")
    return replace(
        instances,
        phrases=tuple(class_ids),
        phrase_ids=np.array([class_ids[label] for label in labels], dtype=np.int64),
        phrase_scores=np.full((len(instances), len(class_ids)), np.nan, np.float32),
    )


class ExportNames:
    """Gives every image a file name, or a stem for its own files, that no other image has.

    Folders are kept: a/b.jpg is a/b.jpg, with the stem a/b. Of a/b.jpg and a/b.png the second gets the stem a/b-2.
    Parts that lead out of a folder, "/" in front and "..", become harmless.

    Args:
        lost: images whose stem had to be changed are counted here.
    """

    def __init__(self, lost: Lost) -> None:
        self._lost = lost
        self._taken: set[str] = set()

    def file(self, image: ImageInfo) -> str:
        """Return the name of an image's copy, with "/" between folders."""
        path = PurePosixPath(within_folder(image.file))
        return self._unique(path.with_name(path.stem + copy_suffix(image)))

    def stem(self, image: ImageInfo) -> str:
        """Return the name of an image without its extension."""
        path = PurePosixPath(within_folder(image.file)).with_suffix("")
        stem = self._unique(path)
        self._lost["images renamed, as another one's name differs by the extension alone"] += stem != str(path)
        return stem

    def _unique(self, path: PurePosixPath) -> str:
        name, number = str(path), 2
        while name in self._taken:
            name, number = str(path.with_name(f"{path.stem}-{number}{path.suffix}")), number + 1
        self._taken.add(name)
        return name


def within_folder(file: str) -> str:
    """Return the name of a file as one that lies within a folder: "/data/../b.jpg" as "data/_/b.jpg"."""
    parts = ["_" if part == ".." else part for part in file.replace("\0", "_").split("/") if part not in ("", ".")]
    return "/".join(parts) or "_"


def copy_suffix(image: ImageInfo) -> str:
    """Return the extension of an image's copy, ".jpg" with its dot; "" where there is none."""
    stored = PurePosixPath(within_folder(image.file)).suffix
    is_writable = image.orientation == 1 or stored.lower() in _WRITABLE
    return stored if is_writable else f"{stored}.png"


def copy_image(path: Path, image: ImageInfo, images: Callable[[str], bytes], lost: Lost) -> None:
    """Write a copy of an image: the same bytes, or where it has an EXIF orientation, an image that is turned upright.

    An image that has changed since it was labelled is copied nevertheless, and counted among what is lost.

    Args:
        path: of the copy, with the extension of `copy_suffix`.
        image: which.
        images: returns the bytes of an image by its `file`.
        lost: is added to.

    Raises:
        ImageError: the image cannot be read, or not be turned upright.
        OutputError: the copy cannot be written.
    """
    try:
        data = images(image.file)
    except ImageError as error:
        raise ImageError(f"cannot copy {image.file}: {error}") from error
    if image.sha256 is not None and hashlib.sha256(data).hexdigest() != image.sha256:
        lost["images that have changed since they were labelled"] += 1
    write_new(path, data if image.orientation == 1 else _upright(data, image.file, path.suffix))


def _upright(data: bytes, file: str, suffix: str) -> bytes:
    """Return an image file turned by its EXIF orientation, in the format of a suffix in `_WRITABLE`."""
    try:
        with Image.open(io.BytesIO(data)) as stored:
            turned = ImageOps.exif_transpose(stored)
        format_name = _WRITABLE[suffix.lower()]
        if format_name == "JPEG" and turned.mode not in _JPEG_MODES:
            turned = turned.convert("RGB")
        options = _OPTIONS.get(format_name, {})
        return image_bytes(turned, format_name, icc_profile=turned.info.get("icc_profile"), **options)
    except Exception as error:  # damaged data make Pillow's decoders raise nearly anything
        raise ImageError(f"cannot turn {file} upright: {error or type(error).__name__}") from error

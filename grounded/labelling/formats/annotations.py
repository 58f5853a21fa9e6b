"""Annotations that other programs wrote, as values: what every reader of a format returns, and how one is opened.

`corrections` turns them into reviews of a run, `ground_truth` into a run of their own.
"""

import hashlib
import importlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from grounded.data.instances import Instances
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats import IMPORT_FORMATS
from grounded.labelling.formats.image_names import ImageNames
from segany.utils.rle import RLE

SOURCE = "person"  # of instances that a person drew, by whatever means
MARK_LENGTH = 12  # hexadecimal digits
_EXAMPLES = 3
_HEAD = 1 << 16  # bytes at the beginning of a file from which its format is guessed


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An object in an image, as it was annotated."""

    label: str
    rle: RLE
    mark: str | None = None  # by which the export identified it, see `mark`
    score: float = math.nan
    is_rounded: bool = False  # an untouched mask may come back with other pixels at its outline


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """An image and its annotations, which may be none; with an `error` they could not be read."""

    names: tuple[str, ...]  # names that the image may have, the surest first
    image_size: tuple[int, int] | None = None  # (height, width) in pixels; None where the file does not state it
    annotations: tuple[Annotation, ...] = ()
    exported: frozenset[str] | None = None  # marks of the exported instances, where the file lists them
    error: str = ""


class Notes:
    """Counts of everything that was not imported as it stands, with a few examples of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str = "", count: int = 1) -> None:
        """Count something of a kind, which is a text; nothing happens where `count` is 0."""
        if count:
            self.counts[kind] += count
            examples = self._examples.setdefault(kind, [])
            if example and example not in examples:
                examples.append(example)

    def lines(self) -> list[str]:
        """One line for each kind, in order of appearance: "images left out: 12 (a.jpg, b.jpg, c.jpg, …)"."""
        lines = []
        for kind, count in self.counts.items():
            examples = self._examples[kind]
            more = ", …" if len(examples) > _EXAMPLES else ""
            lines.append(f"{kind}: {count}" + (f" ({', '.join(examples[:_EXAMPLES])}{more})" if examples else ""))
        return lines


class AnnotationReader(ABC):
    """A file, or a folder of files, of one annotation format."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path) -> "AnnotationReader":
        """Open a file or folder. Raises ResultError where it is not of this format."""

    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Return all labels that there may be, each once. Raises ResultError."""

    @abstractmethod
    def images(self, notes: Notes) -> Iterator[AnnotatedImage]:
        """Yield the images one by one, damaged ones with their `error`; left-out annotations are added to `notes`."""


def open_annotations(path: str | PathLike[str], name: str | None = None) -> AnnotationReader:
    """Open annotations.

    Args:
        path: of a file, or for LabelMe also of a folder of files.
        name: one of `IMPORT_FORMATS`; None to guess it from the beginning of the file.

    Raises:
        ConfigError: there is no such format, or it cannot be guessed.
        ResultError: the file cannot be read, or is of another format.
    """
    name = guess_format(path) if name is None else name
    if name not in IMPORT_FORMATS:
        raise ConfigError(f"format must be one of {', '.join(IMPORT_FORMATS)}, got {name!r}")
    module, class_name = IMPORT_FORMATS[name]
    reader: type[AnnotationReader] = getattr(
        importlib.import_module(f"grounded.labelling.formats.{module}"), class_name
    )
    return reader.open(Path(path))


def guess_format(path: str | PathLike[str]) -> str:
    """Return the format of a file by its beginning; a folder is LabelMe's.

    Raises:
        ConfigError: it cannot be guessed.
        ResultError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return "labelme"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    if head.startswith(b"["):
        return "label-studio"
    keys = set(re.findall(rb'"(shapes|imagePath|images|annotations|categories)"\s*:', head))
    if keys & {b"shapes", b"imagePath"}:
        return "labelme"
    if head.startswith(b"{") and keys:
        return "coco"
    raise ConfigError(f"the format of {path} cannot be told: name one of {', '.join(IMPORT_FORMATS)}")


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file. Raises ResultError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON: {error}") from error


def find_image(annotated: AnnotatedImage, names: ImageNames, notes: Notes, unknown: str, ambiguous: str) -> str | None:
    """Return the image that is annotated; None where the names fit none or several of `names`.

    Args:
        annotated: with the names that the image may have.
        names: of all images.
        notes: an image that is not found is added, as of the kind `unknown` or `ambiguous`.
    """
    candidates = names.candidates(annotated.names)
    if len(candidates) == 1:
        return candidates[0]
    notes.add(ambiguous if candidates else unknown, annotated.names[0])
    return None


def mark(rle: RLE, label: str) -> str:
    """Return digits that identify this mask under this label: row numbers may change, the contents do not.

    Formats with a place for it carry it along, so that the import recognises an instance, and one whose mask or label
    was changed since.
    """
    return hashlib.sha256(f"{rle['size']} {rle['counts']} {label}".encode()).hexdigest()[:MARK_LENGTH]


def marks(instances: Instances) -> list[str]:
    """Return the mark of each instance. Files list them, so that removed instances differ from those never exported."""
    return [mark(rle, label) for rle, label in zip(instances.rles, instances.labels.tolist(), strict=True)]


def exported_marks(data: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the marks of all instances that an export wrote for an image, under "exported"; None where missing."""
    exported = data.get("exported")
    return frozenset(map(str, exported)) if isinstance(exported, list) else None

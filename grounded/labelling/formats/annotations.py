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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.errors import ConfigError, PromptError, ResultError
from grounded.labelling.formats import IMPORT_FORMATS
from grounded.labelling.formats.image_names import ImageNames, NameMatch
from segany.utils.rle import RLE

DAMAGED = "annotations that cannot be read, left out"  # the kind of a note, see `LeftOut`
SOURCE = "person"  # of instances that a person drew, by whatever means
MARK_LENGTH = 12  # hexadecimal digits
_EXAMPLES = 3
# Escaped, or in UTF-8 or UTF-16, where it need not be one alone.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|[\xd8-\xdf]")
_HEAD = 1 << 16  # bytes at the beginning of a file from which its format is told
_MAIN_FILES = {  # of formats that are one file, in the folder of an export
    "coco": "instances.json",
    "label-studio": "tasks.json",
    "cvat": "annotations.xml",
    "panoptic": "panoptic.json",
    "coco-results": "results.json",
}
# The first keys of the first entry, among which that of the image is.
_SA1B = re.compile(r'\{\s*"image"\s*:\s*\{|\{\s*"annotations".*"(?:crop_box|stability_score)"\s*:', re.DOTALL)
_RESULT = re.compile(r'\[\s*\{[^{}]*?"(?:image_id|category_id)"\s*:')
WITHOUT_SIZES = "which does not tell the sizes of the images: export as JSON instead"  # exports of Label Studio


Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the upright image."""

FindSize: TypeAlias = Callable[[Sequence[str]], tuple[int, int] | None]
"""Returns (height, width) of the image that has one of some names; None where it is unknown."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An object in an image, as it was annotated."""

    label: str
    rle: RLE
    box: Box | None = None  # of an annotation that is a box without a mask; its rle is then empty
    mark: str | None = None  # by which the export identified it, see `mark`
    score: float = math.nan
    is_rounded: bool = False  # an untouched mask may come back with other pixels at its outline
    is_visible_part: bool = False  # of a format in which each pixel is of one object: what lies under others is lost


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """An image and its annotations, which may be none; with an `error` they could not be read."""

    names: tuple[str, ...]  # names that the image may have, the surest first
    image_size: tuple[int, int] | None = None  # (height, width) in pixels; None where the file does not state it
    annotations: tuple[Annotation, ...] = ()
    exported: frozenset[str] | None = None  # marks of the exported instances, where the file lists them
    source_id: int | str | None = None  # of the image in the file, where it has ids
    left_out: int = 0  # annotations that were not read: where there are any, what is missing was not deleted
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
            if example and len(examples) <= _EXAMPLES and example not in examples:  # one more, for the "…"
                examples.append(example)

    def lines(self) -> list[str]:
        """One line for each kind, in order of appearance: "images left out: 12 (a.jpg, b.jpg, c.jpg, …)"."""
        lines = []
        for kind, count in self.counts.items():
            examples = self._examples[kind]
            more = ", …" if len(examples) > _EXAMPLES else ""
            lines.append(f"{kind}: {count}" + (f" ({', '.join(examples[:_EXAMPLES])}{more})" if examples else ""))
        return lines


@dataclass
class LeftOut:
    """What a reader leaves out of one image: named in the notes, and counted for `AnnotatedImage.left_out`."""

    notes: Notes
    name: str  # of the image
    count: int = 0

    def add(self, kind: str, what: str = "", why: object = "") -> None:
        """Leave out an annotation.

        Args:
            kind: of the note, by which it is counted.
            what: it is: "annotation 7".
            why: the reason, where the kind does not say it.
        """
        self.notes.add(kind, ": ".join(filter(None, (" ".join(filter(None, (self.name, what))), str(why)))))
        self.count += 1


class AnnotationReader(ABC):
    """A file, or a folder of files, of one annotation format."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path) -> "AnnotationReader":
        """Open a file or folder. Raises ResultError where it is not of this format."""

    def files(self) -> tuple[Path, ...]:
        """Return the files that are read, a change of which makes another run of the import; () for the one opened."""
        return ()

    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Return all labels that there may be, each once. Raises ResultError."""

    def category_ids(self) -> Mapping[str, int | str]:
        """Return the ids that labels have in the file; none where it has no ids."""
        return {}

    @abstractmethod
    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        """Yield the images one by one, damaged ones with their `error`.

        Args:
            notes: annotations that are left out are added, see `LeftOut`.
            find_size: of images whose size is not stated; None where nothing is known about images.
        """


def open_annotations(path: str | PathLike[str], name: str | None = None, **options: Any) -> AnnotationReader:
    """Open annotations.

    Args:
        path: of a file, or of a folder.
        name: one of `IMPORT_FORMATS`; None to tell it by the contents.
        options: of the format's reader: `coco` of COCO results.

    Raises:
        ConfigError: there is no such format, or it cannot be told.
        ResultError: the file cannot be read, or is of another format.
    """
    path = Path(path)
    name = guess_format(path) if name is None else name
    if name not in IMPORT_FORMATS:
        raise ConfigError(f"format must be one of {', '.join(IMPORT_FORMATS)}, got {name!r}")
    if path.is_dir() and name in _MAIN_FILES:
        path = path / _MAIN_FILES[name]
    module, class_name = IMPORT_FORMATS[name]
    reader: type[AnnotationReader] = getattr(
        importlib.import_module(f"grounded.labelling.formats.{module}"), class_name
    )
    return reader.open(path, **options)


def guess_format(path: str | PathLike[str]) -> str:
    """Return the format of a file or of a folder, by what is in it.

    Raises:
        ConfigError: it cannot be told.
        ResultError: the file cannot be read, or is an export of a tool of which another kind is needed.
    """
    path = Path(path)
    found = _guess_folder(path) if path.is_dir() else _guess_file(path)
    if found is None:
        raise ConfigError(f"the format of {path} cannot be told: name one of {', '.join(IMPORT_FORMATS)}")
    return found


def _guess_folder(folder: Path) -> str | None:
    if (folder / "Annotations").is_dir():
        return "voc"
    if (folder / "instances.csv").is_file():
        return "png" if (folder / "mask").is_dir() else "csv"
    if (folder / "instances.parquet").is_file():
        return "parquet"
    for name in dict.fromkeys(_MAIN_FILES.values()):
        if (folder / name).is_file() and (found := _guess_file(folder / name)) is not None:
            return found
    first = next(folder.rglob("*.json"), None)
    if first is not None:
        return "sa1b" if _guess_file(first) == "sa1b" else "labelme"
    if next(folder.glob("*.xml"), None) is not None:
        return "voc"
    return "yolo" if next(folder.rglob("*.txt"), None) is not None else None


def _guess_file(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD)
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    if data.startswith(b"PAR1"):
        return "parquet"
    head = data.decode(json.detect_encoding(data), "replace").lstrip("\ufeff \t\r\n")
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return "yolo"
    if head.startswith("<"):
        root = re.search(r"<(annotations?)\b", head)
        return {"annotations": "cvat", "annotation": "voc"}[root[1]] if root else None
    if head.startswith("["):
        return "coco-results" if _RESULT.match(head) else "label-studio"
    if _SA1B.match(head):
        return "sa1b"
    keys = set(re.findall(r'"(shapes|imagePath|images|annotations|categories|segments_info)"\s*:', head))
    if head.startswith("{") and keys:
        if keys & {"shapes", "imagePath"}:
            return "labelme"
        return "panoptic" if "segments_info" in keys else "coco"
    columns = head.splitlines()[0].replace("\t", ",").replace('"', "").split(",") if suffix in (".csv", ".tsv") else []
    if {"annotator", "annotation_id"} & set(columns):
        raise ResultError(f"{path} is Label Studio's {suffix[1:].upper()} export, {WITHOUT_SIZES}")
    return {"image_name": "png", "file": "csv"}.get(next(iter(columns), ""))


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file. Raises ResultError."""
    try:
        data = path.read_bytes()
        value = json.loads(data)
        return _without_surrogates(value) if _SURROGATE.search(data) else value
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON: {error}") from error


def _without_surrogates(value: Any) -> Any:
    """Return a value of JSON with "?" for halves of surrogate pairs, which JSON may escape, and no file can hold."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(entry) for key, entry in value.items()}
    return value


def read_label(label: object) -> str:
    """Return a label, which must be a phrase. Raises ResultError where there is none."""
    if not isinstance(label, str | int | float) or isinstance(label, bool):
        raise ResultError("it has no label" if label is None else f"a label must be text, got {str(label)[:40]}")
    text = str(label)
    try:
        parse([text])
    except PromptError as error:
        problem = f"a label must be a phrase, got {text[:60]!r}" if text.strip() else "it has no label"
        raise ResultError(problem) from error
    return text


def match_images(
    images: Iterable[AnnotatedImage], names: ImageNames | None, notes: Notes, unknown: str, ambiguous: str
) -> Iterator[NameMatch[AnnotatedImage]]:
    """Yield the images that are annotated with the file that each means, None where its names fit none or several.

    Args:
        images: with the names that each may have.
        names: of all files; None where they are unknown, and each image is called by its own first name.
        notes: an image that is not found is added, as of the kind `unknown` or `ambiguous`.
    """
    if names is None:
        yield from (NameMatch(annotated, annotated.names[0]) for annotated in images)
        return
    for found in names.match(images, lambda annotated: () if annotated.error else annotated.names):
        if found.file is None and not found.item.error:
            notes.add(ambiguous if found.is_ambiguous else unknown, found.item.names[0])
        yield found


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

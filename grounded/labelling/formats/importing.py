"""Annotations that other programs wrote: as corrections of a run, or as a run of their own.

coco, labelme, label_studio   what a file says, picture by picture
names                         which picture a name means
corrections                   differences from a run's records -> reviews
truths                        annotations -> records
"""

import importlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from grounded.errors import ConfigError, ResultError
from segany.utils.rle import RLE

SOURCE = "person"  # of instances that a person drew, by whatever means
_EXAMPLES = 3
_HEAD = 1 << 16  # bytes of a file that tell its format


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An object in a picture, as it was annotated."""

    label: str
    rle: RLE
    mark: str | None = None  # what the export called it, see `grounded.labelling.formats.marks`
    score: float = math.nan
    is_rounded: bool = False  # whether a mask that nobody touched may come back otherwise by a pixel at its outline


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A picture and what is annotated in it, which may be nothing; with `error` it cannot be said what."""

    names: tuple[str, ...]  # what the picture may be called, the surest first
    image_size: tuple[int, int] | None = None  # (height, width) in pixels; None where nothing in the file tells
    annotations: tuple[Annotation, ...] = ()
    exported: frozenset[str] | None = None  # marks of what was exported, where the file tells
    error: str = ""


class Notes:
    """What was met and not imported as it stands: how often, and a few examples of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, what: str, example: str = "", count: int = 1) -> None:
        if count:
            self.counts[what] += count
            examples = self._examples.setdefault(what, [])
            if example and example not in examples:
                examples.append(example)

    def lines(self) -> list[str]:
        """One line for each kind, in the order in which they were met: "pictures unknown to the run: 12 (a.jpg, …)"."""
        return [f"{what}: {count}{self._shown(what)}" for what, count in self.counts.items()]

    def _shown(self, what: str) -> str:
        examples = self._examples[what]
        more = ", …" if len(examples) > _EXAMPLES else ""
        return f" ({', '.join(examples[:_EXAMPLES])}{more})" if examples else ""


@runtime_checkable
class Reader(Protocol):
    """A file, or a folder of files, that was opened."""

    def labels(self) -> tuple[str, ...]:
        """All labels that there may be, each once. Raises ResultError."""
        ...

    def pictures(self, notes: Notes) -> Iterator[Annotated]:
        """The pictures, one after the other; `notes` is told of what is left out. Raises ResultError."""
        ...


_MODULES = {"coco": "coco_read", "labelme": "labelme_read", "label-studio": "label_studio_read"}
FORMATS = tuple(_MODULES)


def open_annotations(path: str | PathLike[str], name: str | None = None) -> Reader:
    """Open annotations.

    Args:
        path: of a file, or for LabelMe also of a folder of files.
        name: one of `FORMATS`; None to tell it by what the file looks like.

    Raises:
        ConfigError: there is no such format, or it cannot be told.
        ResultError: the file cannot be read, or is of another format.
    """
    name = guessed(path) if name is None else name
    if name not in _MODULES:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    reader: Reader = importlib.import_module(f"grounded.labelling.formats.{_MODULES[name]}").open_file(Path(path))
    return reader


def guessed(path: str | PathLike[str]) -> str:
    """Return the format of a file by how it begins; a folder is LabelMe's.

    Raises:
        ConfigError: it cannot be told.
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
    raise ConfigError(f"the format of {path} cannot be told: name one of {', '.join(FORMATS)}")


def exported(data: Mapping[str, Any]) -> frozenset[str] | None:
    """The marks of all instances that the export wrote for a picture, under "exported"; None where it is missing."""
    marks = data.get("exported")
    return frozenset(map(str, marks)) if isinstance(marks, list) else None


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises ResultError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON: {error}") from error

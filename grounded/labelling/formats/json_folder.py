"""Formats with one JSON file for each image, in folders as the images are: the base of their readers."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from grounded.errors import ResultError
from grounded.labelling.formats.annotations import (
    AnnotatedImage,
    AnnotationReader,
    FindSize,
    LeftOut,
    Notes,
    read_json,
)

_Self = TypeVar("_Self", bound="JsonFolderReader")


@dataclass(frozen=True)
class JsonFolderReader(AnnotationReader):
    """Files within a folder, each read when its turn comes.

    kind     what one file is called in messages: "LabelMe file"
    needs    what a file lacks that is none
    foreign  the kind of the note on files of other programs
    """

    root: Path
    paths: tuple[Path, ...]

    kind: ClassVar[str]
    needs: ClassVar[str]
    foreign: ClassVar[str]

    @classmethod
    def open(cls: type[_Self], path: Path) -> _Self:
        """Open one file, or all within a folder and its folders. Raises ResultError where there is none."""
        if not path.is_dir():
            if not cls.is_own(read_json(path)):
                raise ResultError(f"{path} is not a {cls.kind}: {cls.needs}")
            return cls(path.parent, (path,))
        files = tuple(sorted(path.rglob("*.json")))
        if not files:
            raise ResultError(f"{path} holds no {cls.kind}: there is no *.json")
        return cls(path, files)

    def files(self) -> tuple[Path, ...]:
        return self.paths

    def labels(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for path in self.paths:
            try:
                data = read_json(path)
            except ResultError:
                continue  # `images` reports it
            for entry in self.entries(data) if self.is_own(data) else ():
                with suppress(ResultError):
                    found[self.read_entry_label(entry)] = None
        return tuple(found)

    def images(self, notes: Notes, find_size: FindSize | None = None) -> Iterator[AnnotatedImage]:
        for path in self.paths:
            relative = path.relative_to(self.root)
            names: tuple[str, ...] = (relative.as_posix(),)
            try:
                data = read_json(path)
                if not self.is_own(data):
                    notes.add(self.foreign, path.name)
                    continue
                names = self.image_names(data, relative) or names
                yield self.read_image(data, names, path, find_size, LeftOut(notes, names[0]))
            except ResultError as error:
                yield AnnotatedImage(names=names, error=str(error))

    @staticmethod
    @abstractmethod
    def is_own(data: Any) -> bool:
        """Whether the contents of a JSON file are of this format."""

    @staticmethod
    @abstractmethod
    def entries(data: Mapping[str, Any]) -> list[Any]:
        """Return the objects of a file, as they stand there."""

    @staticmethod
    @abstractmethod
    def read_entry_label(entry: Any) -> str:
        """Return the label of an object. Raises ResultError where there is none."""

    @staticmethod
    @abstractmethod
    def image_names(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
        """Return names that the image of a file may have; `path` is the file's, seen from the root."""

    @staticmethod
    @abstractmethod
    def read_image(
        data: Mapping[str, Any], names: tuple[str, ...], path: Path, find_size: FindSize | None, left_out: LeftOut
    ) -> AnnotatedImage:
        """Read the contents of a file. Raises ResultError where nothing of it can be read."""

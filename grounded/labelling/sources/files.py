"""Sources of image files: all below a folder, or those of a list."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from grounded.errors import ConfigError, ImageError
from grounded.labelling.sources.items import Item, is_image, path_to_name, read_file

_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class FolderSource:
    """Every image in a folder and below; of each folder first its files, then its folders, by name."""

    root: str  # absolute

    @property
    def spec(self) -> str:
        return self.root

    def items(self) -> Iterator[Item]:
        return (Item(path_to_name(path), partial(read_file, os.path.join(self.root, path))) for path in self._paths())

    def get(self, file: str) -> bytes:
        if file.startswith("/") or ".." in file.split("/") or not is_image(file):
            raise ImageError(f"{self.root} has no image {file}")
        path = os.path.join(self.root, file)
        if not os.path.exists(path):
            path = os.path.join(self.root, _name_to_path(file))
        return read_file(path)

    def count(self) -> int:
        return sum(1 for _ in self._paths())

    def _paths(self) -> Iterator[str]:
        """Paths below the root, in the form of the system."""
        return _walk(self.root, "", frozenset())


def _walk(root: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Yield the images of `root` in the folder `prefix` and below, without links to folders `above` (device, inode)."""
    folder = os.path.join(root, prefix) if prefix else root
    try:
        own = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = sorted((entry.name, entry.is_dir()) for entry in scanned if not entry.name.startswith("."))
    except OSError as error:
        if not prefix:
            raise ConfigError(f"cannot read the folder {root}: {error.strerror or error}") from error
        return  # one folder that may not be read, or has just been removed, must not cost the others
    identity = own.st_dev, own.st_ino
    names = {name for name, _ in entries}
    if identity in above or (prefix and {"run.json", "records"} <= names):
        return
    yield from (os.path.join(prefix, name) for name, is_folder in entries if not is_folder and is_image(name))
    for name, is_folder in entries:
        if is_folder:
            yield from _walk(root, os.path.join(prefix, name), above | {identity})


@dataclass(frozen=True)
class ListedFiles:
    """Images by name, each in a file of its own."""

    spec: str
    paths: Mapping[str, str] = field(repr=False)  # name -> absolute path, in order

    @classmethod
    def from_paths(cls, spec: str, paths: Iterable[str], root: str) -> "ListedFiles":
        """Name files by their paths below `root`, an absolute folder, to which relative paths are relative.

        Raises:
            ConfigError: two files would have the same name.
        """
        named: dict[str, str] = {}
        for path in paths:
            full = os.path.normpath(os.path.join(root, path))
            name = name_below(full, root)
            if named.setdefault(name, full) != full:
                raise ConfigError(f"{spec}: two images would be named {name}: {named[name]} and {full}")
        return cls(spec, named)

    def items(self) -> Iterator[Item]:
        return (Item(name, partial(read_file, path)) for name, path in self.paths.items())

    def get(self, file: str) -> bytes:
        if file not in self.paths:
            raise ImageError(f"{self.spec} has no image {file}")
        return read_file(self.paths[file])

    def count(self) -> int:
        return len(self.paths)


def name_below(path: str, root: str) -> str:
    """The name of an absolute path: the part below `root`, or all of it without its anchor."""
    inside = path.startswith(os.path.join(root, ""))
    return path_to_name(os.path.relpath(path, root) if inside else path.removeprefix(Path(path).anchor))


def _name_to_path(file: str) -> str:
    """Inverse of `path_to_name` for names that hold escaped bytes."""
    raw = _ESCAPED.sub(lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] >= "80" else match[0], file)
    return os.fsdecode(raw.encode("utf-8", "surrogateescape"))

"""Sources of image files: all below a folder, or those of a list, which may hold addresses as well."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from grounded.errors import ConfigError, ImageError
from grounded.labelling.sources.clips import ClipPlace, is_video
from grounded.labelling.sources.items import (
    Item,
    address_to_name,
    is_image,
    path_to_name,
    read_file,
    read_place,
    with_digest,
)
from grounded.labelling.sources.own_files import OwnFiles
from grounded.labelling.store.source_ids import SourceIds
from segany.utils.addresses import is_address, locate

_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class FolderSource:
    """Every image in a folder and below; of each folder first its files, then its folders, by name."""

    root: str  # absolute
    videos: bool = False  # whether video files are among the items, as clips

    @property
    def spec(self) -> str:
        return self.root

    def items(self) -> Iterator[Item]:
        return (_item(name, place, self.videos) for name, place in self.named_places())

    def named_places(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the absolute path of every item."""
        return ((path_to_name(path), os.path.join(self.root, path)) for path in self._paths())

    def get(self, file: str) -> bytes:
        if file.startswith("/") or ".." in file.split("/") or not is_image(file):
            raise ImageError(f"{self.root} has no image {file}")
        path = os.path.join(self.root, file)
        if not os.path.exists(path):
            path = os.path.join(self.root, _name_to_path(file))
        return read_file(path)

    def count(self) -> int:
        return sum(1 for _ in self._paths())

    def left_out(self) -> list[str]:
        """Lines on what is no image here, since this program wrote it: "out: a labelling run"."""
        own = OwnFiles(self.root)
        for _ in _walk(own, "", frozenset(), self.videos):
            pass
        return own.left_out

    def _paths(self) -> Iterator[str]:
        """Paths below the root, in the form of the system."""
        return _walk(OwnFiles(self.root), "", frozenset(), self.videos)


def _item(name: str, place: str, videos: bool) -> Item:
    """The item of a file or address: a clip where videos are asked for, and its name is that of one."""
    clip = ClipPlace(place) if videos and is_video(name) else None
    return Item(name, partial(read_place, place), place if is_address(place) else None, clip)


def _walk(own: OwnFiles, prefix: str, above: frozenset[tuple[int, int]], videos: bool = False) -> Iterator[str]:
    """Yield the images in the folder `prefix` below a root and below, and with `videos` the videos.

    Left out is what this program wrote. Links to folders `above` (device, inode) are not followed.
    """
    root = own.root
    folder = os.path.join(root, prefix) if prefix else root
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = sorted((entry.name, entry.is_dir()) for entry in scanned if not entry.name.startswith("."))
    except OSError as error:
        if not prefix:
            raise ConfigError(f"cannot read the folder {root}: {error.strerror or error}") from error
        return  # one folder that may not be read, or has just been removed, must not cost the others
    identity = status.st_dev, status.st_ino
    names = None if identity in above else own.images_in(prefix, {name for name, _ in entries})
    if names is None:
        return
    entries = [entry for entry in entries if entry[0] in names]
    files = (name for name, is_folder in entries if not is_folder and (is_image(name) or (videos and is_video(name))))
    yield from (os.path.join(prefix, name) for name in files)
    for name, is_folder in entries:
        if is_folder:
            yield from _walk(own, os.path.join(prefix, name), above | {identity}, videos)


@dataclass(frozen=True)
class ListedFiles:
    """Images by name, each in a file of its own or at an address."""

    spec: str
    places: Mapping[str, str] = field(repr=False)  # name -> absolute path or address, in order
    own_files: tuple[str, ...] = field(default=(), repr=False)  # lines on what was left out
    source_ids: SourceIds | None = field(default=None, repr=False)  # of the COCO file that lists them
    videos: bool = False  # whether video files are clips; else they are images that cannot be read

    @classmethod
    def from_paths(cls, spec: str, paths: Iterable[str], root: str, own_files: Iterable[str] = ()) -> "ListedFiles":
        """Name files by their paths below `root`, an absolute folder, to which relative paths are relative.

        Addresses are named by their host and path, and by a digest as well where these are the same.

        Raises:
            ConfigError: two files would have the same name.
            ImageError: an address has a scheme that is not supported.
        """
        named: dict[str, str] = {}
        places = list(dict.fromkeys(locate_below(path, root) for path in paths))
        shared = Counter(address_to_name(place) for place in places if is_address(place))
        for place in places:
            if is_address(place):
                name = address_to_name(place)
                name = with_digest(name, place) if shared[name] > 1 else name
            else:
                name = name_below(place, root)
            if named.setdefault(name, place) != place:
                raise ConfigError(f"{spec}: two images would be named {name}: {named[name]} and {place}")
        return cls(spec, named, tuple(own_files))

    def items(self) -> Iterator[Item]:
        return (_item(name, place, self.videos) for name, place in self.named_places())

    def named_places(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the absolute path or address of every item."""
        return iter(self.places.items())

    def get(self, file: str) -> bytes:
        if file not in self.places:
            raise ImageError(f"{self.spec} has no image {file}")
        return read_place(self.places[file])

    def count(self) -> int:
        return len(self.places)

    def left_out(self) -> list[str]:
        """As of a folder, for the files that match a pattern."""
        return list(self.own_files)


def locate_below(path: str, root: str) -> str:
    """The absolute path of a listed file, or its http or https address; file:// and ~ are paths."""
    place = locate(path) if is_address(path) or path.startswith("~/") else path
    return place if isinstance(place, str) and is_address(place) else os.path.normpath(os.path.join(root, place))


def name_below(path: str, root: str) -> str:
    """The name of an absolute path: the part below `root`, or all of it without its anchor."""
    inside = path.startswith(os.path.join(root, ""))
    return path_to_name(os.path.relpath(path, root) if inside else path.removeprefix(Path(path).anchor))


def _name_to_path(file: str) -> str:
    """Inverse of `path_to_name` for names that hold escaped bytes."""
    raw = _ESCAPED.sub(lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] >= "80" else match[0], file)
    return os.fsdecode(raw.encode("utf-8", "surrogateescape"))

"""Opens the source that a text of the command line names."""

import glob
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from grounded.errors import ConfigError, ImageError, ResultError
from grounded.labelling.formats.coco_file import read_coco_images
from grounded.labelling.sources.clips import is_video
from grounded.labelling.sources.files import FolderSource, ListedFiles, locate_below
from grounded.labelling.sources.items import Source, is_image
from grounded.labelling.sources.own_files import OwnFiles
from grounded.labelling.sources.tars import TarSource, is_tar
from grounded.labelling.store.source_ids import Id, SourceIds
from segany.utils.addresses import is_address, locate

_ROOT_MARK = "::"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILD = re.compile(r"[*?\[{]")


def open_source(spec: str | PathLike[str], root: str | PathLike[str] | None = None, *, videos: bool = False) -> Source:
    """Open a source, by the table in the docstring of this package.

    Args:
        spec: a folder, an image or its address, a TAR file, a COCO or text file, or a pattern with `*`, `?`, `[...]`,
            `**` and `{a,b}` or `{000..099}`. An existing file of that very name is not read as a pattern.
            `FILE::FOLDER` is a COCO or text file with its root.
        root: folder of the images that a COCO or text file lists, if not the file's own.
        videos: video files are items as well, as clips; else they are left out, where they are not named one by one.

    Raises:
        ConfigError: it does not exist, cannot be read, or holds no image.
    """
    source = _open_images(spec, root, videos)
    if videos and isinstance(source, (FolderSource, ListedFiles, TarSource)):
        source = replace(source, videos=True)
    if next(source.items(), None) is None:
        path = os.path.abspath(os.path.expanduser(os.fspath(spec)))
        hint = f": for its TAR files write {path}/*.tar" if glob.glob(f"{glob.escape(path)}/*.tar") else ""
        raise ConfigError(f"{spec} holds no image{' and no video' if videos else ''}{hint}")
    return source


def _open_images(spec: str | PathLike[str], root: str | PathLike[str] | None, videos: bool) -> Source:
    """As `open_source`; an empty source is no error."""
    text = os.path.expanduser(os.fspath(spec))
    if is_address(text):
        text = _located(text)
        if is_address(text):
            return _open_paths(text, [text], os.getcwd())
    if root is None and _ROOT_MARK in text and not os.path.exists(text):
        text, root = text.split(_ROOT_MARK, 1)
    path = os.path.abspath(text)
    if root is not None and not (os.path.isfile(path) and os.path.isdir(root)):
        missing = path if not os.path.isfile(path) else root
        raise ConfigError(f"no such {'file' if missing == path else 'folder'}: {missing}")
    if os.path.isdir(path):
        return FolderSource(path)
    if os.path.isfile(path):
        return _open_file(path, os.path.abspath(root) if root is not None else None, videos)
    if _WILD.search(text):
        return _open_pattern(path, videos)
    raise ConfigError(f"no such file or folder: {text}")


def expand_braces(pattern: str) -> list[str]:
    """Return every combination of the choices in `{a,b}` and `{08..11}`, in order; a range keeps its leading zeros."""
    parts = _BRACES.split(pattern)  # text, choices, text, choices, ..., text
    options = [_brace_choices(part) if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*options)]


def _brace_choices(inside: str) -> list[str]:
    bounds = _RANGE.fullmatch(inside)
    if not bounds:
        return inside.split(",")
    first, last = bounds.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _located(address: str) -> str:
    """The path of a file:// address; others as they are."""
    try:
        return os.fspath(locate(address))
    except ImageError as error:
        raise ConfigError(str(error)) from error


def _open_file(path: str, root: str | None, videos: bool) -> Source:
    if is_tar(path):
        return TarSource(path, (path,), os.path.dirname(path))
    if is_image(path) or (videos and is_video(path)):
        return ListedFiles.from_paths(path, [path], os.path.dirname(path))
    folder = root or os.path.dirname(path)
    is_coco = path.lower().endswith(".json")
    listed, ids = _read_coco_names(path) if is_coco else (_read_lines(path), None)
    source = _open_paths(f"{path}{_ROOT_MARK}{root}" if root else path, listed, folder)
    if isinstance(source, ListedFiles) and ids is not None:
        names = {place: name for name, place in source.places.items()}
        by_name = {names[locate_below(listed_as, folder)]: id for listed_as, id in ids.images.items()}
        source = replace(source, source_ids=SourceIds(by_name, ids.categories))
    if isinstance(source, ListedFiles) and source.places:
        first = list(itertools.islice(source.places.values(), 100))
        if not any(is_address(place) or os.path.exists(place) for place in first):
            raise ConfigError(f"{path} lists images that do not exist, such as {first[0]}: use --root for their folder")
    return source


def _open_pattern(pattern: str, videos: bool) -> Source:
    parts = Path(pattern).parts
    fixed = itertools.takewhile(lambda part: not _WILD.search(part), parts)
    found = (match for plain in expand_braces(pattern) for match in sorted(glob.glob(plain, recursive=True)))
    paths = [path for path in dict.fromkeys(found) if is_tar(path) or is_image(path) or (videos and is_video(path))]
    if not paths:
        raise ConfigError(f"no image{', no video' if videos else ''} and no TAR file matches {pattern}")
    root = str(Path(*fixed))
    own = OwnFiles(root)
    return _open_paths(pattern, filter(os.path.isfile, own.without(paths)), root, own.left_out)


def _open_paths(spec: str, listed: Iterable[str], root: str, own_files: Iterable[str] = ()) -> Source:
    """Open a source of TAR files, if all are TAR files, or else of images."""
    paths = list(listed)
    if paths and all(map(is_tar, paths)):
        if any(map(is_address, paths)):
            raise ConfigError(f"TAR files must lie on a disk, got the address {next(filter(is_address, paths))}")
        shards = dict.fromkeys(os.path.normpath(os.path.join(root, path)) for path in paths)
        return TarSource(spec, tuple(shards), root)
    try:
        return ListedFiles.from_paths(spec, paths, root, own_files)
    except ImageError as error:
        raise ConfigError(f"{spec}: {error}") from error


def _read_lines(path: str) -> list[str]:
    """The lines of a list; names of files are bytes, whatever their encoding."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if b"\0" in data[:8192]:
        raise ConfigError(f"{path} is neither an image or a TAR by its name, nor a text file of paths")
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    return [os.fsdecode(line.strip()) for line in lines if line.strip()]


def _read_coco_names(path: str) -> tuple[list[str], SourceIds]:
    """The names of the images in a COCO file, and by these their ids, with those of its categories."""
    try:
        images, category_ids = read_coco_images(path)
    except ResultError as error:
        raise ConfigError(str(error)) from error
    names = [image.file_name for image in images if image.file_name is not None]
    if len(names) < len(images):
        raise ConfigError(f"{path} must hold a file_name for each of its {len(images)} images, got {len(names)}")
    ids: dict[str, Id] = {}
    for image, name in zip(images, names, strict=True):
        if image.id is not None:
            ids.setdefault(name, image.id)
    return names, SourceIds(ids, category_ids)

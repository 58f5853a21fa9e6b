"""Finds the image that a file name means, where tools, runs and data sets have images in different folders.

The one place where names of images are compared. Between folders stands "/" or a backslash; of an address the path
counts, without host and query; composed and decomposed Unicode are the same, and so is what "%20" stands for. A name
that fits several images equally well fits none: it is ambiguous, and never guessed.

Two uses with two strictnesses. Imports pass all names that an annotation tool gives an image and accept one that agrees
in the last part alone, since tools move images. Evaluation compares a record with a data set: it passes
`same_folder=True`, so that a/1.jpg is never measured against b/1.jpg.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote

# Label Studio puts this before the name of a file when it is uploaded, and in its COCO exports.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}(?:-|__)(?=.)")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/?#]*([^?#]*)")  # a drive has one letter, and no scheme
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".avif", ".jxl")
T = TypeVar("T")


@dataclass(frozen=True)
class NameMatch(Generic[T]):
    """Something with names, and the image that they mean."""

    item: T
    file: str | None  # None where no image, or more than one, fits
    candidates: tuple[str, ...] = ()  # that it may mean, where several fit, or where several items fit the same one

    @property
    def is_ambiguous(self) -> bool:
        return bool(self.candidates)


class ImageNames:
    """The names of images, to be found by other spellings of them.

    Args:
        files: names; those that fit equally well are returned in this order.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._files = dict.fromkeys(files)
        self._by_spelling: dict[str, list[str]] = {}
        self._by_last_part: dict[str, list[tuple[str, str]]] = {}  # (file, its spelling)
        for file in self._files:
            for spelling in _with_stem(normalise_file_name(file)):
                self._by_spelling.setdefault(spelling, []).append(file)
                self._by_last_part.setdefault(_last_part(spelling), []).append((file, spelling))

    def candidates(self, names: Iterable[str], *, same_folder: bool = False) -> list[str]:
        """Return the images that may be meant: one that is called so, or those that fit equally well, or none.

        A name fits if it is that of an image, in some spelling. Failing that, if one of the two ends with the other, as
        "a/b.jpg" ends with "b.jpg"; the more parts, the better. Failing that, unless `same_folder`, if the last parts
        are the same. A name may also lack the extension, as in formats that have files of the same stem.

        Args:
            names: of one image, the surest first.
            same_folder: images in different folders are different images.
        """
        names = list(names)
        return self._of_that_name(names) or self._alike(names, same_folder)

    def match(
        self, items: Iterable[T], names_of: Callable[[T], Iterable[str]], *, same_folder: bool = False
    ) -> Iterator[NameMatch[T]]:
        """Yield every item with the image that it means, those first whose name is that of an image.

        The others are matched when all are known. They do not take an image that another item names exactly, and of
        several that fit the same image none takes it.
        """
        taken, others = set[str](), list[tuple[T, list[str]]]()
        for item in items:
            names = list(names_of(item))
            found = self._of_that_name(names)
            if len(found) == 1:
                taken.add(found[0])
                yield NameMatch(item, found[0])
            else:
                others.append((item, found or self._alike(names, same_folder)))
        claims: dict[str, int] = {}
        for _, found in others:
            for file in found:
                claims[file] = claims.get(file, 0) + (len(found) == 1)
        for item, found in others:
            if len(found) == 1 and found[0] not in taken and claims[found[0]] == 1:
                yield NameMatch(item, found[0])
            else:
                is_ambiguous = len(found) > 1 or any(claims[file] > 1 for file in found)
                yield NameMatch(item, None, tuple(found) if is_ambiguous else ())

    def _of_that_name(self, names: list[str]) -> list[str]:
        for name in names:
            if name in self._files:
                return [name]
        spellings = (self._by_spelling.get(spelling, []) for name in names for spelling in _spellings(name))
        return list(next(filter(None, spellings), []))

    def _alike(self, names: list[str], same_folder: bool) -> list[str]:
        spellings = [spelling for name in names for spelling in _spellings(name)]
        for spelling in spellings:
            fitting = [
                (min(spelling.count("/"), other.count("/")), file)
                for file, other in self._by_last_part.get(_last_part(spelling), [])
                if f"/{other}".endswith(f"/{spelling}") or f"/{spelling}".endswith(f"/{other}")
            ]
            if fitting:
                most = max(parts for parts, _ in fitting)
                return [file for parts, file in fitting if parts == most]
        if same_folder:
            return []
        found = next(filter(None, (self._by_last_part.get(_last_part(spelling)) for spelling in spellings)), [])
        return [file for file, _ in found]


def normalise_file_name(name: str) -> str:
    """Return the form in which names are compared: parts with "/" between them, in composed Unicode.

    An address becomes its path, "C:\\data\\.\\a.jpg" becomes "C:/data/a.jpg".
    """
    address = _ADDRESS.match(name)
    path = unquote(address[1]) if address else name
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts))


def _with_stem(spelling: str) -> tuple[str, ...]:
    """Return the form of an image's name, and the one without extension, unless that is a name of an image too."""
    stem = spelling.rpartition(".")[0]
    is_stem = _last_part(stem) and not stem.lower().endswith(_EXTENSIONS)
    return (spelling, stem) if is_stem else (spelling,)


def _spellings(name: str) -> list[str]:
    """Return the forms of a name, the surest first: "a%20b.jpg" may be meant as it stands, or be encoded."""
    spelling = normalise_file_name(name)
    decoded = normalise_file_name(unquote(spelling)) if "%" in spelling else spelling
    return [form for form in dict.fromkeys((spelling, decoded)) if form]


def without_upload_prefix(name: str) -> str:
    """Return the last part of a name without Label Studio's prefix: "1/0a1b2c3d-cat.jpg" as "cat.jpg"."""
    return _UPLOAD_PREFIX.sub("", _last_part(name.replace("\\", "/")), count=1)


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]

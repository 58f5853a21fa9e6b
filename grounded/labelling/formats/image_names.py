"""Which picture a name means: annotation tools move pictures to other folders."""

import re
from collections.abc import Iterable

# What Label Studio puts in front of the name of a file: when it is uploaded, and in its COCO exports.
_PUT_IN_FRONT = re.compile(r"[0-9a-f]{8}(?:-|__)(?=.)")


class PictureNames:
    """The names of pictures, with "/" between folders, and how others may call them."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files = set(files)
        self._by_last_part: dict[str, list[str]] = {}
        for file in sorted(self._files):
            self._by_last_part.setdefault(_last_part(file), []).append(file)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, file: str) -> bool:
        return file in self._files

    def candidates(self, names: Iterable[str]) -> list[str]:
        """Return the pictures that may be meant: one that is called so, or those that fit equally well, or none.

        A name fits if it is that of a picture. Failing that, one of both ends with the other, as "b.jpg" and "a/b.jpg".
        Failing that, the last parts are the same.

        Args:
            names: of one picture, the surest first.
        """
        names = list(names)
        for name in names:
            if name in self._files:
                return [name]
        for fits in (_ends_alike, _ends_in_the_same_file):
            for name in names:
                found = [file for file in self._by_last_part.get(_last_part(name), []) if fits(file, name)]
                if found:
                    return found
        return []


def without_front(name: str) -> str:
    """Return the last part of a name, without what Label Studio puts in front: "1/0a1b2c3d-cat.jpg" as "cat.jpg"."""
    return _PUT_IN_FRONT.sub("", _last_part(name), count=1)


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _ends_alike(file: str, name: str) -> bool:
    return file.endswith(f"/{name}") or name.endswith(f"/{file}")


def _ends_in_the_same_file(file: str, name: str) -> bool:
    return True  # they share the last part

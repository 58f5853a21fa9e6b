"""Finds the image that a file name means, where tools, runs and data sets have images in different folders.

Two uses with two strictnesses. Imports pass all names that an annotation tool gives an image and accept one that agrees
in the last part alone, since tools move images; they refuse names that fit several images. Evaluation compares a record
with a data set: it passes `same_folder=True`, so that a/1.jpg is never measured against b/1.jpg, and takes the first of
those that fit.
"""

import re
from collections.abc import Iterable

# Label Studio puts this before the name of a file when it is uploaded, and in its COCO exports.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}(?:-|__)(?=.)")


class ImageNames:
    """The names of images, with "/" between folders, to be found by other spellings of them.

    Args:
        files: names; those that fit equally well are returned in this order.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._files = dict.fromkeys(files)
        self._by_last_part: dict[str, list[str]] = {}
        for file in self._files:
            self._by_last_part.setdefault(_last_part(file), []).append(file)

    def candidates(self, names: Iterable[str], *, same_folder: bool = False) -> list[str]:
        """Return the images that may be meant: one that is called so, or those that fit equally well, or none.

        A name fits if it is that of an image. Failing that, if one of the two ends with the other, as "a/b.jpg" ends
        with "b.jpg". Failing that, unless `same_folder`, if the last parts are the same.

        Args:
            names: of one image, the surest first.
            same_folder: images in different folders are different images.
        """
        names = list(names)
        for name in names:
            if name in self._files:
                return [name]
        found: list[str] = []
        for name in names:
            alike = self._by_last_part.get(_last_part(name), [])
            found = [file for file in alike if file.endswith(f"/{name}") or name.endswith(f"/{file}")]
            if found:
                return found
        if not same_folder:
            found = next(filter(None, (self._by_last_part.get(_last_part(name)) for name in names)), [])
        return list(found)


def without_upload_prefix(name: str) -> str:
    """Return the last part of a name without Label Studio's prefix: "1/0a1b2c3d-cat.jpg" as "cat.jpg"."""
    return _UPLOAD_PREFIX.sub("", _last_part(name), count=1)


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]

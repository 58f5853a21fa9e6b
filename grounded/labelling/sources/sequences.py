"""Folders of images as clips: the images of a folder are the frames of one clip, and an animated image is one too."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from grounded.errors import ConfigError
from grounded.labelling.sources.clips import ClipPlace, is_animated, is_video
from grounded.labelling.sources.files import FolderSource, ListedFiles
from grounded.labelling.sources.items import Item, Source, read_place
from grounded.video.frames import natural_order
from segany.utils.addresses import is_address


@dataclass(frozen=True)
class SequenceSource:
    """The images of another source, with each folder as one clip, in the order of the numbers in their names.

    A clip has the name of its folder in the source, and its frames those of the images. Videos and animated images are
    clips of their own; images at addresses stay images.
    """

    source: FolderSource | ListedFiles

    @classmethod
    def of(cls, source: Source) -> "SequenceSource":
        """Raises ConfigError where the images lie in TAR files, which are read one by one."""
        if not isinstance(source, (FolderSource, ListedFiles)):
            raise ConfigError(f"{source.spec}: images in TAR files are no clips, only videos in them: unpack the files")
        return cls(source)

    @property
    def spec(self) -> str:
        return self.source.spec

    def items(self) -> Iterator[Item]:
        named = self.source.named_places()
        if isinstance(self.source, ListedFiles):  # a folder gives its files together already
            named = iter(sorted(named, key=lambda entry: posixpath.dirname(entry[0])))
        known: set[str] = set()
        for folder, entries in groupby(named, key=lambda entry: posixpath.dirname(entry[0])):
            frames: list[tuple[str, str]] = []
            for name, place in entries:
                if is_address(place):
                    yield Item(name, partial(read_place, place), place)
                elif is_video(name) or is_animated(place):
                    yield Item(name, partial(read_place, place), clip=ClipPlace(place))
                else:
                    frames.append((name, place))
            if not frames:
                continue
            above = Path(frames[0][1]).parent
            clip = folder or above.name or "frames"
            if clip in known:
                raise ConfigError(f"{self.spec}: two clips would be named {clip}: use the folder above as source")
            known.add(clip)
            frames.sort(key=lambda entry: natural_order(Path(entry[1])))
            yield Item(clip, partial(read_place, frames[0][1]), clip=ClipPlace(str(above), tuple(frames)))

    def get(self, file: str) -> bytes:
        return self.source.get(file)

    def count(self) -> int:
        return sum(1 for _ in self.items())

    def left_out(self) -> list[str]:
        """As of the source itself."""
        return self.source.left_out()

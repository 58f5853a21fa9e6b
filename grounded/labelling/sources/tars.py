"""Source of images in TAR files, as WebDataset shards them: read in one pass, or by name."""

import posixpath
import tarfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from grounded.errors import ImageError
from grounded.labelling.sources.clips import ClipPlace, is_video
from grounded.labelling.sources.files import name_below
from grounded.labelling.sources.items import Item, is_image, path_to_name

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Up to this many bytes of TARs, counting the images by their headers takes seconds.
_COUNTED_BYTES = 10_000_000_000
_INDEXED_SHARDS = 16
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # gzip, bzip2, xz


def is_tar(name: str) -> bool:
    """Whether a file name has the suffix of a TAR file."""
    return name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class TarSource:
    """The members of TAR files that are images, in their order.

    Of an uncompressed TAR only the headers are read until an item is, so that images which are done cost nothing; the
    images of a compressed one are read in passing. A damaged TAR gives the images before the damage, and then
    an item of the TAR's own name that raises when it is read.
    """

    spec: str
    shards: tuple[str, ...]  # absolute paths
    root: str  # absolute folder; names begin with the path of their TAR below it
    videos: bool = False  # whether members that are videos are among the items, as clips
    _indexes: "OrderedDict[str, dict[str, tuple[int, int]]]" = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    def items(self) -> Iterator[Item]:
        for shard in self.shards:
            prefix = name_below(shard, self.root)
            try:
                for name, span, data in _members(shard, self.videos):
                    again = partial(_read_span, shard, span)  # a clip is read when its turn comes, and not held
                    clip = ClipPlace(name, read=again) if self.videos and is_video(name) else None
                    read = again if data is None or clip else partial(bytes, data)
                    yield Item(f"{prefix}/{name}", read, clip=clip)
            except (tarfile.TarError, OSError, EOFError) as error:
                yield Item(prefix, partial(_raise, f"the TAR file is missing or damaged: {error}"))

    def get(self, file: str) -> bytes:
        for shard in self.shards:
            prefix = f"{name_below(shard, self.root)}/"
            if file.startswith(prefix) and (span := self._index(shard).get(file.removeprefix(prefix))):
                return _read_span(shard, span)
        raise ImageError(f"{self.spec} has no image {file}")

    def count(self) -> int | None:
        sizes = [Path(shard).stat().st_size for shard in self.shards if Path(shard).exists()]
        if sum(sizes) > _COUNTED_BYTES or not all(shard.endswith(".tar") for shard in self.shards):
            return None
        return sum(1 for _ in self.items())

    def _index(self, shard: str) -> dict[str, tuple[int, int]]:
        """(offset, size) of each image of a shard by name, cached for the last shards that were used."""
        with _INDEXING:
            if shard not in self._indexes:
                index: dict[str, tuple[int, int]] = {}
                with suppress(tarfile.TarError, OSError, EOFError):  # the images before the damage can be read
                    index.update((name, span) for name, span, _ in _members(shard))
                self._indexes[shard] = index
                while len(self._indexes) > _INDEXED_SHARDS:
                    self._indexes.popitem(last=False)
            self._indexes.move_to_end(shard)
            return self._indexes[shard]


_INDEXING = threading.Lock()


def _members(shard: str, videos: bool = False) -> Iterator[tuple[str, tuple[int, int], bytes | None]]:
    """Yield name, (offset, size) and, of a compressed TAR, the bytes of each image; with `videos` those as well."""
    streamed = _is_compressed(shard)
    seen: Counter[str] = Counter()
    with tarfile.open(shard, "r|*") if streamed else tarfile.open(shard, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them
            name = path_to_name(posixpath.normpath(f"/{member.name}")).lstrip("/")
            is_wanted = is_image(name) or (videos and is_video(name))
            if not member.isreg() or not is_wanted:
                continue
            seen[name] += 1
            stem, suffix = posixpath.splitext(name)
            unique = name if seen[name] == 1 else f"{stem}#{seen[name]}{suffix}"
            content = tar.extractfile(member) if streamed and is_image(name) else None
            yield unique, (member.offset_data, member.size), content.read() if content else None


def _is_compressed(shard: str) -> bool:
    with open(shard, "rb") as file:
        return file.read(6).startswith(_COMPRESSED)


def _read_span(shard: str, span: tuple[int, int]) -> bytes:
    offset, size = span
    try:
        if _is_compressed(shard):
            with tarfile.open(shard, "r:*") as tar:
                assert tar.fileobj is not None
                tar.fileobj.seek(offset)  # decompresses all that lies before
                data = tar.fileobj.read(size)
        else:
            with open(shard, "rb") as file:
                file.seek(offset)
                data = file.read(size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ImageError(f"cannot be read: {error}") from error
    if len(data) != size:
        raise ImageError(f"the TAR file ends after {len(data)} of {size} bytes")
    return data


def _raise(reason: str) -> bytes:
    raise ImageError(reason)

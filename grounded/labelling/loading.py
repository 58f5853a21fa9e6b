"""Pictures on their way to the models: read and decoded ahead of them, and put together by size."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from grounded.data.image import MAX_PIXELS, SourceImage, open_image
from grounded.errors import GroundedError
from grounded.labelling.records import ImageInfo
from grounded.labelling.sources import Item
from grounded.labelling.store import Failure

# Decoded pictures that wait, in pixels of 3 bytes: beyond it fewer are decoded ahead.
WAITING_PIXELS = 100_000_000


@dataclass(frozen=True, eq=False)
class Loaded:
    """A decoded picture, and what a record states of its file."""

    file: str
    picture: SourceImage
    sha256: str

    @property
    def info(self) -> ImageInfo:
        """What the record of the picture begins with."""
        height, width = self.picture.size
        orientation, notes = self.picture.orientation, self.picture.notes
        return ImageInfo(
            file=self.file, width=width, height=height, orientation=orientation, sha256=self.sha256, notes=notes
        )

    @property
    def area(self) -> int:
        return self.picture.pixels.width * self.picture.pixels.height


def load(item: Item, max_pixels: int | None = MAX_PIXELS) -> Loaded | Failure:
    """Read and decode one picture; whatever is wrong with it becomes a `Failure`.

    Args:
        item: the picture.
        max_pixels: largest picture to decode, by the size that its header states; None for no limit.
    """
    try:
        data = item.read()
    except Exception as error:  # sources of every kind: disks, archives, networks
        return Failure(file=item.file, reason=describe(error), kind="read")
    try:
        picture = decode(data, item.file, max_pixels)
    except Exception as error:  # also MemoryError: a picture too large for the machine
        return Failure(file=item.file, reason=describe(error), kind="image")
    return Loaded(item.file, picture, hashlib.sha256(data).hexdigest())


def decode(data: bytes, file: str, max_pixels: int | None = MAX_PIXELS) -> SourceImage:
    """Return the picture that the bytes of an image file hold, upright and in RGB.

    Raises:
        ImageError: it is damaged, too large, or in no known format.
    """
    opened = open_image(data, max_pixels)
    return SourceImage(opened.pixels, Path(file), opened.orientation, opened.notes)


def read_ahead(
    items: Iterable[Item], *, threads: int = 2, ahead: int = 8, max_pixels: int | None = MAX_PIXELS
) -> Iterator[Loaded | Failure]:
    """Load items in threads while the caller is busy with earlier ones, and yield them in their order.

    Args:
        items: asked for one at a time, and only as far as pictures are loaded ahead.
        threads: that load.
        ahead: most pictures that are loaded, or being loaded, and not yet taken. Fewer where they are large: those
            beyond the first count towards `WAITING_PIXELS`, the ones being loaded with the size of the last one.
        max_pixels: as in `load`.
    """
    waiting: deque[Future[Loaded | Failure]] = deque()
    remaining = iter(items)
    last_area = 0
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="read") as pool:
        try:
            while True:
                while len(waiting) < max(1, ahead) and _area(waiting, last_area) < WAITING_PIXELS:
                    item = next(remaining, None)
                    if item is None:
                        break
                    waiting.append(pool.submit(load, item, max_pixels))
                if not waiting:
                    return
                loaded = waiting.popleft().result()
                last_area = loaded.area if isinstance(loaded, Loaded) else last_area
                yield loaded
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _area(waiting: Iterable["Future[Loaded | Failure]"], guess: int) -> int:
    """Pixels of what waits; `guess` for each picture that is still being loaded."""
    loaded = (future.result() if future.done() else None for future in waiting)
    return sum(guess if one is None else one.area for one in loaded if not isinstance(one, Failure))


def by_size(
    loaded: Iterable[Loaded | Failure], batch: int = 1, window: int | None = None
) -> Iterator[list[Loaded] | Failure]:
    """Put pictures of equal size together, up to `batch` at a time; failures pass through.

    Args:
        loaded: pictures in any order of sizes.
        batch: most pictures in a group.
        window: most pictures that are held back while others of their size are waited for, 4 x `batch` by default,
            and `WAITING_PIXELS` in all. Beyond it the oldest go on, in a smaller group.
    """
    window = 4 * batch if window is None else window
    groups: dict[tuple[int, int], list[Loaded]] = {}  # in the order in which their oldest picture came
    for one in loaded:
        if isinstance(one, Failure):
            yield one
            continue
        group = groups.setdefault(one.picture.size, [])
        group.append(one)
        if len(group) >= batch:
            yield groups.pop(one.picture.size)
        held = [held for group in groups.values() for held in group]
        if len(held) > window or sum(one.area for one in held) > WAITING_PIXELS:
            yield groups.pop(next(iter(groups)))
    yield from groups.values()


def describe(error: BaseException) -> str:
    """An error as one line; an unexpected one with its type."""
    reason = " ".join(str(error).split())
    if isinstance(error, GroundedError):
        return reason
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__

"""Reads and decodes images ahead of the models, and groups them by size into batches."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from grounded.data.image import MAX_PIXELS, SourceImage, open_image
from grounded.errors import describe_error
from grounded.labelling.records import ImageInfo
from grounded.labelling.sources import Item
from grounded.labelling.store import Failure
from segany.utils.addresses import shown_address

# Most pixels, of 3 bytes each, in decoded images that wait for the models: beyond it fewer images are loaded ahead.
WAITING_PIXELS = 100_000_000


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A decoded image of a source."""

    file: str  # its name in the source
    image: SourceImage
    sha256: str  # of the file's bytes

    @property
    def info(self) -> ImageInfo:
        """The image as its record describes it."""
        height, width = self.image.size
        return ImageInfo(
            file=self.file,
            width=width,
            height=height,
            orientation=self.image.orientation,
            sha256=self.sha256,
            notes=self.image.notes,
            address=self.image.address and shown_address(self.image.address),
        )

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.image.pixels.width * self.image.pixels.height


def load_image(item: Item, max_pixels: int | None = MAX_PIXELS) -> LoadedImage | Failure:
    """Read and decode one image. Nothing is raised: any error becomes a `Failure`.

    Args:
        item: of a source.
        max_pixels: largest image to decode, by the size in its header; None for no limit.
    """
    try:
        data = item.read()
    except Exception as error:  # sources of every kind: disks, archives, networks
        return Failure(file=item.file, reason=describe_error(error), kind="read")
    try:
        image = replace(decode_image(data, item.file, max_pixels), address=item.address)
    except Exception as error:  # also MemoryError: an image too large for the machine
        return Failure(file=item.file, reason=describe_error(error), kind="image")
    return LoadedImage(item.file, image, hashlib.sha256(data).hexdigest())


def decode_image(data: bytes, file: str, max_pixels: int | None = MAX_PIXELS) -> SourceImage:
    """Decode the bytes of an image file into an upright RGB image whose path is its name in the source.

    Raises:
        ImageError: it is damaged, too large, or in no known format.
    """
    opened = open_image(data, max_pixels)
    return SourceImage(opened.pixels, Path(file), opened.orientation, opened.notes)


def load_ahead(
    items: Iterable[Item], *, threads: int = 2, ahead: int = 8, max_pixels: int | None = MAX_PIXELS
) -> Iterator[LoadedImage | Failure]:
    """Load items in threads while the caller is busy with earlier ones, and yield them in their order.

    Args:
        items: taken one at a time, and only as far as images are loaded ahead.
        threads: number of threads that read and decode.
        ahead: most images that are loaded, or being loaded, and not yet yielded. Fewer where they are large: those
            beyond the first count towards `WAITING_PIXELS`, the ones being loaded with the size of the last one.
        max_pixels: as in `load_image`.
    """
    waiting: deque[Future[LoadedImage | Failure]] = deque()
    remaining = iter(items)
    last_area = 0
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="read") as pool:
        try:
            while True:
                while len(waiting) < max(1, ahead) and _waiting_pixels(waiting, last_area) < WAITING_PIXELS:
                    item = next(remaining, None)
                    if item is None:
                        break
                    waiting.append(pool.submit(load_image, item, max_pixels))
                if not waiting:
                    return
                loaded = waiting.popleft().result()
                last_area = loaded.area if isinstance(loaded, LoadedImage) else last_area
                yield loaded
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _waiting_pixels(waiting: Iterable["Future[LoadedImage | Failure]"], guess: int) -> int:
    """Pixels of the waiting images, `guess` for each that is still being loaded."""
    loaded = (future.result() if future.done() else None for future in waiting)
    return sum(guess if one is None else one.area for one in loaded if not isinstance(one, Failure))


def group_by_size(
    loaded: Iterable[LoadedImage | Failure], batch: int = 1, window: int | None = None
) -> Iterator[list[LoadedImage] | Failure]:
    """Group images of equal size, up to `batch` at a time; failures pass through.

    Args:
        loaded: images in any order of sizes.
        batch: most images in a group.
        window: most images that wait for others of their size, 4 x `batch` by default, and `WAITING_PIXELS` in all.
            Beyond it the oldest are yielded, in a smaller group.
    """
    window = 4 * batch if window is None else window
    groups: dict[tuple[int, int], list[LoadedImage]] = {}  # in the order in which their oldest image came
    for one in loaded:
        if isinstance(one, Failure):
            yield one
            continue
        group = groups.setdefault(one.image.size, [])
        group.append(one)
        if len(group) >= batch:
            yield groups.pop(one.image.size)
        held = [held for group in groups.values() for held in group]
        if len(held) > window or sum(one.area for one in held) > WAITING_PIXELS:
            yield groups.pop(next(iter(groups)))
    yield from groups.values()

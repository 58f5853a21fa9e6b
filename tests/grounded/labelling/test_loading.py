import hashlib
import io
import re
import threading
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from grounded.errors import ImageError
from grounded.labelling import loading
from grounded.labelling.loading import LoadedImage, decode_image, group_by_size, load_ahead, load_image
from grounded.labelling.sources import Item
from grounded.labelling.store import Failure


def encoded(width: int = 4, height: int = 3, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, file_format, **options)
    return buffer.getvalue()


def item(name: str, data: bytes | Exception) -> Item:
    def read() -> bytes:
        if isinstance(data, Exception):
            raise data
        return data

    return Item(name, read)


def test_a_loaded_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(8, 5, "JPEG", exif=exif)
    loaded = load_image(item("folder/a.jpg", data))
    assert isinstance(loaded, LoadedImage)
    assert loaded.image.size == (8, 5) and loaded.area == 40
    info = loaded.info
    assert (info.file, info.width, info.height, info.orientation) == ("folder/a.jpg", 5, 8, 6)
    assert info.sha256 == hashlib.sha256(data).hexdigest()


def test_notes_are_kept():
    frames = [Image.new("L", (4, 3), shade) for shade in (0, 255)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    loaded = load_image(item("a.gif", buffer.getvalue()))
    assert isinstance(loaded, LoadedImage) and loaded.info.notes == ("animated: the first of 2 frames is used",)


FAILURES = {
    "no file": (ImageError("no such image"), "read", "^no such image$"),
    "disk": (OSError(5, "Input/output error"), "read", "OSError.*Input/output error"),
    "empty": (b"", "image", "not an image"),
    "text": (b"hello", "image", "not an image"),
    "cut off": (encoded(400, 300)[:500], "image", "cannot read|truncated"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image", "is a drawing"),
    "too large": (encoded(40, 30), "image", "too large: 40 x 30 pixels"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_an_unreadable_image_is_a_failure(case: str):
    data, kind, reason = FAILURES[case]
    failure = load_image(item("a.png", data), max_pixels=None if case == "cut off" else 1000)
    assert isinstance(failure, Failure)
    assert (failure.file, failure.kind, failure.attempts) == ("a.png", kind, 1)
    assert re.search(reason, failure.reason) and "\n" not in failure.reason


def test_the_limit_is_looked_up_in_the_header():
    claimed = bytearray(encoded())
    claimed[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height of a PNG: 10 GB, were it decoded
    claimed[29:33] = zlib.crc32(claimed[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="60000 x 60000 pixels"):
        decode_image(bytes(claimed), "a.png", 200_000_000)


def test_loading_ahead_keeps_the_order():
    def slow(number: int) -> Item:
        return Item(str(number), lambda: time.sleep(0.01 * (number % 3)) or encoded(number + 1))

    found = list(load_ahead((slow(number) for number in range(20)), threads=4, ahead=6))
    assert [one.file for one in found] == [str(number) for number in range(20)]
    assert [one.image.size[1] for one in found if isinstance(one, LoadedImage)] == list(range(1, 21))
    assert list(load_ahead([])) == []


def counting(taken: list[str], size: int = 4, count: int = 1000) -> Iterator[Item]:
    for number in range(count):
        taken.append(str(number))
        yield item(str(number), encoded(size, size))


@pytest.mark.parametrize("ahead", [1, 5])
def test_no_item_is_taken_before_it_is_loaded(ahead: int):
    taken: list[str] = []
    loaded = load_ahead(counting(taken), ahead=ahead)
    for number in range(10):
        next(loaded)
        assert len(taken) == number + ahead
    loaded.close()
    assert len(taken) == 9 + ahead


def test_fewer_large_images_are_loaded_ahead(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "WAITING_PIXELS", 30_000)
    taken: list[str] = []
    loaded = load_ahead(counting(taken, size=100), ahead=50)
    next(loaded)
    for number in range(1, 10):
        next(loaded)
        assert len(taken) <= max(50, number + 4)
    assert len(taken) <= 50
    loaded.close()


def test_threads_end_with_the_iterator():
    before = threading.active_count()
    loaded = load_ahead(counting([]), threads=3)
    next(loaded)
    assert threading.active_count() > before
    loaded.close()
    assert threading.active_count() == before


def images(*sizes: int | None) -> list[LoadedImage | Failure]:
    """An image of each width, and a failure for None."""
    made = [Failure(file="x", reason="y") if size is None else load_image(item("", encoded(size))) for size in sizes]
    return [one for one in made if isinstance(one, (LoadedImage, Failure))]


def widths(groups: Iterator[list[LoadedImage] | Failure]) -> list[list[int] | None]:
    return [None if isinstance(group, Failure) else [one.image.size[1] for one in group] for group in groups]


@pytest.mark.parametrize(
    ("sizes", "batch", "window", "expected"),
    [
        ([], 2, None, []),
        ([1, 1, 2, 1], 1, None, [[1], [1], [2], [1]]),
        ([1, 2, 1, 2, 1], 2, None, [[1, 1], [2, 2], [1]]),
        ([1, 2, 3, 4], 2, 2, [[1], [2], [3], [4]]),
        ([1, None, 1], 2, None, [None, [1, 1]]),
        ([1, 2, 2, 2], 4, 2, [[1], [2, 2, 2]]),
        ([1, 2, 1], 2, 0, [[1], [2], [1]]),
    ],
)
def test_images_of_equal_size_are_grouped(
    sizes: list[int | None], batch: int, window: int | None, expected: list[list[int] | None]
):
    assert widths(group_by_size(images(*sizes), batch, window)) == expected


def test_large_images_do_not_wait_for_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "WAITING_PIXELS", 20)
    assert widths(group_by_size(images(4, 5, 4), 8)) == [[4], [5], [4]]


def test_decoded_pixels_are_those_of_the_file():
    assert np.asarray(decode_image(encoded(), "a.png").pixels).tolist() == [[[255, 0, 0]] * 4] * 3

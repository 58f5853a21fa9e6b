import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segany.errors import ImageError
from segany.utils.address_file import AddressFile
from tests.http_server import ImageServer, image_server

DATA = np.random.default_rng(0).bytes(2_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageServer]:
    path: Path = tmp_path_factory.mktemp("served") / "a.bin"
    path.write_bytes(DATA)
    with image_server(path) as running:
        yield running


@pytest.mark.parametrize("how", ["parts", "image"])
def test_reads_from_any_place(how: str, server: ImageServer):
    with AddressFile(f"{server.url}/{how}/a.bin") as file:
        assert file.seekable() and file.read(10) == DATA[:10] and file.tell() == 10
        for place, size in [(1_500_000, 100), (20, 5), (25, 5), (100_000, 7), (1_999_990, 100), (2_000_000, 5)]:
            assert file.seek(place) == place
            assert file.read(size) == DATA[place : place + size]
        assert file.seek(-4, io.SEEK_END) == 1_999_996 and file.read() == DATA[-4:]
        assert file.seek(0) == 0 and file.seek(3, io.SEEK_CUR) == 3 and file.read(2) == DATA[3:5]


def test_far_places_are_asked_for_and_near_ones_read_on_to(server: ImageServer):
    with AddressFile(f"{server.url}/parts/a.bin") as file:
        before = len(server.requests)
        for place in (1000, 50_000, 1_500_000, 1_600_000):
            file.seek(place)
            file.read(10)
        ranges = [headers["Range"] for _, headers in server.requests[before:]]
    assert ranges == ["bytes=1500000-"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("status/403", "answers 403, it may not be read"),
        ("html/a", "answers with an HTML page"),
        ("redirect/9", "more than 5 times"),
        ("cut/a", "the connection broke off after 1000 of 2000000 bytes"),
        ("nothing/a", "the server broke the connection off"),
    ],
)
def test_failures_are_one_sentence(path: str, message: str, server: ImageServer):
    with pytest.raises(ImageError, match=message) as caught, AddressFile(f"{server.url}/{path}") as file:
        while file.read(1 << 20):
            pass
    assert "\n" not in str(caught.value)


def test_private_hosts_are_refused(server: ImageServer):
    with pytest.raises(ImageError, match="not in the public network"):
        AddressFile(f"{server.url}/parts/a.bin", public_only=True)


def test_other_schemes_are_refused():
    with pytest.raises(ImageError, match="only http:// and https://"):
        AddressFile("file:///etc/hostname")


def test_without_a_length_it_is_read_once(server: ImageServer):
    with AddressFile(f"{server.url}/large/a") as file:
        assert not file.seekable() and file.read(10) == bytes(10)
        with pytest.raises(OSError):
            file.seek(0)

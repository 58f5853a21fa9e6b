import base64
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segany.errors import ImageError
from segany.utils import addresses
from segany.utils.addresses import address_name, is_address, is_public, locate, read_address, shown_address
from segany.utils.images import read_image
from tests.data import PICNIC
from tests.http_server import ImageServer, image_server


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host/a.png", True),
        ("HTTPS://host/a.png", True),
        ("file:///a.png", True),
        ("s3://bucket/a.png", True),
        ("data:image/png;base64,AA", True),
        ("a.png", False),
        ("C:\\a.png", False),
        ("C:/a.png", False),
        ("data/a.png", False),
        ("a: b//c.png", False),
        ("https:/host/a.png", False),
    ],
)
def test_is_address(text: str, expected: bool):
    assert is_address(text) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a.png", Path("a.png")),
        ("~/a.png", Path("/home/me/a.png")),
        (Path("~/a.png"), Path("/home/me/a.png")),
        ("~nobody-of-that-name/a.png", Path("~nobody-of-that-name/a.png")),
        ("file:///x/a%20b%23.png", Path("/x/a b#.png")),
        ("FILE://localhost/x/a.png", Path("/x/a.png")),
        (Path("file:///x/a.png"), Path("/x/a.png")),
        ("https://host/a.png", "https://host/a.png"),
        (Path("https://host/a.png"), "https://host/a.png"),
        ("data:image/png;base64,AA", "data:image/png;base64,AA"),
    ],
    ids=str,
)
def test_locate(source: str | Path, expected: str | Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert locate(source) == expected


def test_a_file_called_like_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "~x.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert locate("~x.png") == Path("~x.png")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket/a.png", "must begin with http://, https://, file:// or data:, got s3://bucket/a.png"),
        ("ftp://me:secret@host/a.png", "got ftp://host/a.png$"),
        ("file://host/a.png", "must name a file of this machine"),
        ("http://host:port/a.png", "not an address"),
        ("http:///a.png", "the address names no host"),
        ("data:nonsense", "it is no data: address"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, message: str):
    with pytest.raises(ImageError, match=message):
        read_image(address)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://host/x/a%20b.jpg?size=2#top", "a b.jpg"),
        ("http://host/%E7%8C%AB.jpg", "猫.jpg"),
        ("http://host/..%2F..%2Fetc", ".._.._etc"),
        ("http://host/a%00%0A.png", "a__.png"),
        ("http://host/", "image"),
        ("http://host", "image"),
        ("http://host/..", "image"),
        ("data:image/png;base64,AA", "image"),
    ],
)
def test_address_name(address: str, name: str):
    assert address_name(address) == name


def test_passwords_are_not_shown():
    assert shown_address("http://me:secret@host:8000/a.png?x=1") == "http://host:8000/a.png?x=1"
    assert shown_address("data:image/png;base64,AAAA") == "data:image/png;base64,…"


class TestReading:
    def test_an_image(self, server: ImageServer):
        assert read_image(f"{server.url}/image/a b/ü.png?x=ä").pixels.size == (640, 480)
        path, headers = server.requests[-1]
        assert path == "/image/a%20b/%C3%BC.png?x=%C3%A4"
        assert headers["User-Agent"].startswith("grounded-segany/") and "Authorization" not in headers

    def test_a_file_and_data(self, tmp_path: Path):
        data = PICNIC.read_bytes()
        (tmp_path / "a b.png").write_bytes(data)
        assert read_image((tmp_path / "a b.png").as_uri()).pixels.size == (640, 480)
        assert read_image(f"data:image/png;base64,{base64.b64encode(data).decode()}").pixels.size == (640, 480)

    def test_a_login(self, server: ImageServer):
        read_address(server.url.replace("//", "//me:sec%20ret@") + "/image/a.png")
        sent = server.requests[-1][1]["Authorization"].removeprefix("Basic ")
        assert base64.b64decode(sent) == b"me:sec ret"

    def test_redirects_are_followed(self, server: ImageServer):
        assert read_address(f"{server.url}/redirect/5") == PICNIC.read_bytes()

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("status/401", "the server answers 401, it asks for a login"),
            ("status/403", "the server answers 403, it may not be read"),
            ("status/404", "the server answers 404, there is nothing at this address"),
            ("status/418", "the server answers 418, i'm a teapot"),
            ("status/429", "the server answers 429, too many requests were made: try again later"),
            ("status/500", "the server answers 500, the server has a fault: try again later"),
            ("status/503", "the server answers 503, the server has a fault: try again later"),
            ("redirect/7", "it leads on to other addresses more than 5 times, or to none that can be fetched"),
            ("redirect/out", "it leads on to other addresses more than 5 times, or to none that can be fetched"),
            ("cut", r"the connection broke off after 1000 of \d+ bytes"),
            ("nothing", "the server broke the connection off, or does not speak HTTP"),
        ],
    )
    def test_failures(self, path: str, message: str, server: ImageServer):
        with pytest.raises(ImageError, match=f"^cannot get {server.url}/{path}: {message}$"):
            read_address(f"{server.url}/{path}")

    def test_a_page(self, server: ImageServer):
        with pytest.raises(ImageError, match=r"/html answers with an HTML page, not an image$"):
            read_address(f"{server.url}/html")

    @pytest.mark.parametrize("path", ["large", "image/a.png"], ids=["without an end", "announced"])
    def test_too_large(self, path: str, server: ImageServer):
        with pytest.raises(ImageError, match="is too large a file to fetch"):
            read_address(f"{server.url}/{path}", max_bytes=1000)
        with pytest.raises(ImageError, match=r"is too large$"):
            read_address("data:," + "a" * 1001, max_bytes=1000)

    @pytest.mark.parametrize("part", ["body", "headers"])
    def test_a_server_that_takes_for_ever(self, part: str, server: ImageServer):
        start = time.monotonic()
        with pytest.raises(ImageError, match=r"it is not complete after 0.2 s$"):
            read_address(f"{server.url}/slow/{part}", seconds=0.2)
        assert time.monotonic() - start < 2

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            with pytest.raises(ImageError, match="the host refuses the connection"):
                read_address(f"http://127.0.0.1:{taken.getsockname()[1]}/a.png")

        def fail(*arguments: object, **options: object) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(ImageError, match=r"cannot get https://nowhere.test/a.png: there is no host of that name"):
            read_address("https://nowhere.test/a.png")

    def test_by_a_proxy(self, server: ImageServer, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("http_proxy", server.url)
        with pytest.raises(ImageError, match=r"answers 404|broke the connection"):
            read_address("http://elsewhere.test/status/404")
        assert server.requests[-1][0].startswith("http://elsewhere.test")


class TestPublicOnly:
    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            ("93.184.216.34", True),
            ("2606:2800:220:1:248:1893:25c8:1946", True),
            ("127.0.0.1", False),
            ("0.0.0.0", False),
            ("10.1.2.3", False),
            ("172.16.0.1", False),
            ("192.168.1.1", False),
            ("169.254.169.254", False),
            ("100.64.0.1", False),
            ("224.0.0.1", False),
            ("255.255.255.255", False),
            ("::1", False),
            ("::", False),
            ("fe80::1%eth0", False),
            ("fd00::1", False),
            ("ff02::1", False),
            ("::ffff:127.0.0.1", False),
            ("::ffff:93.184.216.34", True),
            ("64:ff9b::7f00:1", False),
            ("2002:7f00:1::", False),
        ],
    )
    def test_is_public(self, number: str, expected: bool):
        assert is_public(number) == expected

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "0"])
    def test_no_host_of_this_machine_is_asked(self, host: str, server: ImageServer):
        before = len(server.requests)
        with pytest.raises(ImageError, match=r"is not in the public network|there is no host of that name"):
            read_address(f"http://{host}:{server.server_port}/image/a.png", public_only=True)
        assert len(server.requests) == before

    def test_redirects_are_checked_again_and_names_are_looked_up_once(
        self, server: ImageServer, monkeypatch: pytest.MonkeyPatch
    ):
        """A host is public when it is checked, and private when it is asked for again."""
        asked, look_up = [], socket.getaddrinfo

        def rebind(host: str, *arguments: object, **options: object) -> list:
            if host != "trap.test":
                return look_up(host, *arguments, **options)  # type: ignore[arg-type]
            asked.append(host)
            return look_up("127.0.0.1", *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", rebind)
        monkeypatch.setattr(addresses, "is_public", lambda number: len(asked) == 1)
        address = f"http://trap.test:{server.server_port}"
        assert read_address(f"{address}/image/a.png", public_only=True) == PICNIC.read_bytes()
        assert asked == ["trap.test"]
        asked.clear()
        before = len(server.requests)
        with pytest.raises(ImageError, match=r"trap.test is not in the public network"):
            read_address(f"{address}/redirect/1", public_only=True)
        assert [path for path, _ in server.requests[before:]] == ["/redirect/1"]

    def test_no_proxy_is_asked(self, server: ImageServer, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("http_proxy", server.url)
        before = len(server.requests)
        with pytest.raises(ImageError, match="is not in the public network"):
            read_address("http://127.0.0.1:1/image/a.png", public_only=True)
        assert len(server.requests) == before


def test_addresses_can_be_refused(tmp_path: Path):
    for address in ("http://host/a.png", "file:///etc/passwd", PICNIC.as_uri()):
        with pytest.raises(ImageError, match="addresses are not fetched here, got"):
            read_image(address, allow_addresses=False)
    with pytest.raises(ImageError, match=r"no such image: ~/a.png"):
        read_image("~/a.png", allow_addresses=False)
    assert read_image(os.fspath(PICNIC), allow_addresses=False).pixels.size == (640, 480)

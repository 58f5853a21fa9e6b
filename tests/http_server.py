"""A small HTTP server in a thread, which answers in the good and the bad ways that servers have."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.data import PICNIC

HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class _Handler(BaseHTTPRequestHandler):
    server: "ImageServer"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        kind, _, value = self.path.lstrip("/").partition("?")[0].partition("/")
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has seen enough
            getattr(self, f"send_{kind}")(value)

    def send_image(self, value: str) -> None:
        """/image/NAME: the example, whatever the name."""
        self.answer(200, self.server.image)

    def send_parts(self, value: str) -> None:
        """/parts/NAME: as /image, but what is asked for alone, where a range is."""
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.answer(206, self.server.image[start:], "application/octet-stream")

    def send_status(self, value: str) -> None:
        """/status/404"""
        self.answer(int(value), b"no")

    def send_html(self, value: str) -> None:
        self.answer(200, HTML, "text/html; charset=utf-8")

    def send_redirect(self, value: str) -> None:
        """/redirect/3: leads on 3 times, and then to the image. /redirect/out: to a file on the disk."""
        if value == "out":
            self.answer(302, b"", location="file:///etc/hostname")
        else:
            left = int(value) - 1
            self.answer(302, b"", location=f"/redirect/{left}" if left else "/image/a.png")

    def send_cut(self, value: str) -> None:
        """Half of the image, though all of it is announced."""
        self.answer(200, self.server.image[:1000], length=len(self.server.image))

    def send_large(self, value: str) -> None:
        """No length, and no end."""
        self.send_response(200)
        self.end_headers()
        while not self.server.is_closing:
            self.wfile.write(bytes(1 << 16))

    def send_slow(self, value: str) -> None:
        """/slow/body, /slow/headers: a byte every now and then, for ever."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if value == "body" else b"X: "))
        while not self.server.is_closing:
            self.wfile.write(b"x")
            time.sleep(0.02)

    def send_nothing(self, value: str) -> None:
        """Breaks off without an answer."""

    def answer(
        self, status: int, data: bytes, kind: str = "image/png", location: str | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class ImageServer(ThreadingHTTPServer):
    """`url` ends in no slash; `requests` holds the path and the headers of each."""

    daemon_threads = True

    def __init__(self, image: Path = PICNIC) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.image = image.read_bytes()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.is_closing = False
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def image_server(image: Path = PICNIC) -> Iterator[ImageServer]:
    """Runs while the body of the `with` statement does, and serves this file."""
    with ImageServer(image) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.is_closing = True
        server.shutdown()

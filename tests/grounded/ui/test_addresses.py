import asyncio
from collections.abc import Iterator
from dataclasses import replace

import gradio as gr
import httpx
import pytest
from gradio import processing_utils

from grounded.errors import ImageError
from grounded.ui.addresses import NoRemoteFiles, fetch_image, guarded_downloads
from grounded.ui.state import Limits, open_within
from segany.utils import addresses
from tests.data import PICNIC
from tests.http_server import ImageServer, image_server

CLOSED, OPEN = Limits(), Limits(allow_addresses=True)


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture
def no_private_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the test's own server lay in the public network."""
    monkeypatch.setattr(addresses, "is_public", lambda number: True)


def test_addresses_are_refused_unless_allowed(server: ImageServer):
    before = len(server.requests)
    for limits, message in ((CLOSED, "addresses are not fetched here"), (OPEN, "is not in the public network")):
        with pytest.raises(ImageError, match=message):
            fetch_image(f"{server.url}/image/a.png", limits)
    for address in ("file:///etc/passwd", "ftp://host/a.png"):
        with pytest.raises(ImageError, match="only http:// and https:// addresses are fetched"):
            fetch_image(address, OPEN)
        with pytest.raises(ImageError, match="addresses are not fetched here"):
            fetch_image(address, CLOSED)
    assert len(server.requests) == before
    assert fetch_image("data:text/plain,abc", CLOSED) == b"abc"


@pytest.mark.usefixtures("no_private_network")
def test_limits_of_a_download(server: ImageServer):
    assert fetch_image(f"{server.url}/image/a.png", OPEN) == PICNIC.read_bytes()
    with pytest.raises(ImageError, match="too large a file"):
        fetch_image(f"{server.url}/large", replace(OPEN, max_file_mb=1))
    with pytest.raises(ImageError, match=r"not complete after 0.2 s"):
        fetch_image(f"{server.url}/slow/body", replace(OPEN, fetch_seconds=0.2))


@pytest.mark.parametrize("path", ["http://127.0.0.1:1/a.png", PICNIC.as_uri(), "~/a.png"])
def test_text_of_a_user_is_a_path_and_nothing_else(path: str):
    with pytest.raises(ImageError, match=r"addresses are not fetched here|no such image: ~/a.png"):
        open_within(path, OPEN)


class TestGradioDownloads:
    """What Gradio does with an upload whose path is an address."""

    def download(self, address: str, folder: object) -> str:
        return asyncio.run(processing_utils.async_ssrf_protected_download(address, str(folder)))

    def test_refused(self, server: ImageServer, tmp_path: object):
        before = len(server.requests)
        with guarded_downloads(CLOSED):
            for host in (server.url, "https://huggingface.co"):  # which Gradio itself trusts
                with pytest.raises(gr.Error, match="addresses are not fetched here"):
                    self.download(f"{host}/image/a.png", tmp_path)
        assert processing_utils.async_transport is None and len(server.requests) == before

    @pytest.mark.usefixtures("no_private_network")
    def test_allowed(self, server: ImageServer, tmp_path: object):
        with guarded_downloads(OPEN):
            path = self.download(f"{server.url}/redirect/2", tmp_path)
            with open(path, "rb") as file:
                assert file.read() == PICNIC.read_bytes()
            with pytest.raises(gr.Error, match="answers 404"):
                self.download(f"{server.url}/status/404", tmp_path)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gradio_api/file=http://127.0.0.1/a.png", 403),
        ("/gradio_api/file=HTTPS%3A//host/a.png", 403),
        ("/file=http://host/a.png", 403),
        ("/gradio_api/file/http://host/a.png", 403),
        ("/gradio_api/file//tmp/grounded/a.png", 200),
        ("/gradio_api/proxy=https://host/a.png", 403),
        ("/gradio_api/file=/tmp/grounded/a.png", 200),
        ("/", 200),
    ],
)
def test_files_of_other_servers_are_not_passed_on(path: str, status: int):
    async def app(scope: dict, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(NoRemoteFiles(app))) as client:  # type: ignore[arg-type]
            return (await client.get(f"http://app{path}")).status_code

    assert asyncio.run(ask()) == status

"""Addresses in the app: whether its server fetches images from them on behalf of those who use it. Off by default.

A server that fetches what strangers name reaches whatever it can reach itself: the router, other machines, the address
from which a cloud gives out keys. Gradio fetches the http addresses of uploads by itself, and hands out files of other
servers at its routes `file=` and `file/`. Here everything goes through one function, which refuses, or where
`Limits.allow_addresses` says so connects to hosts of the public network alone.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import anyio.to_thread
import gradio as gr
import httpx
from gradio import processing_utils
from gradio.utils import get_upload_folder
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from grounded.errors import ImageError, VideoError
from grounded.ui.state import Limits
from grounded.utils.files import cut_name
from segany.utils.addresses import address_name, read_address, shown_address

_REMOTE_FILE = re.compile(r"/(?:file|proxy)[=/]\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def fetch_image(address: str, limits: Limits) -> bytes:
    """Return the file that an http, https or data address leads to.

    Raises:
        ImageError: addresses are not allowed, or this one cannot be fetched, is too large, or not a public one.
    """
    holds_data = address[:5].lower() == "data:"
    if not (holds_data or limits.allow_addresses):
        raise ImageError(f"addresses are not fetched here, got {shown_address(address)}: upload the file")
    return read_address(address, max_bytes=limits.max_file_mb * 2**20, seconds=limits.fetch_seconds, public_only=True)


def fetch_file(address: str, folder: str | PathLike[str], limits: Limits) -> Path:
    """Write the file that an address leads to into a new folder in `folder`, and return its path.

    Raises:
        ImageError: as `fetch_image`.
    """
    data = fetch_image(address, limits)
    path = Path(mkdtemp(dir=folder)) / cut_name(address_name(address), 200)
    path.write_bytes(data)
    return path


def fetch_clip(address: str, limits: Limits) -> Path:
    """Write the file that an address leads to into the folder of uploads, which the server empties; return its path.

    Raises:
        VideoError: as `fetch_image`.
    """
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    try:
        return fetch_file(address, uploads, limits)
    except ImageError as error:
        raise VideoError(str(error).replace("not an image", "not a video")) from error


@contextmanager
def guarded_downloads(limits: Limits) -> Iterator[None]:
    """While the body of the `with` statement runs, Gradio downloads by `fetch_image` and in no other way."""
    before = processing_utils.async_transport
    processing_utils.async_transport = _GuardedTransport(limits)  # where Gradio looks for one
    try:
        yield
    finally:
        processing_utils.async_transport = before


class _GuardedTransport(httpx.AsyncBaseTransport):
    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            data = await anyio.to_thread.run_sync(partial(fetch_image, str(request.url), self._limits))
        except ImageError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return httpx.Response(200, content=data, request=request)


class NoRemoteFiles:
    """ASGI middleware that closes the routes by which Gradio streams files of other servers to anybody who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _REMOTE_FILE.search(str(scope["path"])):
            refusal: Any = PlainTextResponse("files of other servers are not passed on", status_code=403)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

"""Addresses of images: http://, https://, file:// and data:. For `read_image`, and for lists of images to label.

A download has a limit of time, of size and of redirects, and every way in which it can fail is one sentence. A server
that fetches for strangers asks for `public_only`: then no connection is made to a host of a private network, neither
directly nor by a redirect, nor by a name that changes its meaning between the check and the connection.
"""

import base64
import http.client
import importlib.metadata
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from segany.errors import ImageError

MAX_BYTES = 200_000_000
MAX_REDIRECTS = 5
SECONDS = 60.0  # for a whole download
_SILENCE = 20.0  # seconds without a byte

_SCHEME = re.compile(r"(?:([a-z][a-z0-9+.-]+)://|(data):)", re.IGNORECASE)
# What pathlib makes of https://host.
_FLATTENED = re.compile(r"(https?|file):[\\/](?=[^\\/])", re.IGNORECASE)
_STATUS = {
    401: "it asks for a login",
    403: "it may not be read",
    404: "there is nothing at this address",
    407: "the proxy asks for a login",
    410: "it was removed",
    429: "too many requests were made: try again later",
}
# IPv6 addresses by which a network reaches IPv4 hosts (RFC 6052, section 2.1).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_address(text: str) -> bool:
    """Whether a text is an address with a scheme, and not the path of a file."""
    return _SCHEME.match(text) is not None


def locate(source: str | os.PathLike[str]) -> Path | str:
    """Return the path of an image file on this machine, or the address of one elsewhere, as text.

    A leading `~` is the home folder, unless a file is called so; file:// is a path. An address that went through
    `pathlib` is put right: "https:/host/a.jpg".

    Raises:
        ImageError: the address has another scheme than http, https, file or data.
    """
    text = os.fspath(source)
    if not isinstance(source, str) and (flattened := _FLATTENED.match(text)) and not os.path.exists(text):
        slashes = "///" if flattened[1].lower() == "file" else "//"
        text = f"{flattened[1]}:{slashes}{text[flattened.end() :]}"
    match = _SCHEME.match(text)
    if match is None:
        return _expand_user(text)
    scheme = (match[1] or match[2]).lower()
    if scheme in ("http", "https", "data"):
        return text
    if scheme != "file":
        raise ImageError(f"an address must begin with http://, https://, file:// or data:, got {shown_address(text)}")
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise ImageError(f"a file:// address must name a file of this machine, as in file:///home/a.jpg, got {text}")
    return Path(urllib.request.url2pathname(parts.path))


def _expand_user(text: str) -> Path:
    path = Path(text)
    if text.startswith("~") and not os.path.lexists(text):
        try:
            return path.expanduser()
        except RuntimeError:  # no such user
            return path
    return path


def address_name(address: str) -> str:
    """Return the file name that an address ends in: "a b.jpg" of https://host/x/a%20b.jpg?size=2; "image" if none."""
    if address[:5].lower() == "data:":
        return "image"
    last = unquote(_split(address).path.rpartition("/")[2], errors="replace")
    name = "".join("_" if char in '/\\<>:"|?*' or not char.isprintable() else char for char in last).strip()
    return "image" if name in ("", ".", "..") else name


def shown_address(address: str) -> str:
    """Return an address for messages: without a password, and of a data: address only the beginning."""
    if address[:5].lower() == "data:":
        return f"{address.partition(',')[0][:60]},…"
    parts = _split(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def read_address(
    address: str, *, max_bytes: int = MAX_BYTES, seconds: float = SECONDS, public_only: bool = False
) -> bytes:
    """Return the bytes that an http, https or data address leads to.

    Args:
        address: may hold a user and a password, which are sent to this host alone.
        max_bytes: largest file; a larger one is given up as soon as that is known.
        seconds: for the whole download.
        public_only: refuse hosts that are not in the public network, and go through no proxy.

    Raises:
        ImageError: it cannot be fetched, is too large, or is a page of text rather than an image.
    """
    shown = shown_address(address)
    if address[:5].lower() == "data:":
        return _read_data(address, max_bytes)
    download = _Download(time.monotonic() + seconds, public_only)
    with _errors_of(shown, seconds, download):
        request = _request(address)
        with download.limited(), _opener(download).open(request, timeout=min(_SILENCE, seconds)) as response:
            data = download.read(response, max_bytes)
            kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml") and data.lstrip()[:1] == b"<":
        raise ImageError(f"{shown} answers with an HTML page, not an image")
    return data


def open_address(address: str, *, first_byte: int = 0, public_only: bool = False) -> http.client.HTTPResponse:
    """Open an http or https address to be read bit by bit; when it is silent for 20 s, reading raises TimeoutError.

    Args:
        address: as in `read_address`.
        first_byte: where to begin. The response has the status 206 if the server did so, and 200 if it begins at 0.
        public_only: as in `read_address`.

    Raises:
        ImageError: it cannot be opened.
    """
    download = _Download(time.monotonic() + SECONDS, public_only)
    with _errors_of(shown_address(address), SECONDS, download):
        request = _request(address)
        request.add_header("Accept", "*/*")
        request.add_header("Range", f"bytes={first_byte}-")
        with download.limited():
            return cast(http.client.HTTPResponse, _opener(download).open(request, timeout=_SILENCE))


class _Download:
    """One download: where it may connect to, and when it must end."""

    def __init__(self, deadline: float, public_only: bool) -> None:
        self.deadline, self.public_only = deadline, public_only
        self.connections: list[http.client.HTTPConnection] = []

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def connect(self, place: tuple[str, int], timeout: float, source_address: Any = None) -> socket.socket:
        """Connect to (host, port); with `public_only`, to the very address that was checked."""
        if not self.public_only:
            return socket.create_connection(place, timeout, source_address)
        host, port = place
        found = [entry[4][:2] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for number, _ in found:
            if not is_public(str(number)):
                raise ImageError(f"{host} is not in the public network, and such hosts are not asked here")
        error: OSError | None = None
        for number, _ in found:
            try:
                return socket.create_connection((str(number), port), timeout, source_address)
            except OSError as failure:
                error = failure
        raise error or OSError("no address")

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Break the connections off at the deadline: a server may send headers byte by byte, for ever."""
        timer = threading.Timer(max(0.0, self.deadline - time.monotonic()), self._break_off)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _break_off(self) -> None:
        for connection in self.connections:
            try:
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed already

    def read(self, response: Any, max_bytes: int) -> bytes:
        stated = response.headers.get("Content-Length", "")
        length = int(stated) if stated.isascii() and stated.isdigit() else None
        data = bytearray()
        while max(length or 0, len(data)) <= max_bytes and (piece := response.read1(1 << 16)):
            data += piece
            if self.is_late:
                break
        if self.is_late:  # also where headers were cut off, and nothing followed
            raise TimeoutError
        if max(length or 0, len(data)) > max_bytes:
            raise _TooLarge
        if length is not None and len(data) < length:
            raise http.client.IncompleteRead(bytes(data), length - len(data))
        return bytes(data)


class _TooLarge(Exception):
    """More bytes than are allowed."""


def is_public(number: str) -> bool:
    """Whether an IP address is one of the public network, and not of this machine, a private network or a group."""
    ip = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _request(address: str) -> urllib.request.Request:
    parts = _split(address)
    if parts.scheme.lower() not in ("http", "https"):
        raise ImageError(f"only http:// and https:// addresses are fetched, got {shown_address(address)}")
    if not parts.hostname:
        raise ImageError(f"the address names no host: {shown_address(address)}")
    user, _, host = parts.netloc.rpartition("@")
    if not host.isascii():
        host = host.encode("idna").decode()
    # Spaces and letters beyond ASCII as browsers send them; what is escaped already stays so.
    path, query = (quote(part, safe="/%:@!$&'()*+,;=~-._?") for part in (parts.path or "/", parts.query))
    request = urllib.request.Request(urlunsplit((parts.scheme.lower(), host, path, query, "")))
    request.add_header("User-Agent", f"grounded-segany/{_version()}")
    request.add_header("Accept", "image/*, */*;q=0.5")
    if user:
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(unquote(user).encode()).decode()}")
    return request


def _version() -> str:
    try:
        return importlib.metadata.version("grounded-segany")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _opener(download: _Download) -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else, wherever a redirect leads."""
    opener = urllib.request.OpenerDirector()
    proxies: dict[str, str] | None = {} if download.public_only else None  # None: those of the environment
    for handler in (
        urllib.request.ProxyHandler(proxies),
        _HTTPHandler(download),
        _HTTPSHandler(download),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = max_repeats = MAX_REDIRECTS


def _connections(kind: type[http.client.HTTPConnection], download: _Download) -> Callable[..., Any]:
    def make(host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection._create_connection = download.connect  # type: ignore[attr-defined]
        download.connections.append(connection)
        return connection

    return make


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, download: _Download) -> None:
        super().__init__()
        self._make = _connections(http.client.HTTPConnection, download)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._make, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, download: _Download) -> None:
        super().__init__()
        self._make = _connections(http.client.HTTPSConnection, download)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._make, req, context=ssl.create_default_context())


@contextmanager
def _errors_of(shown: str, seconds: float, download: _Download) -> Iterator[None]:
    """Raise ImageError for all that can happen on the way, in one sentence that names the address."""
    try:
        yield
    except ImageError:
        raise
    except _TooLarge:
        raise ImageError(f"{shown} is too large a file to fetch") from None
    except Exception as error:
        if download.is_late:
            raise ImageError(f"cannot get {shown}: it is not complete after {seconds:g} s") from error
        raise ImageError(f"cannot get {shown}: {reason_of_failure(error)}") from error


def reason_of_failure(error: BaseException) -> str:
    """Why a download failed, as the second half of a sentence."""
    if isinstance(error, urllib.error.HTTPError):
        if 300 <= error.code < 400:
            return f"it leads on to other addresses more than {MAX_REDIRECTS} times, or to none that can be fetched"
        text = _STATUS.get(error.code) or (
            "the server has a fault: try again later" if error.code >= 500 else str(error.reason).lower()
        )
        return f"the server answers {error.code}, {text}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return reason_of_failure(error.reason)
    if isinstance(error, socket.gaierror):
        return "there is no host of that name, or no connection to the internet"
    if isinstance(error, ConnectionRefusedError):
        return "the host refuses the connection"
    if isinstance(error, TimeoutError):
        return "the host does not answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        whole = len(error.partial) + (error.expected or 0)
        return f"the connection broke off after {len(error.partial)} of {whole} bytes"
    if isinstance(error, (http.client.HTTPException, ConnectionError)):
        return "the server broke the connection off, or does not speak HTTP"
    return " ".join(str(error).split()) or type(error).__name__


def _read_data(address: str, max_bytes: int) -> bytes:
    shown = shown_address(address)
    if len(address) > max_bytes * 3:  # each byte takes at most three characters
        raise ImageError(f"{shown} is too large")
    try:
        with urllib.request.DataHandler().data_open(urllib.request.Request(address)) as response:
            data = bytes(response.read())
    except Exception as error:
        raise ImageError(f"cannot read {shown}: it is no data: address") from error
    if len(data) > max_bytes:
        raise ImageError(f"{shown} is too large")
    return data


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port  # checked when it is asked for
        return parts
    except ValueError as error:
        raise ImageError(f"not an address: {error}") from error

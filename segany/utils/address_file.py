"""A file at an address, read bit by bit and from any place, as far as its server can do that. For videos."""

import io
import tempfile
from typing import IO, Any

from segany.errors import ImageError
from segany.utils.addresses import open_address, reason_of_failure, shown_address

_NEAR = 1 << 18  # bytes that are rather read than skipped by another request
_PIECE = 1 << 16


class AddressFile(io.RawIOBase):
    """A file at an http or https address, under the rules of `open_address`.

    A server that can send parts of a file is asked for those that are read. Of another one that states the length,
    what was read is kept in a temporary file, to go back in. Otherwise the file can be read once.

    Raises:
        ImageError: it cannot be fetched, is a page of text, or the connection broke off.
    """

    def __init__(self, address: str, public_only: bool = False) -> None:
        super().__init__()
        self._address, self._public_only = address, public_only
        self._place, self._asked = 0, 0  # where the reader is, and where the response is
        self._kept: IO[bytes] | None = None
        self._response: Any = open_address(address, public_only=public_only)
        headers = self._response.headers
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            self.close()
            raise ImageError(f"{shown_address(address)} answers with an HTML page, not an image")
        length = headers.get("Content-Length", "")
        self._length = int(length) if length.isascii() and length.isdigit() else None
        self._sends_parts = self._response.status == 206
        if not self._sends_parts and self._length is not None:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115, it is closed with this file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._length is not None

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._length is None:
            raise io.UnsupportedOperation("the server states no length")
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence])
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, none at the end only."""
        if self._length is not None:
            size = self._length - self._place if size < 0 else min(size, self._length - self._place)
            if size <= 0:
                return b""
        try:
            data = self._fetch(size)
        except ImageError:
            raise
        except Exception as error:
            reason = reason_of_failure(error)
            raise ImageError(f"cannot get {shown_address(self._address)}: {reason}") from error
        self._place += len(data)
        if not data and self._length is not None:
            sizes = f"{self._place} of {self._length} bytes"
            raise ImageError(f"cannot get {shown_address(self._address)}: the connection broke off after {sizes}")
        return data

    def _fetch(self, size: int) -> bytes:
        if self._kept is not None:
            return self._fetch_and_keep(size)
        skipped = self._place - self._asked
        if self._sends_parts and not 0 <= skipped <= _NEAR:
            self._response.close()
            self._response = open_address(self._address, first_byte=self._place, public_only=self._public_only)
            self._asked, skipped = self._place, 0
            if self._response.status != 206:
                raise ImageError(f"cannot get {shown_address(self._address)}: the server sends parts no longer")
        if skipped:
            self._asked += len(self._response.read(skipped))
        data = bytes(self._response.read(size))
        self._asked += len(data)
        return data

    def _fetch_and_keep(self, size: int) -> bytes:
        assert self._kept is not None
        self._kept.seek(0, io.SEEK_END)
        while self._asked < self._place + size:
            piece = self._response.read(min(_PIECE, self._place + size - self._asked))
            if not piece:
                break
            self._kept.write(piece)
            self._asked += len(piece)
        self._kept.seek(self._place)
        return self._kept.read(size)

    def close(self) -> None:
        if not self.closed:
            self._response.close()
            if self._kept is not None:
                self._kept.close()
        super().close()

"""Label Studio's run-length encoding of brushed masks.

It is that of the JavaScript package `@thi.ng/rle-pack`: a stream of bits, the first of a byte being its highest. A head
of the number of values (32 bits), their width less one (5 bits) and the widths less one of four kinds of run lengths (4
bits each); then runs, each a bit (1 for a run of one value, 0 for values one by one), 2 bits for the kind of
its length, the length less one, and the value or values. Values are those of an RGBA image row by row: four for each
pixel, of which the last is the mask.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from grounded.errors import ResultError

_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_CHANNELS = 4
_INSIDE = 128  # least value of a pixel in the mask, at least half covered; edges of the brush may be smooth


def encode(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Return a mask as bytes, of which all four channels are 255 inside and 0 outside."""
    flat = mask.ravel()
    head = f"{flat.size * _CHANNELS:032b}{_VALUE_BITS - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, np.int64)
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    bits = head + "".join(
        _run(length, 255 if flat[start] else 0) for start, length in zip(starts, lengths.tolist(), strict=True)
    )
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def decode(data: Any, image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return which pixels are at least half covered.

    Args:
        data: list of bytes, as found in a JSON file.
        image_size: (height, width) in pixels.

    Raises:
        ResultError: the bytes are cut off, no such encoding, or of an image of another size.
    """
    if not isinstance(data, list) or not all(isinstance(byte, int) and 0 <= byte <= 255 for byte in data):
        raise ResultError("a brushed mask must be a list of bytes, got something else")
    read = _Bits(bytes(data))
    count, value_bits = read(32), read(5) + 1
    length_bits = [read(4) + 1 for _ in range(4)]
    height, width = image_size
    if count != height * width * _CHANNELS:
        expected = height * width * _CHANNELS
        raise ResultError(f"a brushed mask must have {expected} values, four for each pixel, got {count}")
    if value_bits != _VALUE_BITS:
        raise ResultError(f"a brushed mask must have values of {_VALUE_BITS} bits, got {value_bits}")
    mask = np.zeros(height * width, dtype=bool)
    for start, stop, values in _runs(read, count, length_bits):
        # The last value of a pixel counts, the one at four times its number and three.
        pixel = start // _CHANNELS
        last = values if isinstance(values, int) else values[pixel * _CHANNELS + _CHANNELS - 1 - start :: _CHANNELS]
        mask[pixel : stop // _CHANNELS] = np.asarray(last) >= _INSIDE
    return mask.reshape(height, width)


def _run(length: int, value: int) -> str:
    """A run, in pieces where it is longer than the widest length can say."""
    longest = 1 << _LENGTH_BITS[-1]
    text = ""
    while length:
        piece = min(length, longest)
        kind, bits = next((kind, bits) for kind, bits in enumerate(_LENGTH_BITS) if piece <= 1 << bits)
        text += f"1{kind:02b}{piece - 1:0{bits}b}{value:0{_VALUE_BITS}b}"
        length -= piece
    return text


def _runs(read: "_Bits", count: int, length_bits: list[int]) -> Iterator[tuple[int, int, int | UInt8[np.ndarray, "_"]]]:
    """Yield where runs begin and end, and their value or values."""
    start = 0
    while start < count:
        is_run, kind = read(1), read(2)
        length = read(length_bits[kind]) + 1
        stop = min(start + length, count)
        if is_run:
            yield start, stop, read(_VALUE_BITS)
        else:
            size = stop - start
            data = read(_VALUE_BITS * size).to_bytes(size, "big")
            yield start, stop, np.frombuffer(data, np.uint8)
        start = stop


class _Bits:
    """Numbers of any width off a stream of bits, one after the other."""

    def __init__(self, stream: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in stream)
        self._position = 0

    def __call__(self, bits: int) -> int:
        end = self._position + bits
        if end > len(self._text):
            raise ResultError(f"a brushed mask is cut off after {len(self._text) // 8} bytes")
        number, self._position = int(self._text[self._position : end], 2), end
        return number

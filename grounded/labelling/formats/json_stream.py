"""JSON files of long lists that are written entry by entry.

By hand, because JSON packages write one list at a time, and COCO's files hold two that grow together.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from grounded.utils.files import open_new, output_errors

_BLOCK = 1 << 20  # bytes


@contextmanager
def json_lists(path: Path, *keys: str, **others: Any) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """Write an object of lists that grow together, none of which is held in memory. Yields `add(key, entry)`.

    Args:
        path: a new file. Its lists are files beside it until they are complete.
        keys: of the lists, at least one, in their order in the file.
        others: more keys and values, at the end of the file.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    parts = {key: path.with_name(f".{path.name}.{key}") for key in keys}
    lengths = dict.fromkeys(keys, 0)
    with ExitStack() as stack:
        writes = {key: stack.enter_context(open_new(part)) for key, part in parts.items()}

        def add(key: str, entry: Mapping[str, Any]) -> None:
            writes[key](b",\n" * (lengths[key] > 0) + _encode(entry))
            lengths[key] += 1

        yield add
    with open_new(path) as write:
        before = b"{"
        for key, part in parts.items():
            write(before + _encode(key) + b": [\n")
            with output_errors(path), part.open("rb") as file:
                while block := file.read(_BLOCK):
                    write(block)
                part.unlink()
            before = b"\n],\n"
        write(b"\n]")
        for key, value in others.items():
            write(b",\n" + _encode(key) + b": " + _encode(value))
        write(b"}\n")


@contextmanager
def json_list(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write a list, of which no more than an entry is held in memory. Yields `add(entry)`. Raises OutputError."""
    with open_new(path) as write:
        before = b"[\n"

        def add(entry: Mapping[str, Any]) -> None:
            nonlocal before
            write(before + _encode(entry))
            before = b",\n"

        yield add
        write(b"\n]\n" if before == b",\n" else b"[]\n")


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()

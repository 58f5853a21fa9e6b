"""JSON files of long lists that are written entry by entry."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from grounded.utils.files import explained
from grounded.utils.folders import opened

_BLOCK = 1 << 20  # bytes


@contextmanager
def json_lists(path: Path, *keys: str, **others: Any) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """An object of lists that grow together, none of which is held in memory. Yields `add(key, entry)`.

    Args:
        path: a new file. Lists lie beside it until they are complete.
        keys: of the lists, at least one, in their order in the file.
        others: more keys and values, at the end of the file.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    parts = {key: path.with_name(f".{path.name}.{key}") for key in keys}
    lengths = dict.fromkeys(keys, 0)
    with ExitStack() as stack:
        writes = {key: stack.enter_context(opened(part)) for key, part in parts.items()}

        def add(key: str, entry: Mapping[str, Any]) -> None:
            writes[key](b",\n" * (lengths[key] > 0) + _encoded(entry))
            lengths[key] += 1

        yield add
    with opened(path) as write:
        before = b"{"
        for key, part in parts.items():
            write(before + _encoded(key) + b": [\n")
            with explained(path), part.open("rb") as file:
                while block := file.read(_BLOCK):
                    write(block)
                part.unlink()
            before = b"\n],\n"
        write(b"\n]")
        for key, value in others.items():
            write(b",\n" + _encoded(key) + b": " + _encoded(value))
        write(b"}\n")


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()

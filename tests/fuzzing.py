"""Files as they should not be: valid ones with parts replaced, dropped, doubled, cut off; and a reader tried on them.

    @pytest.mark.parametrize("count", FUZZ_COUNTS)
    def test_damaged_files(tmp_path, count):
        def read(content: bytes) -> None:
            (tmp_path / "a.json").write_bytes(content)
            list(Reader.open(tmp_path / "a.json").images(Notes()))

        fuzz([valid_file], read, count)

A reader may raise the project's own errors, in one line; anything else, and five seconds, are faults.
"""

import copy
import faulthandler
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segany.errors import SegAnyError

FUZZ_COUNTS = (20, pytest.param(1000, marks=pytest.mark.long))  # files a reader is tried on
SECONDS = 5.0

_NESTED: Any = []
for _ in range(60):
    _NESTED = [_NESTED]
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 12.0, 255, 65536, 2**31, 2**32, 2**53, 2**63, -(2**63), 10**30),
    *(float("nan"), float("inf"), -float("inf"), 1e-300, 1e9, 1e308),
    *("", " ", "1", "-1", "nan", "a dog", "é", "e\u0301", "\0", "\ud800", "b'1'", "../../x", "C:\\a\\b.png", "0" * 300),
    *([], {}, [[]], [None], [{}], {"": None}, [1, 2], [0, 0, 1], ["1", "2"], {"size": [2, 2], "counts": [4]}, _NESTED),
)


def fuzz(files: Sequence[bytes], read: Callable[[bytes], object], count: int) -> None:
    """Call a reader with damaged files. Fails at the first that is not read or refused as it should be.

    Args:
        files: valid ones. In JSON values are changed, in all of them bytes.
        read: takes the content of a file; raises a `SegAnyError`, the base of all own errors, where it refuses it.
        count: how many damaged files; always the same ones.
    """

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(list(files)).flatmap(damaged))
    def check(content: bytes) -> None:
        with time_limit(SECONDS):
            try:
                read(content)
            except SegAnyError as error:
                assert "\n" not in str(error), f"a message must be one line, got {error}"
                assert len(str(error)) < 2000, f"a message must be short, got {len(str(error))} characters"

    check()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after some time, and end the process where C code does not come back."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"must take up to {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(6 * seconds, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that is damaged: JSON in one to three of its values, or any in its bytes."""
    try:
        value = json.loads(content)
    except ValueError:
        return draw(damaged_bytes(content))
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged_bytes(content))
    return json.dumps(draw(damaged_values(value))).encode()


@st.composite
def damaged_values(draw: st.DrawFn, value: Any) -> Any:
    """A value of JSON with one to three parts replaced, removed, doubled or shortened."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return draw(st.sampled_from(ODD_VALUES))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.sampled_from(["replace", "replace", "replace", "change", "drop", "double"]))
        if how == "replace":
            holder[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif how == "change":
            holder[key] = draw(_changed(holder[key]))
        elif how == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[key]))
        else:
            holder[f"{key}2"] = copy.deepcopy(holder[key])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a value as the list or dict that holds it, and its index or key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    """A value of the same kind that is a little, or a lot, different."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        options = [value + 1, -value, value * 1000, value + 0.5, str(value), value * 10**9]
        return draw(st.sampled_from(options) | st.integers(-5, 10**6) | st.floats(-1e7, 1e7))
    if isinstance(value, str):
        cut = draw(st.integers(0, max(len(value) - 1, 0)))
        return draw(st.sampled_from([value[:cut], value[:cut] + "~" + value[cut + 1 :], value.upper(), value * 2]))
    if isinstance(value, list):
        return draw(st.sampled_from([value[:1], value[1:], value[:-1], value * 2, value[::-1], [value]]))
    return draw(st.sampled_from([[value], list(value), None] if value else [[], None]))


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that is cut off, or in which some bytes are changed, doubled or left out."""
    how = draw(st.sampled_from(["cut", "change", "insert", "drop"]))
    start = draw(st.integers(0, len(content)))
    if how == "cut":
        return content[:start]
    length = draw(st.integers(1, 8))
    if how == "drop":
        return content[:start] + content[start + length :]
    new = draw(
        st.binary(min_size=1, max_size=length) | st.sampled_from([b"\xff", b"\0", b"nan", b"-", b"9" * 20, b"<", b"&"])
    )
    return content[:start] + new + content[start + (len(new) if how == "change" else 0) :]

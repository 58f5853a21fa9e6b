"""Failures of the machine, as real as a test can have them."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str, while_full: Callable[[], bool] = lambda: True) -> None:
    """Let files of that name be written to a device that is always full, as long as `while_full` says so."""
    make = tempfile.mkstemp

    def make_on_full_disk(*args: object, prefix: str, **options: object) -> tuple[int, str]:
        handle, path = make(*args, prefix=prefix, **options)
        if prefix != f".{name}." or not while_full():
            return handle, path
        os.close(handle)
        return os.open("/dev/full", os.O_WRONLY), path

    monkeypatch.setattr(tempfile, "mkstemp", make_on_full_disk)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Files are opened as a user who owns none: permissions do not bind the superuser."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)

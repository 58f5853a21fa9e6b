"""Exceptions as messages for users: one line in plain words, without a traceback."""

import errno
import inspect
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr

from grounded.errors import GroundedError

_log = logging.getLogger("grounded.ui")

_OUT_OF_MEMORY = "there is not enough memory for this: try a smaller image or fewer phrases, or again in a minute"
_DISK_FULL = "the disk of the server is full: try again later"
_TIMEOUT = "this took too long and was given up: try a smaller image, fewer phrases or fewer images"
_BROKEN_UPLOAD = "the upload did not arrive as a whole, or is not an image: send it again"
_UPLOAD_GONE = "the uploaded file is no longer on the server: send it again"
# PyTorch raises a plain RuntimeError on the CPU, and in some versions on a GPU.
_OUT_OF_MEMORY_PATTERN = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_PILLOW_ERRORS = ("UnidentifiedImageError", "DecompressionBombError")


def user_message(error: BaseException) -> str:
    """One line for a user, without a traceback and without folders of the server.

    The package's own errors state what was expected and what came, and are passed on; of unexpected ones the user
    reads only the type.
    """
    text = _without_upload_folders(" ".join(str(error).split()))
    if isinstance(error, GroundedError):
        return text
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY_PATTERN.search(text)):
        return _OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _DISK_FULL
    if isinstance(error, (TimeoutError, futures.TimeoutError)):
        return _TIMEOUT
    if isinstance(error, FileNotFoundError):
        return _UPLOAD_GONE
    if type(error).__name__ in _PILLOW_ERRORS or "image file is truncated" in text:
        return _BROKEN_UPLOAD
    return f"something went wrong on the server ({type(error).__name__}); its log has the details"


def log_and_describe(error: BaseException) -> str:
    """Return `user_message(error)`, and write a traceback to the server's log unless the user's input is at fault."""
    if not isinstance(error, GroundedError):
        _log.error("an event of the app failed", exc_info=error)
    return user_message(error)


def show_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function or generator of an event, so that users see its errors as toasts."""
    if inspect.isgeneratorfunction(_unwrapped(function)):
        # A lambda, since a type checker that wraps nested functions would hide that this is a generator.
        return wraps(function)(lambda *args, **kwargs: (yield from _iterate(function(*args, **kwargs))))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _as_toast(error) from error

    return call


def _iterate(steps: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from steps
    except Exception as error:
        raise _as_toast(error) from error


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside partials and other wrappers, such as type checks, which may hide that it is a generator."""
    inner = function.func if isinstance(function, partial) else inspect.unwrap(function)
    return function if inner is function else _unwrapped(inner)


def _as_toast(error: Exception) -> Exception:
    if isinstance(error, gr.Error):
        return error
    return gr.Error(log_and_describe(error), print_exception=False)


def _without_upload_folders(text: str) -> str:
    """The text with uploads under the names that the user gave them."""
    folders = (os.environ.get("GRADIO_TEMP_DIR"), str(Path(tempfile.gettempdir()) / "gradio"))
    for folder in filter(None, folders):
        text = re.sub(re.escape(folder) + r"[\\/](?:[^\\/\s]+[\\/])*", "", text)
    return text

"""What a user reads when something fails: exceptions -> plain words."""

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

from grounded.errors import GroundedError
from segany import CheckpointError

_log = logging.getLogger("grounded.ui")

_MEMORY = "there is not enough memory for this: try a smaller picture or fewer phrases, or again in a minute"
_DISK = "the disk of the server is full: try again later"
_TIME = "this took too long and was given up: try a smaller picture, fewer phrases or fewer pictures"
_UPLOAD = "the upload did not arrive as a whole, or is not a picture: send it again"
_GONE = "the uploaded file is no longer on the server: send it again"
# PyTorch says so as a plain RuntimeError on the CPU, and in some versions on a GPU.
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_PICTURE_ERRORS = ("UnidentifiedImageError", "DecompressionBombError")


def plain(error: BaseException) -> str:
    """Return an error as one line for a user, without a traceback and without folders of the server.

    Errors that say what was expected and what came are told as they are; of unexpected ones only the type is told.
    """
    return _known(error) or f"something went wrong on the server ({type(error).__name__}); its log has the details"


def reported(error: BaseException) -> str:
    """Return `plain(error)`, and leave a traceback in the log of the server unless the user's input is at fault."""
    if not _is_told_as_it_is(error):
        _log.error("an event of the app failed", exc_info=error)
    return plain(error)


def spoken(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function or generator of an event, so that its errors become toasts in plain words."""
    if inspect.isgeneratorfunction(_innermost(function)):
        return wraps(function)(lambda *arguments, **named: (yield from _told(function(*arguments, **named))))

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Exception as error:
            raise _toast(error) from error

    return call


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """What other wrappers, such as type checks, are around: they may hide that it is a generator."""
    inner = function.func if isinstance(function, partial) else inspect.unwrap(function)
    return function if inner is function else _innermost(inner)


def _told(steps: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from steps
    except Exception as error:
        raise _toast(error) from error


def _toast(error: Exception) -> Exception:
    import gradio  # here, so that those who only want words need not wait for it

    if isinstance(error, gradio.Error):
        return error
    return gradio.Error(reported(error), print_exception=False)


def _known(error: BaseException) -> str | None:
    """The words for an error that is foreseen; None for others."""
    text = _without_folders(" ".join(str(error).split()))
    if _is_told_as_it_is(error):
        return text
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(text)):
        return _MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _DISK
    if isinstance(error, (TimeoutError, futures.TimeoutError)):
        return _TIME
    if isinstance(error, FileNotFoundError):
        return _GONE
    if type(error).__name__ in _PICTURE_ERRORS or "image file is truncated" in text:
        return _UPLOAD
    return None


def _is_told_as_it_is(error: BaseException) -> bool:
    return isinstance(error, (GroundedError, CheckpointError))


def _without_folders(text: str) -> str:
    """The text with uploads named as the user named them, and not by where they lie."""
    folders = (os.environ.get("GRADIO_TEMP_DIR"), str(Path(tempfile.gettempdir()) / "gradio"))
    for folder in filter(None, folders):
        text = re.sub(re.escape(folder) + r"[\\/](?:[^\\/\s]+[\\/])*", "", text)
    return text

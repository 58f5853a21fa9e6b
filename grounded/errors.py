"""Every error that is raised on purpose, here and in segany. Each message is one line: what was expected, what came.

Both packages share one base and one class for each kind, so `except GroundedError` catches what either raises. Messages
of other errors, which may have several lines, become one line with `describe_error` or `one_line`.
"""

from segany.errors import CheckpointError, ImageError, MaskError, PromptError
from segany.errors import SegAnyError as GroundedError

__all__ = [
    "BusyError",
    "CheckpointError",
    "ConfigError",
    "GroundedError",
    "ImageError",
    "MaskError",
    "OutputError",
    "PromptError",
    "ResultError",
    "VideoError",
    "describe_error",
    "one_line",
]


class ConfigError(GroundedError, ValueError):
    """A configuration is wrong: unknown key, wrong type, missing file, or parts that do not fit together."""


class VideoError(GroundedError, ValueError):
    """A clip cannot be read: no such file, no frames, a codec that is not there."""


class ResultError(GroundedError, ValueError):
    """A stored result, such as `result.json`, does not have the expected form."""


class OutputError(GroundedError, OSError):
    """A file cannot be written: no permission, a full disk, a folder in its place."""


class BusyError(GroundedError, RuntimeError):
    """Another process is working in the same folder."""


def describe_error(error: BaseException) -> str:
    """Return an error as one line; an error that is not raised on purpose starts with its type."""
    if isinstance(error, GroundedError) or not str(error).strip():
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException, length: int | None = None) -> str:
    """Return the message of an error as one line of at most `length` characters, or its type where it has none.

    Bytes of file names that are not UTF-8 are written as escapes, so that the line can be stored anywhere.
    """
    text = str(error).encode(errors="backslashreplace").decode()
    return " ".join(text.split())[:length] or type(error).__name__

"""Every error that is raised on purpose, here and in segany. Each message is one line: what was expected, what came.

Both packages share one base and one class for each kind, so `except GroundedError` catches what either raises.
"""

from segany.errors import CheckpointError, ImageError, PromptError
from segany.errors import SegAnyError as GroundedError

__all__ = [
    "BusyError",
    "CheckpointError",
    "ConfigError",
    "GroundedError",
    "ImageError",
    "OutputError",
    "PromptError",
    "ResultError",
]


class ConfigError(GroundedError, ValueError):
    """A configuration is wrong: unknown key, wrong type, missing file, or parts that do not fit together."""


class ResultError(GroundedError, ValueError):
    """A stored result, such as `result.json`, does not have the expected form."""


class OutputError(GroundedError, OSError):
    """A file cannot be written: no permission, a full disk, a folder in its place."""


class BusyError(GroundedError, RuntimeError):
    """Another process is working in the same folder."""

"""Exceptions of the pipeline. Every message is one line that says what was expected and what came."""


class GroundedError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(GroundedError, ValueError):
    """A configuration is wrong: unknown key, wrong type, missing file, or parts that do not fit together."""


class ImageError(GroundedError, ValueError):
    """An image cannot be read, or is not of a supported kind."""


class PromptError(GroundedError, ValueError):
    """The text or the phrases cannot be used as a prompt."""


class ResultError(GroundedError, ValueError):
    """A stored result, such as `result.json`, does not have the expected form."""


class OutputError(GroundedError, OSError):
    """A file cannot be written: no permission, a full disk, a folder in its place."""

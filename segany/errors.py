"""All errors that segany raises on purpose. Each message is one line: the expected value and the given one."""


class SegAnyError(Exception):
    """Base of all errors raised on purpose, in segany and in packages that build on it."""


class CheckpointError(SegAnyError, ValueError):
    """A checkpoint cannot be found, cannot be read, or does not fit the model."""


class DeviceError(SegAnyError, ValueError):
    """A device is not known, or not present on this machine."""


class EmbeddingFileError(SegAnyError, ValueError):
    """A file cannot be read as an image embedding."""


class ForeignEmbeddingError(SegAnyError, ValueError):
    """An image embedding was made by another model."""


class ForeignMemoryError(CheckpointError):
    """A video memory was trained for another image model."""


class ImageError(SegAnyError, ValueError):
    """An image cannot be read, or is not of a supported kind."""


class MaskError(SegAnyError, ValueError):
    """A mask from outside is damaged: run lengths that do not fit its size, corners that are no polygon."""


class PromptError(SegAnyError, ValueError):
    """A prompt is invalid: wrong shape, not finite, or inconsistent with the image, other prompts or the model."""

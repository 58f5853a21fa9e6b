"""Every error that segany raises on purpose. Each message is one line that says what was expected and what came."""


class SegAnyError(Exception):
    """Base of all errors raised on purpose, here and in packages that build on this one."""


class CheckpointError(SegAnyError, ValueError):
    """A checkpoint cannot be found, cannot be read, or does not fit the model."""


class EmbeddingFileError(SegAnyError, ValueError):
    """A file does not hold an image embedding."""


class ForeignEmbeddingError(SegAnyError, ValueError):
    """An image embedding was made by another model."""


class ImageError(SegAnyError, ValueError):
    """An image cannot be read, or is not of a supported kind."""


class PromptError(SegAnyError, ValueError):
    """A prompt cannot be used: wrong shape, not finite, or it does not fit its image, its companions or the model."""

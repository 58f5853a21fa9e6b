"""Errors about weights."""


class CheckpointError(ValueError):
    """A checkpoint cannot be found, cannot be read, or does not fit the model."""

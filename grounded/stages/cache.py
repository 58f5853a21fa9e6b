"""Answers of the stages for one picture, held by whoever asks: a changed setting runs only what depends on it."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from operator import is_
from typing import Any, TypeVar

import numpy as np
from PIL import Image

T = TypeVar("T")
_WINDOWS = "closer"  # the stage that looks at parts of the picture


class StageCache:
    """What stages answered for one picture, for the next question about it.

        kept = StageCache()
        pipeline.segment(image, "a dog", cache=kept)
        pipeline.segment(image, "a dog. pizza", cache=kept)  # the image is not encoded again

    A stage that had the same input before does not run again, and its time is not counted. Another picture, by its
    pixels, or other models empty it. Not for two threads at once.

    Args:
        answers_per_stage: how many inputs of one stage are remembered, the latest; 4 serve a user who goes back and
            forth. Of the image embedding there is never more than one.
        windows: how many embeddings of windows are remembered, the latest: one for each instance in sight.

    Raises:
        ValueError: fewer than one.
    """

    def __init__(self, answers_per_stage: int = 4, windows: int = 32) -> None:
        for name, value in (("answers_per_stage", answers_per_stage), ("windows", windows)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.answers_per_stage, self.windows = answers_per_stage, windows
        self._picture: bytes | None = None
        self._models: tuple[object, ...] = ()
        self._answers: dict[str, OrderedDict[Hashable, Any]] = {}

    def reset_for(self, picture: Image.Image, *models: object) -> None:
        """Forget everything unless it is about this picture, compared by its pixels, and of these very models."""
        digest = hashlib.blake2b(repr(picture.size).encode())
        digest.update(np.asarray(picture).data)
        same_models = len(models) == len(self._models) and all(map(is_, models, self._models))
        if digest.digest() != self._picture or not same_models:
            self._picture, self._models, self._answers = digest.digest(), models, {}

    def answer(self, stage: str, given: Hashable, compute: Callable[[], T]) -> T:
        """Return what the stage answered to the same input, or what `compute` returns, which is then remembered."""
        answers = self._answers.setdefault(stage, OrderedDict())
        if given in answers:
            answers.move_to_end(given)
            return answers[given]
        answer = answers[given] = compute()
        while len(answers) > (self.windows if stage == _WINDOWS else self.answers_per_stage):
            answers.popitem(last=False)
        return answer

    def window(self, window: Hashable, encode: Callable[[], T]) -> T:
        """Return the segmenter's embedding of a part of the picture, as `answer` does."""
        return self.answer(_WINDOWS, window, encode)


def frozen(*values: Any) -> Hashable:
    """A key for `StageCache.answer`: arrays and tensors by their shape and bytes, all else as it is."""
    return tuple(_frozen(value) for value in values)


def _frozen(value: Any) -> Hashable:
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        return array.shape, array.dtype.str, array.tobytes()
    if isinstance(value, dict):
        return tuple(sorted((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value

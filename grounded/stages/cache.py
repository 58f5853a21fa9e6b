"""What the stages computed for one image, so that a changed setting runs only the stages that depend on it."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from grounded.data.image import SourceImage
from grounded.stages.encode import encode_window
from grounded.utils.timing import Stopwatch
from segany import ImageEmbedding

T = TypeVar("T")


class StageCache:
    """Results of the stages for one image, for the next call about the same image.

        cache = StageCache()
        pipeline.segment(image, "a dog", cache=cache)
        pipeline.segment(image, "a dog. pizza", cache=cache)  # the image is not encoded again

    A stage is a function, and its key is its arguments: all of them, by value. So a result can never be returned for
    other input, whatever is added to a stage later. Models, images and image embeddings are compared by identity;
    `recall` finds the image of an earlier call by its pixels.

    Args:
        results_per_stage: how many results of each stage are kept, the latest; 4 serve a user who goes back and forth.
        windows: how many embeddings of image windows are kept for `zoom`, the latest: one for each instance in sight.

    Raises:
        ValueError: fewer than one.
    """

    def __init__(self, results_per_stage: int = 4, windows: int = 32) -> None:
        for name, value in (("results_per_stage", results_per_stage), ("windows", windows)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.results_per_stage, self.windows = results_per_stage, windows
        self._image: SourceImage | None = None
        self._digest = b""
        self._results: dict[Callable[..., Any], OrderedDict[Hashable, Any]] = {}
        self._lock = Lock()  # several threads may share a cache: keys keep their images apart

    def recall(self, image: SourceImage) -> SourceImage:
        """Return the image of the calls before if it has the same pixels; else forget them, and keep this one."""
        digest = _digest(image.pixels)
        with self._lock:
            if self._image is None or digest != self._digest:
                # A copy: whoever draws on the image later must not change what the results are about.
                self._image = replace(image, pixels=image.pixels.copy())
                self._digest, self._results = digest, {}
            return self._image

    def run(self, stage: Callable[..., T], *inputs: Any, watch: Stopwatch | None = None, **helpers: Any) -> T:
        """Return the result of `stage(*inputs, **helpers)`, computed only where it is not known for these inputs.

        Args:
            stage: a function of its arguments alone.
            inputs: what the result depends on.
            watch: receives the seconds of a stage that runs, under the name of the function.
            helpers: passed on without being part of the key: they may change how fast the result is there, never what
                it is.
        """
        key = cache_key(inputs)
        with self._lock:
            results = self._results.setdefault(stage, OrderedDict())
            if key in results:
                results.move_to_end(key)
                return results[key]
        with (watch or Stopwatch()).stage(stage.__name__):
            result = stage(*inputs, **helpers)
        with self._lock:
            results[key] = result
            while len(results) > (self.windows if stage is encode_window else self.results_per_stage):
                results.popitem(last=False)
        return result


def cache_key(value: Any) -> Hashable:
    """A key that is equal for equal values.

    Arrays and tensors count by shape, dtype and contents; lists and tuples, mappings and dataclasses by what they
    hold; strings, numbers and None by themselves; all else, such as a model, by identity.
    """
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        return type(value), value
    if isinstance(value, (SourceImage, ImageEmbedding)):
        return _Same(value)  # large, and the same object for all calls that share a cache
    if hasattr(value, "__array__"):
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
        return array.shape, array.dtype.str, array.tobytes()
    if isinstance(value, Mapping):
        return "mapping", tuple(sorted((key, cache_key(entry)) for key, entry in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(cache_key(entry) for entry in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(cache_key(getattr(value, field.name)) for field in fields(value) if field.compare)
    return _Same(value)


class _Same:
    """Equal only to itself around the very same object, which it keeps alive, so that its identity is not reused."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def _digest(pixels: Image.Image) -> bytes:
    digest = hashlib.blake2b(repr(pixels.size).encode())
    digest.update(np.asarray(pixels).data)
    return digest.digest()

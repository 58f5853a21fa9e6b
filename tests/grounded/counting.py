"""How often the models of a pipeline are called, by counters around the methods of the models themselves."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from grounded.pipeline import Pipeline

# Part of a pipeline -> its methods, and what their calls are counted as. All encoding goes through `encode_batch`.
_METHODS = {
    "detector": {"detect": "detect"},
    "segmenter": {"encode_batch": "encode", "predict": "decode", "predict_deferred": "decode"},
    "scorer": {"score": "score"},
}


@contextmanager
def counted(pipeline: Pipeline) -> Iterator[Counter[str]]:
    """Count the calls in the body of a `with` statement, also those of pipelines that share the models."""
    calls: Counter[str] = Counter()
    wrapped = []
    for part, methods in _METHODS.items():
        model = getattr(pipeline, part)
        for method, kind in methods.items():
            setattr(model, method, _counting(getattr(model, method), calls, kind))
            wrapped.append((model, method))
    try:
        yield calls
    finally:
        for model, method in wrapped:
            delattr(model, method)


def _counting(method: Callable[..., Any], calls: Counter[str], kind: str) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        calls[kind] += 1
        return method(*arguments, **options)

    return call

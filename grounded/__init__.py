"""Free-form text in, labelled instance masks out.

pipeline = grounded.Pipeline.from_config("tiny")
instances = pipeline.segment("picture.png", "a dog. pizza")
grounded.draw("picture.png", instances).save("overlay.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grounded.cutouts import cutouts
    from grounded.drawing import draw
    from grounded.errors import ConfigError, GroundedError, ImageError, OutputError, PromptError, ResultError
    from grounded.instances import Instances
    from grounded.kept import Kept
    from grounded.phrases import parse
    from grounded.pipeline import Pipeline
    from grounded.settings import PipelineConfig
    from grounded.timing import Stopwatch
    from grounded.types import Detections

__version__ = "0.1.0"

_HOMES = {
    "PipelineConfig": "settings",
    "cutouts": "cutouts",
    "draw": "drawing",
    "ConfigError": "errors",
    "GroundedError": "errors",
    "ImageError": "errors",
    "OutputError": "errors",
    "PromptError": "errors",
    "ResultError": "errors",
    "Instances": "instances",
    "Kept": "kept",
    "parse": "phrases",
    "Pipeline": "pipeline",
    "Stopwatch": "timing",
    "Detections": "types",
}

__all__ = [
    "ConfigError",
    "Detections",
    "GroundedError",
    "ImageError",
    "Instances",
    "Kept",
    "OutputError",
    "Pipeline",
    "PipelineConfig",
    "PromptError",
    "ResultError",
    "Stopwatch",
    "cutouts",
    "draw",
    "parse",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import grounded` and the command line start without PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'grounded' has no attribute {name!r}")
    return getattr(importlib.import_module(f"grounded.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

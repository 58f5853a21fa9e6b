"""Free-form text in, labelled instance masks out.

pipeline = grounded.Pipeline.from_config("tiny")
instances = pipeline.segment("picture.png", "a dog. pizza")
grounded.draw("picture.png", instances).save("overlay.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grounded.data.detections import Detections
    from grounded.data.instances import Instances
    from grounded.data.phrases import parse
    from grounded.errors import ConfigError, GroundedError, ImageError, OutputError, PromptError, ResultError
    from grounded.output.cutouts import cutouts
    from grounded.output.draw import draw
    from grounded.pipeline import Pipeline
    from grounded.settings import PipelineConfig
    from grounded.stages.cache import StageCache
    from grounded.utils.timing import Stopwatch

__version__ = "0.1.0"

_HOMES = {
    "PipelineConfig": "settings",
    "cutouts": "output.cutouts",
    "draw": "output.draw",
    "ConfigError": "errors",
    "GroundedError": "errors",
    "ImageError": "errors",
    "OutputError": "errors",
    "PromptError": "errors",
    "ResultError": "errors",
    "Instances": "data.instances",
    "StageCache": "stages.cache",
    "parse": "data.phrases",
    "Pipeline": "pipeline",
    "Stopwatch": "utils.timing",
    "Detections": "data.detections",
}

__all__ = [
    "ConfigError",
    "Detections",
    "GroundedError",
    "ImageError",
    "Instances",
    "OutputError",
    "Pipeline",
    "PipelineConfig",
    "PromptError",
    "ResultError",
    "StageCache",
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

"""Promptable segmentation: Segment Anything in PyTorch, with points, boxes, masks and text as prompts.

predictor = segany.Predictor(segany.load("tiny"))
embedding = predictor.encode("picture.png")
prediction = predictor.predict(embedding, segany.Prompts(boxes=[[10, 20, 110, 90]]))
prediction.best().masks  # (n, 1, height, width) bool
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segany.automatic_mask_generator import AutomaticMaskGenerator
    from segany.checkpoint import load, save
    from segany.config import PRESETS, SegAnyConfig
    from segany.errors import CheckpointError, ForeignEmbeddingError, ImageError, PromptError, SegAnyError
    from segany.model import SegAny
    from segany.predictor import ImageEmbedding, MaskPrediction, Predictor
    from segany.prompts import Prompts

_HOMES = {
    "AutomaticMaskGenerator": "automatic_mask_generator",
    "CheckpointError": "errors",
    "load": "checkpoint",
    "save": "checkpoint",
    "PRESETS": "config",
    "SegAnyConfig": "config",
    "SegAny": "model",
    "ForeignEmbeddingError": "errors",
    "ImageEmbedding": "predictor",
    "MaskPrediction": "predictor",
    "Predictor": "predictor",
    "ImageError": "errors",
    "PromptError": "errors",
    "SegAnyError": "errors",
    "Prompts": "prompts",
}

__all__ = [
    "PRESETS",
    "AutomaticMaskGenerator",
    "CheckpointError",
    "ForeignEmbeddingError",
    "ImageEmbedding",
    "ImageError",
    "MaskPrediction",
    "Predictor",
    "PromptError",
    "Prompts",
    "SegAny",
    "SegAnyConfig",
    "SegAnyError",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import segany` alone does not load PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'segany' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segany.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

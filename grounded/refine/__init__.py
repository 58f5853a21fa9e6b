"""Better masks: by points that the masks themselves suggest, by a closer look, by a user's clicks and strokes."""

from grounded.refine.clicks import assign_points, validate_points
from grounded.refine.closer import Window, look_closer, window_around
from grounded.refine.suggestions import correction_points, refine
from grounded.refine.user import MaskPrompting, refine_one

__all__ = [
    "MaskPrompting",
    "Window",
    "assign_points",
    "correction_points",
    "look_closer",
    "refine",
    "refine_one",
    "validate_points",
    "window_around",
]

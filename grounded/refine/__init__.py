"""Corrections of masks: by points that the masks themselves suggest, and by a user's clicks and strokes."""

from grounded.refine.clicks import assign_points, validate_points
from grounded.refine.suggestions import correction_points, refine
from grounded.refine.user import MaskPrompting, refine_one

__all__ = ["MaskPrompting", "assign_points", "correction_points", "refine", "refine_one", "validate_points"]

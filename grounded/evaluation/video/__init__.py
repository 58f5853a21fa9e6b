"""How well objects are followed through clips: J and F by DAVIS, and HOTA, IDF1, MOTA, switches and returns of tracks.

`evaluate_clips` measures what `sources` opens, or what is in memory; `davis` measures plain masks.
"""

from grounded.evaluation.video.davis import (
    RegionAndBoundary,
    Statistics,
    boundary_accuracy,
    measure_track,
    region_similarity,
    statistics,
)

__all__ = [
    "RegionAndBoundary",
    "Statistics",
    "boundary_accuracy",
    "measure_track",
    "region_similarity",
    "statistics",
]

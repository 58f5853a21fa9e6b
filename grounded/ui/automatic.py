"""Settings that automatic masks start from in the app: stricter than those of the fallback, whose masks CLIP sifts."""

from grounded import config as configs
from grounded.settings import PipelineConfig

# A grid of so many points to a side is twice as fine as the published default; its cost grows with the square.
MAX_POINTS_PER_SIDE = 64
_LEAST = 0.6  # predicted IoU and stability score
_LEAST_AREA = 100  # pixels of holes and islands, which would also keep two masks of one thing apart


def for_people(config: PipelineConfig) -> PipelineConfig:
    """The configuration with automatic masks that are worth showing, all of them, to a person."""
    fallback, refinement = config.fallback, config.refinement
    return configs.override(
        config,
        fallback={
            "pred_iou_thresh": max(fallback.pred_iou_thresh, _LEAST),
            "stability_score_thresh": max(fallback.stability_score_thresh, _LEAST),
        },
        refinement={"min_mask_region_area": max(refinement.min_mask_region_area, _LEAST_AREA)},
    )

"""Object proposals by automatic masks (Segment Anything, section 7.3 and appendix D.3). Needs a segmenter alone.

A grid of 64 x 64 points without crops, and no filter by predicted IoU or stability: non-maximum suppression at a box
IoU of 0.9 leaves somewhat under a thousand masks of a photograph. They are ranked by the mean of predicted IoU and
stability score, and the first 1000 are the proposals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from grounded.data.image import ImageLike
from grounded.data.protocols import Segmenter
from grounded.errors import ConfigError
from segany import AutomaticMaskGenerator, Predictor
from segany.utils.rle import RLE


@dataclass(frozen=True)
class ProposalConfig:
    """Settings of proposals; the defaults are the paper's.

    Raises:
        ValueError: a value is out of its range.
    """

    points_per_side: int = 64
    nms_threshold: float = 0.9  # box IoU above which one of two masks is dropped
    pred_iou_thresh: float = 0.0  # 0 keeps all
    stability_score_thresh: float = 0.0  # 0 keeps all
    max_proposals: int = 1000
    points_per_batch: int = 64  # prompts in one call of the segmenter; does not change the masks

    def __post_init__(self) -> None:
        counts = self.points_per_side, self.max_proposals, self.points_per_batch
        if min(counts) < 1:
            raise ValueError(f"points_per_side, max_proposals and points_per_batch must be at least 1, got {counts}")
        if not 0 < self.nms_threshold <= 1:
            raise ValueError(f"nms_threshold must lie in (0, 1], got {self.nms_threshold}")


@dataclass(frozen=True, eq=False)
class Proposals:
    """Masks of one image that may be objects, best first."""

    rles: tuple[RLE, ...]
    scores: Float32[np.ndarray, "n"]  # mean of predicted IoU and stability score


def propose_masks(
    segmenter: Segmenter,
    image: ImageLike,
    config: ProposalConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Proposals:
    """Return the proposals of an image.

    Args:
        segmenter: a `segany.Predictor`.
        image: any that `segany.AutomaticMaskGenerator` takes.
        config: the paper's settings by default.
        progress: called with (points done, points in all).

    Raises:
        ConfigError: the segmenter is none of segany's.
        ImageError: the image cannot be read.
    """
    config = config or ProposalConfig()
    if not isinstance(segmenter, Predictor):
        raise ConfigError(f"automatic masks need a segany.Predictor, got {type(segmenter).__name__}")
    generator = AutomaticMaskGenerator(
        segmenter,
        points_per_side=config.points_per_side,
        points_per_batch=config.points_per_batch,
        pred_iou_thresh=config.pred_iou_thresh,
        stability_score_thresh=config.stability_score_thresh,
        box_nms_thresh=config.nms_threshold,
    )
    found = generator.generate(image, progress or False)
    found = found[found.areas > 0]
    scores = (found.predicted_iou + found.stability_score) / 2
    order = torch.argsort(scores, descending=True, stable=True)[: config.max_proposals]
    return Proposals(found[order].rles, scores[order].float().numpy())

from typing import Any

import numpy as np
import pytest

import segany
from grounded.errors import ConfigError
from grounded.experiments.proposals import ProposalConfig, propose_masks
from segany.utils.rle import encode_rle, rle_iou


def test_proposals_are_ranked_and_cut_off(predictor: segany.Predictor, disks: tuple):
    image, truths = disks
    config = ProposalConfig(points_per_side=4)
    found = propose_masks(predictor, image, config)
    assert len(found.rles) == len(found.scores) > 2 and (np.diff(found.scores) <= 0).all()
    assert rle_iou(found.rles, encode_rle(truths)).max(axis=0).min() > 0.8
    assert len(propose_masks(predictor, image, ProposalConfig(points_per_side=1, max_proposals=1)).rles) == 1


@pytest.mark.parametrize("changes", [{"points_per_side": 0}, {"nms_threshold": 0.0}, {"max_proposals": 0}])
def test_settings_out_of_range(changes: dict):
    with pytest.raises(ValueError, match="must"):
        ProposalConfig(**changes)


class Other:
    """A segmenter of another package."""

    def encode(self, image: Any) -> Any: ...
    def predict(self, embedding: Any, prompts: Any, multimask_output: bool = True) -> Any: ...


def test_other_segmenters_have_no_automatic_masks(disks: tuple):
    with pytest.raises(ConfigError, match=r"need a segany\.Predictor, got Other"):
        propose_masks(Other(), disks[0])

from dataclasses import replace

import pytest

from grounded import config as configs
from grounded.ui.automatic import for_people


@pytest.mark.parametrize(
    ("given", "area", "expected"),
    [
        pytest.param({}, 0, (0.6, 0.6, 100), id="the bundled weights"),
        pytest.param({"pred_iou_thresh": 0.8, "stability_score_thresh": 0.9}, 200, (0.8, 0.9, 200), id="stricter ones"),
    ],
)
def test_masks_for_people_are_no_worse_than_those_of_the_fallback(given: dict, area: int, expected: tuple):
    whole = configs.override(configs.load("tiny"), fallback=given, refinement={"min_mask_region_area": area})
    strict = for_people(whole)
    found = strict.fallback.pred_iou_thresh, strict.fallback.stability_score_thresh
    assert (*found, strict.refinement.min_mask_region_area) == expected
    assert replace(strict, fallback=whole.fallback, refinement=whole.refinement) == whole

"""What becomes of the segmenter's answers."""

import numpy as np
import pytest
import torch

from grounded.data.instances import Instances
from grounded.stages import answers
from segany.utils.rle import decode_rle, encode_rle


def instances(*masks: np.ndarray, source: str = "detector") -> Instances:
    """Instances of one phrase with the given masks."""
    rles = encode_rle(torch.from_numpy(np.stack(masks)))
    iou = np.full(len(masks), 0.9, np.float32)
    ids = np.zeros(len(masks), np.int64)
    return answers.from_masks(("a dog",), masks[0].shape, rles, ids, iou, source)


def speckled() -> np.ndarray:
    """A square with a hole of four pixels, and an island of one."""
    mask = np.zeros((60, 80), bool)
    mask[10:40, 10:40] = True
    mask[20:22, 20:22] = False
    mask[50, 70] = True
    return mask


class TestCleaned:
    @pytest.mark.parametrize(
        ("min_area", "hole", "island"),
        [(0, True, True), (1, True, True), (2, True, False), (4, True, False), (5, False, False)],
    )
    def test_smaller_regions_go(self, min_area: int, hole: bool, island: bool):
        (rle,) = answers.cleaned(instances(speckled()), min_area).rles
        mask = decode_rle([rle])[0].numpy()
        assert (not mask[20, 20], bool(mask[50, 70])) == (hole, island)
        assert mask[10:40, 10:40].sum() == 900 - 4 * hole

    def test_boxes_follow_the_masks_but_for_those_of_the_detector(self):
        drawn, detected = (answers.cleaned(instances(speckled(), source=name), 5) for name in ("text", "detector"))
        assert drawn.boxes.tolist() == [[10, 10, 40, 40]]
        assert detected.boxes.tolist() == [[10, 10, 71, 51]]
        assert drawn.boxes.dtype == np.float32

    def test_what_was_clean_stays_as_it_was(self):
        clean = np.zeros((60, 80), bool)
        clean[3:9, 4:20] = True
        before = instances(clean, speckled())
        after = answers.cleaned(before, 5)
        assert after.rles[0] is before.rles[0] and after.rles[1] is not before.rles[1]

    def test_nothing(self):
        assert len(answers.cleaned(Instances.empty(("a dog",), (6, 8)), 5)) == 0

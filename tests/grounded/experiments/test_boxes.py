import numpy as np
import pytest

import segany
from grounded.experiments.boxes import clip_boxes, segment_boxes
from segany.utils.rle import encode_rle, rle_iou

BOXES = np.array([[12.0, 22, 48, 58], [63, 18, 87, 42]])


@pytest.mark.parametrize("iterations", [0, 1])
def test_masks_of_boxes(predictor: segany.Predictor, disks: tuple, embedding: segany.ImageEmbedding, iterations: int):
    found = segment_boxes(predictor, embedding, BOXES, iterations)
    assert np.diag(rle_iou(found.rles, encode_rle(disks[1]))).min() > 0.85
    single = segment_boxes(predictor, embedding, BOXES, iterations, boxes_per_batch=1)
    assert np.diag(rle_iou(found.rles, single.rles)).min() > 0.99
    np.testing.assert_allclose(single.predicted_iou, found.predicted_iou, atol=0.01)


def test_no_boxes(predictor: segany.Predictor, embedding: segany.ImageEmbedding):
    found = segment_boxes(predictor, embedding, np.zeros((0, 4)))
    assert found.rles == () and found.predicted_iou.shape == (0,)


def test_boxes_are_cut_off_at_the_image():
    assert clip_boxes(np.array([[-5.0, 2, 30, 90]]), (50, 20)).tolist() == [[0, 2, 20, 50]]

import numpy as np
import pytest

from grounded.stages.verify import suppress
from segany.utils.rle import encode_rle


def bars(*spans: tuple[int, int]) -> list:
    """Masks of whole columns, so that overlaps are those of the spans."""
    masks = np.zeros((len(spans), 10, 100), bool)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[:, start:end] = True
    return encode_rle(masks)


@pytest.mark.parametrize(
    ("spans", "scores", "ids", "iou", "containment", "kept"),
    [
        pytest.param([], [], [], 0.5, 0.5, [], id="none"),
        pytest.param([(0, 10)], [0.5], [0], 0.5, 0.5, [0], id="one"),
        pytest.param([(0, 10), (50, 60)], [0.1, 0.9], [0, 0], 0.5, None, [1, 0], id="apart, best first"),
        pytest.param([(0, 10), (1, 10)], [0.1, 0.9], [0, 0], 0.5, None, [1], id="the better of two stays"),
        pytest.param([(0, 10), (0, 10)], [0.5, 0.5], [0, 0], 0.5, None, [0], id="the first of equals stays"),
        pytest.param([(0, 10), (0, 10)], [0.1, 0.9], [0, 1], 0.5, 0.5, [1, 0], id="phrases do not compete"),
        pytest.param([(0, 10), (0, 8)], [0.9, 0.1], [0, 0], 0.8, None, [0, 1], id="IoU at the threshold stays"),
        pytest.param([(0, 10), (0, 8)], [0.9, 0.1], [0, 0], 0.79, None, [0], id="IoU above the threshold goes"),
        pytest.param([(0, 10), (0, 10)], [0.9, 0.1], [0, 0], None, None, [0, 1], id="switched off"),
        pytest.param([(0, 50), (10, 20)], [0.9, 0.1], [0, 0], 0.8, 0.9, [0], id="part within a better whole"),
        pytest.param([(0, 50), (10, 20)], [0.1, 0.9], [0, 0], 0.8, 0.9, [1], id="whole around a better part"),
        pytest.param([(0, 50), (10, 20)], [0.9, 0.1], [0, 1], 0.8, 0.9, [0, 1], id="part of another phrase"),
        pytest.param([(0, 50), (45, 55)], [0.9, 0.1], [0, 0], 0.8, 0.9, [0, 1], id="part half outside"),
        pytest.param(
            [(0, 10), (2, 12), (4, 14)], [0.9, 0.8, 0.7], [0, 0, 0], 0.6, None, [0, 2], id="the dropped drop none"
        ),
        pytest.param([(0, 0), (0, 0)], [0.9, 0.1], [0, 0], 0.5, 0.5, [0, 1], id="empty masks overlap nothing"),
    ],
)
def test_suppress(spans: list, scores: list, ids: list, iou: float | None, containment: float | None, kept: list[int]):
    result = suppress(bars(*spans), np.array(scores, np.float32), np.array(ids, np.int64), iou, containment)
    assert result.tolist() == kept

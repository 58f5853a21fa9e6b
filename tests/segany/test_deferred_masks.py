import pytest
import torch

from segany import SegAny, deferred_masks
from segany.deferred_masks import DeferredMasks
from segany.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(model: SegAny) -> Predictor:
    return Predictor(model)


POINTS = torch.rand(11, 2, generator=torch.Generator().manual_seed(0)) * 90


@pytest.mark.parametrize(
    ("budget", "chunk"),
    [
        pytest.param(0, 4, id="none stored"),
        pytest.param(5 * 64 * 64, 4, id="some stored"),
        pytest.param(5 * 64 * 64, 1, id="some stored, points decoded one by one"),
        pytest.param(0, 100, id="none stored, points decoded together"),
        pytest.param(1 << 28, 4, id="all stored"),
    ],
)
def test_masks_that_are_not_stored_are_decoded_again_bit_for_bit(predictor, drawing, monkeypatch, budget, chunk):
    monkeypatch.setattr(deferred_masks, "MAX_STORED_FLOATS", budget)
    monkeypatch.setattr(predictor, "_default_chunk", lambda: chunk)
    deferred, expected = DeferredMasks(predictor, predictor.encode(drawing)), []
    for points, prediction in deferred.predict(POINTS):
        computed = prediction.predicted_iou > prediction.predicted_iou.median()
        logits = prediction.low_res_logits(computed)
        kept = torch.arange(len(logits)) % 2 == 0
        places = deferred.add(points, computed, kept, logits)
        assert places.tolist() == [[len(expected), position] for position in range(int(kept.sum()))]
        expected.append(logits[kept])
    assert sum(map(len, expected)) > 5
    for number, logits in enumerate(expected):
        assert torch.equal(deferred.logits(number), logits)


def test_parts_cover_the_points(predictor, drawing):
    deferred = DeferredMasks(predictor, predictor.encode(drawing))
    parts = [points for points, _ in deferred.predict(POINTS)]
    assert torch.equal(torch.cat(parts), POINTS)
    assert list(deferred.predict(POINTS[:0])) == []

import pytest
import torch

from segany import SegAny, deferred_masks
from segany.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(model: SegAny) -> Predictor:
    return Predictor(model)


POINTS = torch.rand(11, 2, generator=torch.Generator().manual_seed(0)) * 90


@pytest.mark.parametrize("budget", [0, 5 * 64 * 64, 1 << 28], ids=["none fits", "some fit", "all fit"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_what_does_not_fit_is_decoded_again_to_the_last_bit(predictor, drawing, monkeypatch, budget, chunk):
    monkeypatch.setattr(deferred_masks, "FLOATS_KEPT", budget)
    monkeypatch.setattr(predictor, "_default_chunk", lambda: chunk)
    remembered, expected = deferred_masks.Drafts(predictor, predictor.encode(drawing)), []
    for points, proposals in remembered.propose(POINTS):
        asked = proposals.predicted_iou > proposals.predicted_iou.median()
        logits = proposals.low_res_logits(asked)
        chosen = torch.arange(len(logits)) % 2 == 0
        places = remembered.add(points, asked, chosen, logits)
        assert places.tolist() == [[len(expected), place] for place in range(int(chosen.sum()))]
        expected.append(logits[chosen])
    assert sum(map(len, expected)) > 5
    for number, logits in enumerate(expected):
        assert torch.equal(remembered.logits(number), logits)


def test_parts_cover_the_points(predictor, drawing):
    remembered = deferred_masks.Drafts(predictor, predictor.encode(drawing))
    parts = [points for points, _ in remembered.propose(POINTS)]
    assert torch.equal(torch.cat(parts), POINTS)
    assert list(remembered.propose(POINTS[:0])) == []

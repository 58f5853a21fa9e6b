import pytest
import torch

from grounded.models.detectors.postprocess import phrase_scores, place_columns, select, to_pixels

LOGITS = torch.logit(torch.tensor([[0.9, 0.2, 0.4, 0.1, 0.0], [0.5, 0.6, 0.8, 0.7, 0.0]]))  # the last is padding: -inf
SPANS = [(1, 3), (3, 4)]


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", [[0.3, 0.1], [0.7, 0.7]]), ("max", [[0.4, 0.1], [0.8, 0.7]])],
)
def test_phrase_scores(reduction: str, expected: list[list[float]]):
    torch.testing.assert_close(phrase_scores(LOGITS, SPANS, reduction), torch.tensor(expected))


def test_phrase_scores_one_query_at_a_time():
    together = phrase_scores(LOGITS, SPANS)
    for i in range(2):
        torch.testing.assert_close(phrase_scores(LOGITS[i : i + 1], SPANS), together[i : i + 1])


def test_phrase_scores_of_no_queries():
    assert phrase_scores(LOGITS[:0], SPANS).shape == (0, 2)


def test_place_columns():
    placed = place_columns(torch.tensor([[0.3, 0.1]]), [3, 1], 5)
    torch.testing.assert_close(placed, torch.tensor([[0.0, 0.1, 0.0, 0.3, 0.0]]))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([0.5, 0.5, 1.0, 1.0], [0, 0, 200, 100], id="the whole picture"),
        pytest.param([0.25, 0.5, 0.1, 0.2], [40, 40, 60, 60], id="inside"),
        pytest.param([0.0, 1.0, 0.5, 0.5], [0, 75, 50, 100], id="cut at two borders"),
        pytest.param([1.2, 0.5, 0.2, 0.2], [200, 40, 200, 60], id="outside: no area is left"),
    ],
)
def test_to_pixels(box: list[float], expected: list[float]):
    torch.testing.assert_close(
        to_pixels(torch.tensor([box]), (100, 200))[0], torch.tensor(expected, dtype=torch.float32)
    )


# Two boxes that nearly coincide (IoU 0.9), one apart, one without area.
BOXES = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [5, 5, 5, 9]], dtype=torch.float32)
DEFAULTS = {"box_threshold": 0.25, "nms_threshold": 0.7}


@pytest.mark.parametrize(
    ("scores", "options", "queries", "phrases"),
    [
        pytest.param([[0.5], [0.6], [0.4], [0.9]], {}, [1, 2], [0, 0], id="duplicate of one phrase, box without area"),
        pytest.param(
            [[0.5, 0.1], [0.2, 0.6], [0.4, 0.3], [0, 0]], {}, [1, 0, 2], [1, 0, 0], id="two phrases, one place"
        ),
        pytest.param(
            [[0.5, 0.1], [0.2, 0.6], [0.4, 0.3], [0, 0]], {"cross_phrase_nms": 0.7}, [1, 2], [1, 0], id="across phrases"
        ),
        pytest.param([[0.5], [0.6], [0.4], [0.9]], {"nms_threshold": 0.95}, [1, 0, 2], [0, 0, 0], id="lax NMS"),
        pytest.param([[0.5], [0.6], [0.4], [0.9]], {"max_detections": 1}, [1], [0], id="only the best"),
        pytest.param([[0.25], [0.1], [0.2], [0.9]], {}, [0], [0], id="the threshold itself passes"),
        pytest.param([[0.1], [0.1], [0.1], [0.1]], {}, [], [], id="nothing above the threshold"),
    ],
)
def test_select(scores: list[list[float]], options: dict, queries: list[int], phrases: list[int]):
    chosen, phrase_ids = select(BOXES, torch.tensor(scores), **{**DEFAULTS, **options})
    assert (chosen.tolist(), phrase_ids.tolist()) == (queries, phrases)


def test_select_from_nothing():
    chosen, phrase_ids = select(torch.zeros(0, 4), torch.zeros(0, 3), **DEFAULTS, cross_phrase_nms=0.5)
    assert chosen.shape == phrase_ids.shape == (0,)

import numpy as np
import pytest

from grounded.data.detections import Detections
from tests.data import build_unchecked

BOXES = np.array([[0, 0, 9, 9], [1, 2, 3, 4], [5, 5, 8, 7]], np.float32)
SCORES = np.array([[0.9, 0.1], [0.2, 0.7], [0.5, 0.4]], np.float32)
IDS = np.array([0, 1, 0])


@pytest.fixture
def detections() -> Detections:
    return Detections(BOXES, SCORES, IDS)


def test_score_is_that_of_the_own_phrase(detections: Detections):
    np.testing.assert_array_equal(detections.score, np.array([0.9, 0.7, 0.5], np.float32))


def test_scores_of_the_best_token(detections: Detections):
    """A phrase that has one score has it for its best token too."""
    np.testing.assert_array_equal(detections.best_token_scores, detections.score)
    given = Detections(BOXES, SCORES, IDS, np.array([0.95, 0.8, 0.6], np.float32))
    np.testing.assert_array_equal(given[[2, 0]].best_token_scores, np.array([0.6, 0.95], np.float32))
    joined = Detections.concatenate([given[:1], Detections.empty(2), detections[1:]])
    np.testing.assert_array_equal(joined.best_token_scores, np.array([0.95, 0.7, 0.5], np.float32))
    with pytest.raises(ValueError, match=r"best_token_scores must be \(3,\), got \(2,\)"):
        build_unchecked(Detections, BOXES, SCORES, IDS, np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        pytest.param(0, [0], id="int"),
        pytest.param(-1, [2], id="negative int"),
        pytest.param(np.int64(1), [1], id="numpy int"),
        pytest.param(slice(1, None), [1, 2], id="slice"),
        pytest.param([2, 0], [2, 0], id="list"),
        pytest.param([], [], id="empty list"),
        pytest.param(np.array([1, 1]), [1, 1], id="int array"),
        pytest.param(np.array([True, False, True]), [0, 2], id="bool array"),
        pytest.param([False, False, False], [], id="bool list, none"),
    ],
)
def test_indexing(detections: Detections, index: object, rows: list[int]):
    selected = detections[index]
    assert len(selected) == len(rows)
    np.testing.assert_array_equal(selected.boxes, BOXES[rows])
    np.testing.assert_array_equal(selected.scores, SCORES[rows])
    np.testing.assert_array_equal(selected.phrase_ids, IDS[rows])


@pytest.mark.parametrize("index", [3, -4, [5], np.array([True])], ids=repr)
def test_index_out_of_range(detections: Detections, index: object):
    with pytest.raises(IndexError):
        detections[index]


def test_iteration_gives_values_of_length_one(detections: Detections):
    assert [one.boxes.tolist() for one in detections] == [[box] for box in BOXES.tolist()]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_empty(count: int):
    empty = Detections.empty(count)
    assert (len(empty), empty.boxes.shape, empty.scores.shape) == (0, (0, 4), (0, count))
    assert empty.score.shape == (0,)
    assert len(empty[[]]) == 0


def test_concatenate(detections: Detections):
    joined = Detections.concatenate([detections[[2]], Detections.empty(2), detections[:2]])
    np.testing.assert_array_equal(joined.boxes, BOXES[[2, 0, 1]])
    np.testing.assert_array_equal(joined.phrase_ids, IDS[[2, 0, 1]])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param([], "got no part", id="none"),
        pytest.param(
            [Detections.empty(1), Detections.empty(2)],
            "with the same number of phrases, got 2 different ones",
            id="phrases",
        ),
    ],
)
def test_parts_that_cannot_be_joined(parts: list[Detections], message: str):
    with pytest.raises(ValueError, match=message):
        Detections.concatenate(parts)


@pytest.mark.parametrize(
    ("boxes", "scores", "ids", "message"),
    [
        pytest.param(BOXES[:, :3], SCORES, IDS, r"boxes must be \(3, 4\), got \(3, 3\)", id="boxes"),
        pytest.param(BOXES[:2], SCORES, IDS, r"boxes must be \(3, 4\), got \(2, 4\)", id="too few boxes"),
        pytest.param(BOXES, SCORES[:, 0], IDS, r"scores must be \(n, p\), got \(3,\)", id="scores"),
        pytest.param(BOXES, SCORES, IDS[:1], r"phrase_ids must be \(3,\), got \(1,\)", id="too few ids"),
        pytest.param(BOXES, SCORES, IDS + 1, r"phrase_ids must lie in \[0, 2\), got 1 to 2", id="ids out of range"),
        pytest.param(BOXES, SCORES, IDS - 1, r"phrase_ids must lie in \[0, 2\), got -1 to 0", id="negative ids"),
    ],
)
def test_wrong_shapes(boxes: np.ndarray, scores: np.ndarray, ids: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        build_unchecked(Detections, boxes, scores, ids)

"""One-to-one matching: exact counts by hand, and the maximum that SciPy finds from scratch."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from grounded.evaluation.boundaries.matching import BoundaryMatcher


def pixels(*places: tuple[int, int], size: tuple[int, int] = (8, 8)) -> np.ndarray:
    found = np.zeros(size, bool)
    for place in places:
        found[place] = True
    return found


@pytest.mark.parametrize(
    ("true", "predicted", "distance", "expected"),
    [
        pytest.param([], [(1, 1)], 2.0, 0, id="nothing is true"),
        pytest.param([(1, 1)], [], 2.0, 0, id="nothing is predicted"),
        pytest.param([(1, 1)], [(1, 1)], 0.5, 1, id="the same pixel"),
        pytest.param([(1, 1)], [(1, 2)], 0.5, 0, id="the next pixel is too far"),
        pytest.param([(1, 1)], [(1, 3)], 2.0, 1, id="at the greatest distance"),
        pytest.param([(1, 1)], [(2, 3)], 2.0, 0, id="just beyond it"),
        pytest.param([(1, 1)], [(1, 0), (1, 2)], 1.0, 1, id="one to one: a double edge counts once"),
        pytest.param([(0, 1), (0, 3)], [(0, 2), (0, 4)], 1.0, 2, id="the near pixel is given to the other"),
        pytest.param([(0, 0), (7, 7)], [(0, 7), (7, 0)], 1.0, 0, id="borders do not wrap"),
        pytest.param([(0, 7)], [(1, 0)], 1.5, 0, id="rows do not run on"),
    ],
)
def test_counts(true: list, predicted: list, distance: float, expected: int):
    matcher = BoundaryMatcher(pixels(*true), distance)
    matcher.update(pixels(*predicted))
    assert matcher.size == matcher.matched.sum() == expected
    assert not (matcher.matched & ~pixels(*predicted)).any()


def pairs_within(true: np.ndarray, predicted: np.ndarray, distance: float) -> np.ndarray:
    a, b = np.argwhere(true), np.argwhere(predicted)
    return np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)) if len(a) and len(b) else np.zeros((len(a), len(b)))


def test_changing_maps_stay_maximum():
    random = np.random.default_rng(3)
    true = random.random((30, 40)) < 0.08
    matcher = BoundaryMatcher(true, 2.3)
    for density in (0.02, 0.2, 0.01, 0.1, 0.0, 0.3, 0.05):
        predicted = random.random(true.shape) < density
        matcher.update(predicted)
        graph = csr_matrix((pairs_within(true, predicted, 2.3) <= 2.3) * predicted.any())
        expected = (maximum_bipartite_matching(graph, "column") >= 0).sum() if graph.nnz else 0
        assert matcher.size == expected


def test_the_size_is_that_of_the_assignment_of_least_cost():
    """In the benchmark of Berkeley an unmatched pixel costs a hundred times the greatest distance."""
    random = np.random.default_rng(4)
    for _ in range(20):
        true, predicted = random.random((2, 12, 12)) < 0.15
        distances = pairs_within(true, predicted, 2.0)
        costs = np.where(distances <= 2.0, distances, 200.0)
        rows, columns = linear_sum_assignment(costs)
        matcher = BoundaryMatcher(true, 2.0)
        matcher.update(predicted)
        assert matcher.size == (costs[rows, columns] < 200).sum()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"predicted must be \(8, 8\) as the annotation, got \(8, 9\)"):
        BoundaryMatcher(pixels(), 1.0).update(np.zeros((8, 9), bool))

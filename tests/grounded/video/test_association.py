"""Which instance is which track."""

import numpy as np
import pytest

from grounded.video.association import associate, distinct_tracks
from segany.utils.rle import RLE, encode_rle

SIZE = 20, 40


def bar(left: int, right: int) -> RLE:
    """A mask of full height between two columns; none if they are equal."""
    mask = np.zeros((1, *SIZE), bool)
    mask[:, :, left:right] = True
    return encode_rle(mask)[0]


def run(instances, tracks, phrases=None, track_phrases=None, cosines=None):
    found = associate(
        [bar(*columns) for columns in instances],
        np.array(phrases or [0] * len(instances), np.int64),
        [bar(*columns) for columns in tracks],
        np.array(track_phrases or [0] * len(tracks), np.int64),
        None if cosines is None else np.array(cosines, np.float64),
        iou_threshold=0.5,
        cosine_threshold=0.8,
    )
    return found.track.tolist(), found.seen.tolist()


@pytest.mark.parametrize(
    ("case", "track", "seen"),
    [
        pytest.param({"instances": [], "tracks": [(0, 5)]}, [], [], id="nothing detected"),
        pytest.param({"instances": [(0, 5)], "tracks": []}, [-1], [False], id="no tracks"),
        pytest.param({"instances": [(0, 10)], "tracks": [(20, 30), (1, 10)]}, [1], [True], id="overlap"),
        pytest.param({"instances": [(0, 10)], "tracks": [(7, 17)]}, [-1], [False], id="too little overlap"),
        pytest.param(
            {"instances": [(0, 10)], "tracks": [(0, 10)], "phrases": [0], "track_phrases": [1]},
            [-1],
            [False],
            id="another phrase",
        ),
        # The first instance overlaps both tracks, the second the first track alone.
        pytest.param(
            {"instances": [(2, 12), (0, 10)], "tracks": [(1, 11), (4, 14)]},
            [1, 0],
            [True, True],
            id="told apart together",
        ),
        pytest.param({"instances": [(0, 10)], "tracks": [(5, 5)], "cosines": [[0.9]]}, [0], [False], id="found again"),
        pytest.param({"instances": [(0, 10)], "tracks": [(5, 5)], "cosines": [[0.7]]}, [-1], [False], id="looks other"),
        pytest.param(
            {"instances": [(0, 10)], "tracks": [(20, 30)], "cosines": [[0.99]]}, [-1], [False], id="in sight elsewhere"
        ),
        pytest.param(
            {"instances": [(0, 10), (20, 30)], "tracks": [(5, 5)], "cosines": [[0.85], [0.95]]},
            [-1, 0],
            [False, False],
            id="the more alike",
        ),
        pytest.param(
            {"instances": [(0, 10)], "tracks": [(0, 10), (5, 5)], "cosines": [[0.1, 0.99]]},
            [0],
            [True],
            id="overlap before likeness",
        ),
    ],
)
def test_associate(case, track, seen):
    assert run(**case) == (track, seen)


@pytest.mark.parametrize(
    ("tracks", "phrases", "ids", "stays"),
    [
        pytest.param([], [], [], [], id="none"),
        pytest.param([(0, 10), (0, 10)], [0, 0], [3, 5], [True, False], id="the older stays"),
        pytest.param([(0, 10), (0, 10)], [0, 0], [5, 3], [False, True], id="whatever the order"),
        pytest.param([(0, 10), (0, 10)], [0, 1], [1, 2], [True, True], id="two phrases"),
        pytest.param([(0, 10), (5, 15)], [0, 0], [1, 2], [True, True], id="apart"),
        pytest.param([(0, 10), (0, 11), (0, 10)], [0, 0, 0], [1, 2, 3], [True, False, False], id="three"),
    ],
)
def test_distinct_tracks(tracks, phrases, ids, stays):
    rles = [bar(*columns) for columns in tracks]
    found = distinct_tracks(rles, np.array(phrases, np.int64), np.array(ids, np.int64), 0.8)
    assert found.tolist() == stays

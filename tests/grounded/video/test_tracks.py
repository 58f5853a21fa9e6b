import json

import numpy as np
import pytest

from grounded.errors import ResultError
from grounded.video.tracks import TrackedFrame
from segany.utils.rle import decode_rle
from tests.grounded.video.clips import square, tracked

BAND = np.zeros((48, 64), bool)
BAND[10:20] = True
NOTHING = BAND & False


@pytest.mark.parametrize("masks", [{}, {3: square(0)}, {2: square(1), 1: BAND, 7: NOTHING}], ids=len)
def test_reads_back_from_json(masks: dict[int, np.ndarray]):
    frame = tracked(5, masks, 0.2, is_key_frame=True)
    read = TrackedFrame.from_dict(json.loads(json.dumps(frame.to_dict())))
    assert (read.number, read.seconds, read.is_key_frame) == (5, 0.2, True)
    assert read.track_ids.tolist() == list(masks) and read.instances.rles == frame.instances.rles


@pytest.mark.parametrize("ids", [[1], [1, 1], [1, 2, 3]])
def test_ids_that_do_not_fit(ids: list[int]):
    frame = tracked(0, {1: BAND, 2: square(0)})
    with pytest.raises(ValueError, match="track_ids must be 2 different ids"):
        TrackedFrame(number=0, seconds=0.0, instances=frame.instances, track_ids=np.array(ids))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frame", None),
        ("frame", "x"),
        ("frame", -1),
        ("frame", 1.5),
        ("seconds", "x"),
        ("seconds", float("nan")),
        ("track_id", None),
        ("track_id", "x"),
        ("track_id", 0),
        ("track_id", 2**70),
        ("track_id", 1e400),
    ],
)
def test_damaged_records(key: str, value: object):
    data = tracked(0, {1: BAND}).to_dict()
    section = data["instances"][0] if key == "track_id" else data["image"]
    section[key] = value
    with pytest.raises(ResultError):
        TrackedFrame.from_dict(data)
    del section[key]
    with pytest.raises(ResultError, match=f"must hold the key '{key}'"):
        TrackedFrame.from_dict(data)


def test_selection():
    frame = tracked(0, {2: square(0), 1: BAND, 7: NOTHING})
    assert frame.in_sight.track_ids.tolist() == [2, 1]
    assert frame[[1]].track_ids.tolist() == [1] and len(frame[[]]) == 0
    assert frame.names == ["a cat 2", "a dog 1", "a dog 7"]


def test_smaller_masks_lie_above_larger_ones():
    frame = tracked(0, {2: square(0), 1: BAND, 7: NOTHING})
    ids = frame.id_map()
    assert (ids[square(0)] == 2).all() and (ids[BAND & ~square(0)] == 1).all()
    assert sorted(np.unique(ids).tolist()) == [0, 1, 2]
    disjoint = decode_rle(frame.disjoint_rles()).numpy()
    np.testing.assert_array_equal(disjoint, np.stack([square(0), BAND & ~square(0), NOTHING]))
    apart = tracked(0, {1: square(0), 2: square(15)})
    assert apart.disjoint_rles() == apart.instances.rles
    assert tracked(0, {}).disjoint_rles() == () and not tracked(0, {}).id_map().any()

import sys

import numpy as np
import pytest

from grounded.errors import ConfigError
from grounded.evaluation.video.frames import FrameComparison
from grounded.evaluation.video.tracks import count_returns, join_tracks, measure_clip_tracks
from tests.grounded.evaluation.video.made import compared

pytest.importorskip("trackeval")

LEFT, NONE = {1: "left"}, {}
BOTH, SWAPPED = {1: "left", 2: "right"}, {2: "left", 1: "right"}
HALF_ROOT = 0.5**0.5


# HOTA is sqrt(DetA * AssA) at each threshold, and AssA the mean over matches of the share of both tracks that they are
# (Luiten et al., 2020, equations 4 to 10); all masks here are right or have nothing in common.
@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        pytest.param([BOTH] * 4, [BOTH] * 4, {"hota": 1, "deta": 1, "assa": 1, "idf1": 1, "mota": 1}, id="perfect"),
        pytest.param([BOTH] * 4, [SWAPPED] * 4, {"hota": 1, "idf1": 1, "switches": 0}, id="other ids, and kept"),
        # Each match of 4 frames shares 2 of the 6 frames that its two tracks have: AssA 1/3. Two switches in 8 objects.
        pytest.param(
            [BOTH] * 4,
            [BOTH, BOTH, SWAPPED, SWAPPED],
            {"deta": 1, "assa": 1 / 3, "hota": 3**-0.5, "idf1": 0.5, "mota": 0.75, "switches": 2},
            id="swapped ids",
        ),
        pytest.param(
            [LEFT] * 4,
            [LEFT, LEFT, NONE, NONE],
            {"deta": 0.5, "assa": 0.5, "hota": 0.5, "idf1": 2 / 3, "mota": 0.5, "switches": 0},
            id="missed half",
        ),
        pytest.param(
            [LEFT] * 4,
            [LEFT, LEFT, {2: "left"}, {2: "left"}],
            {"deta": 1, "assa": 0.5, "hota": HALF_ROOT, "idf1": 0.5, "mota": 0.75, "switches": 1},
            id="split track",
        ),
        # IoU 0.5 is a match at 10 of the 19 thresholds.
        pytest.param(
            [LEFT] * 2, [{1: "half left"}] * 2, {"hota": 10 / 19, "loca": (10 * 0.5 + 9) / 19, "idf1": 1}, id="half"
        ),
        pytest.param(
            [LEFT] * 2, [NONE] * 2, {"hota": 0, "idf1": 0, "mota": 0, "loca": None, "objects": 1}, id="empty prediction"
        ),
        pytest.param([NONE] * 2, [LEFT] * 2, {"hota": 0, "idf1": 0, "mota": None, "objects": 0}, id="empty truth"),
        pytest.param([NONE] * 2, [NONE] * 2, {"hota": None, "idf1": None, "mota": None}, id="both empty"),
    ],
)
def test_tracks_of_a_clip(truth: list, prediction: list, expected: dict):
    measured = join_tracks([measure_clip_tracks(compared(truth, prediction))])
    assert {name: getattr(measured, name) for name in expected} == pytest.approx(expected)


def test_clips_together():
    one, other = compared([LEFT] * 6, [LEFT] * 6), compared([LEFT] * 2, [NONE] * 2)
    measured = join_tracks([measure_clip_tracks(one), measure_clip_tracks(other)])
    assert measured.deta == pytest.approx(0.75) and measured.assa == pytest.approx(1), "matches are added up"
    assert measured.objects == 2 and measured.switches_per_object == 0


def test_measures_as_motmetrics_has_them():
    """IDF1, MOTA and switches of motmetrics 1.4.0, another implementation: four objects whose tracks are shuffled."""
    generator, frames, order = np.random.default_rng(7), [], np.arange(4)
    for number in range(40):
        if generator.random() < 0.1:
            generator.shuffle(order)
        seen, found = np.flatnonzero(generator.random(4) < 0.8), np.flatnonzero(generator.random(5) < 0.8)
        iou = generator.uniform(0, 0.45, (4, 5))
        iou[np.arange(4), order] = generator.uniform(0.45, 0.95, 4)
        truths, tracks = tuple(seen.tolist()), tuple(found.tolist())
        frames.append(FrameComparison(number, truths, tracks, tracks, iou[np.ix_(seen, found)], None))
    measured = join_tracks([measure_clip_tracks(frames)])
    expected = (0.463768115942029, 0.15322580645161288, 3.0)
    assert (measured.idf1, measured.mota, measured.switches) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        pytest.param([LEFT] * 9, [LEFT] * 9, (0, 0), id="never left"),
        pytest.param([LEFT, *[NONE] * 3, LEFT], [LEFT] * 5, (0, 0), id="3 frames are not away"),
        pytest.param([LEFT, *[NONE] * 4, LEFT], [LEFT, *[NONE] * 4, LEFT], (1, 1), id="found at once"),
        pytest.param([LEFT, *[NONE] * 4, LEFT], [LEFT, *[NONE] * 4, {2: "left"}], (1, 0), id="under another id"),
        pytest.param([LEFT, *[NONE] * 4, LEFT], [LEFT, *[NONE] * 5], (1, 0), id="not found"),
        pytest.param([LEFT, *[NONE] * 4, LEFT], [*[NONE] * 5, LEFT], (1, 0), id="no track before"),
        pytest.param(
            [LEFT, *[NONE] * 4, *[LEFT] * 9], [LEFT, *[NONE] * 11, LEFT, NONE], (1, 1), id="in the eighth frame"
        ),
        pytest.param([LEFT, *[NONE] * 4, *[LEFT] * 9], [LEFT, *[NONE] * 12, LEFT], (1, 0), id="in the ninth frame"),
        pytest.param([LEFT, LEFT, *[NONE] * 4, LEFT], [LEFT, *[NONE] * 5, LEFT], (1, 1), id="track lost before"),
        pytest.param([*[NONE] * 5, LEFT], [*[NONE] * 5, LEFT], (0, 0), id="the first time"),
        pytest.param([LEFT, *[NONE] * 5], [LEFT, *[NONE] * 5], (0, 0), id="never back"),
        pytest.param(
            [LEFT, *[NONE] * 4, LEFT, *[NONE] * 4, LEFT], [LEFT, *[NONE] * 4, LEFT, *[NONE] * 5], (2, 1), id="twice"
        ),
    ],
)
def test_returns(truth: list, prediction: list, expected: tuple[int, int]):
    assert count_returns(compared(truth, prediction)) == expected


def test_without_trackeval(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "trackeval", None)
    with pytest.raises(ConfigError, match=r"pip install 'grounded-segany\[tracking\]'; J and F do not"):
        measure_clip_tracks(compared([LEFT], [LEFT]))

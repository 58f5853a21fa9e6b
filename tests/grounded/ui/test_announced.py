import pytest

from grounded.ui.announced import Announced
from grounded.ui.deadline import TimeLimitError


def test_stages_are_told_before_they_run_and_go_forward():
    told: list[tuple[float, str]] = []
    watch = Announced(60.0, lambda share, words: told.append((share, words)))
    for name in ("detect", "encode", "score", "a new one"):
        with watch.stage(name):
            assert len(told) == len(watch.seconds) + 1
    assert [words for _, words in told] == [
        "looking for boxes",
        "encoding the picture",
        "comparing with the phrases",
        "a new one",
    ]
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1
    assert list(watch.seconds) == ["detect", "encode", "score", "a new one"]


def test_no_stage_runs_after_the_end():
    watch = Announced(0.0, lambda share, words: None)
    with pytest.raises(TimeLimitError, match="the time limit of 0 s"), watch.stage("detect"):
        raise AssertionError("it must not begin")

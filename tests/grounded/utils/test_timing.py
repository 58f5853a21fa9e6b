import re
import time

import pytest

from grounded.utils.timing import Stopwatch


def test_stages_add_up():
    watch = Stopwatch()
    for name in ("a", "b", "a"):
        with watch.stage(name):
            time.sleep(0.002)
    assert list(watch.seconds) == ["a", "b"]
    assert watch.seconds["a"] >= 0.004 > 0.002 <= watch.seconds["b"]
    assert re.fullmatch(r"a \d+\.\d{3} s, b \d+\.\d{3} s", str(watch))


def test_a_stage_that_raises_is_counted():
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.stage("a"):
        1 / 0  # noqa: B018
    assert watch.seconds["a"] > 0


def test_synchronises_at_both_ends():
    calls: list[str] = []
    with Stopwatch(lambda: calls.append("synchronised")).stage("a"):
        calls.append("body")
    assert calls == ["synchronised", "body", "synchronised"]

import re
import time
from collections.abc import Callable

import pytest
import torch

from grounded.utils.timing import Stopwatch


def test_stages_add_up():
    stopwatch = Stopwatch()
    for name in ("a", "b", "a"):
        with stopwatch.stage(name):
            time.sleep(0.002)
    assert list(stopwatch.seconds) == ["a", "b"]
    assert stopwatch.seconds["a"] >= 0.004 > 0.002 <= stopwatch.seconds["b"]
    assert re.fullmatch(r"a \d+\.\d{3} s, b \d+\.\d{3} s", str(stopwatch))


def test_a_stage_that_raises_is_counted():
    stopwatch = Stopwatch()
    with pytest.raises(ZeroDivisionError), stopwatch.stage("a"):
        1 / 0  # noqa: B018
    assert stopwatch.seconds["a"] > 0


def test_synchronises_at_both_ends():
    calls: list[str] = []
    with Stopwatch(lambda: calls.append("synchronised")).stage("a"):
        calls.append("body")
    assert calls == ["synchronised", "body", "synchronised"]


def test_for_device_waits_for_a_gpu_that_is_in_use(monkeypatch: pytest.MonkeyPatch):
    class Limited(Stopwatch):
        def __init__(self, seconds: float, synchronize: Callable[[], None] | None = None) -> None:
            super().__init__(synchronize)
            self.limit = seconds

    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("synchronised"))
    for in_use in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda in_use=in_use: in_use)
        with Stopwatch.for_device().stage("a"):
            pass
        limited = Limited.for_device(seconds=3.0)
        assert (type(limited), limited.limit, len(calls)) == (Limited, 3.0, 2 * in_use)

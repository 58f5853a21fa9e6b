import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing

import pytest

from grounded.errors import GroundedError
from grounded.ui.progress import (
    Deadline,
    ProgressBar,
    ReportProgress,
    StageProgress,
    TimeLimitError,
    message_html,
    run_with_progress,
)


def test_no_stage_begins_after_the_end():
    stopwatch = Deadline(0.3)
    with stopwatch.stage("first"):
        time.sleep(0.4)  # one that has begun is let finish
    with pytest.raises(TimeLimitError, match=r"the time limit of 0\.3 s is reached"), stopwatch.stage("second"):
        pytest.fail("the stage has begun")
    assert list(stopwatch.seconds) == ["first"]


def test_splits_end_together_and_count_apart():
    stopwatch = Deadline(60.0)
    with stopwatch.stage("first"):
        pass
    split = stopwatch.split()
    assert split.seconds == {}
    with split.stage("second"):
        pass
    assert list(stopwatch.seconds) == ["first"] and list(split.seconds) == ["second"]
    with pytest.raises(TimeLimitError):
        Deadline(0.0).split().check()


def test_the_error_is_of_both_kinds():
    assert issubclass(TimeLimitError, GroundedError) and issubclass(TimeLimitError, TimeoutError)


def test_stages_are_reported_before_they_run_and_go_forward():
    reports: list[tuple[float, str]] = []
    stopwatch = StageProgress(60.0, lambda share, words: reports.append((share, words)))
    for name in ("detect", "encode", "score", "a new one"):
        with stopwatch.stage(name):
            assert len(reports) == len(stopwatch.seconds) + 1
    assert [words for _, words in reports] == [
        "looking for boxes",
        "encoding the image",
        "comparing with the phrases",
        "a new one",
    ]
    shares = [share for share, _ in reports]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1
    assert list(stopwatch.seconds) == ["detect", "encode", "score", "a new one"]


def test_no_stage_runs_after_the_end():
    stopwatch = StageProgress(0.0, lambda share, words: None)
    with pytest.raises(TimeLimitError, match="the time limit of 0 s"), stopwatch.stage("detect"):
        raise AssertionError("it must not begin")


def counting(report: ReportProgress) -> str:
    report(1, 2)
    report(2, 2)
    return "result"


def drained(generator: Generator[tuple[int, int], None, str]) -> tuple[list[tuple[int, int]], str]:
    reports = []
    while True:
        try:
            reports.append(next(generator))
        except StopIteration as end:
            return reports, end.value


@pytest.mark.parametrize(
    "call, reports",
    [pytest.param(counting, [(1, 2), (2, 2)], id="reports"), pytest.param(lambda report: "result", [], id="silent")],
)
def test_steps_are_what_the_call_reports_and_end_with_what_it_returns(
    call: Callable[[ReportProgress], str], reports: list[tuple[int, int]]
):
    assert drained(run_with_progress(call)) == (reports, "result")


def test_an_error_of_the_call_comes_out():
    def failing(report: ReportProgress) -> str:
        report(1, 2)
        raise KeyError("lost")

    search = run_with_progress(failing)
    assert next(search) == (1, 2)
    with pytest.raises(KeyError, match="lost"):
        next(search)


def test_closing_ends_the_call_at_its_next_report_and_does_not_wait_for_it():
    go_on, ended = threading.Event(), threading.Event()
    reached: list[str] = []

    def patient(report: ReportProgress) -> str:
        try:
            report(1, 3)
            go_on.wait(10)
            report(2, 3)
            reached.append("after the second report")
        finally:
            ended.set()
        return "result"

    start = time.monotonic()
    with closing(run_with_progress(patient)) as search:
        assert next(search) == (1, 3)
    assert time.monotonic() - start < 5
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(5)
    assert reached == []


@pytest.mark.parametrize(
    "done, total, seconds, text, share",
    [
        pytest.param(0, 5, 1.0, "0 of 5 points", "0.0%", id="nothing yet"),
        pytest.param(2, 8, 4.0, "2 of 8 points, 0.5 per second, about 12 s left", "25.0%", id="slow"),
        pytest.param(64, 256, 1.0, "64 of 256 points, 64 per second, about 3 s left", "25.0%", id="fast"),
        pytest.param(1, 11, 30.0, "1 of 11 points, 0.0 per second, about 5 min left", "9.1%", id="minutes"),
        pytest.param(0, 0, 1.0, "0 of 0 points", "0.0%", id="none at all"),
    ],
)
def test_a_line_tells_the_rate_and_what_is_left(done: int, total: int, seconds: float, text: str, share: str):
    line = ProgressBar("points", time.monotonic() - seconds).at(done, total)
    assert re.sub("<[^>]+>", "", line) == text
    assert f"width: {share}" in line
    assert f'role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuenow="{done}"' in line


def test_a_waiting_line_has_a_bar_without_a_value():
    line = ProgressBar("points").waiting("Encoding")
    assert "Encoding" in line and 'role="progressbar"' in line and "valuenow" not in line


def test_no_words_are_no_line():
    assert message_html("") == ""
    assert message_html("Cancelled.") == '<p role="status" style="margin: 0">Cancelled.</p>'

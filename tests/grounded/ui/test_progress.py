import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing

import pytest

from grounded.ui.progress import Line, Report, steps, words


def counting(report: Report) -> str:
    report(1, 2)
    report(2, 2)
    return "answer"


def drained(generator: Generator[tuple[int, int], None, str]) -> tuple[list[tuple[int, int]], str]:
    told = []
    while True:
        try:
            told.append(next(generator))
        except StopIteration as end:
            return told, end.value


@pytest.mark.parametrize(
    "call, told",
    [pytest.param(counting, [(1, 2), (2, 2)], id="reports"), pytest.param(lambda report: "answer", [], id="silent")],
)
def test_steps_are_what_the_call_reports_and_end_with_what_it_returns(
    call: Callable[[Report], str], told: list[tuple[int, int]]
):
    assert drained(steps(call)) == (told, "answer")


def test_an_error_of_the_call_comes_out():
    def failing(report: Report) -> str:
        report(1, 2)
        raise KeyError("lost")

    search = steps(failing)
    assert next(search) == (1, 2)
    with pytest.raises(KeyError, match="lost"):
        next(search)


def test_closing_ends_the_call_at_its_next_report_and_does_not_wait_for_it():
    go_on, ended = threading.Event(), threading.Event()
    reached: list[str] = []

    def patient(report: Report) -> str:
        try:
            report(1, 3)
            go_on.wait(10)
            report(2, 3)
            reached.append("after the second report")
        finally:
            ended.set()
        return "answer"

    start = time.monotonic()
    with closing(steps(patient)) as search:
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
    line = Line("points", time.monotonic() - seconds).at(done, total)
    assert re.sub("<[^>]+>", "", line) == text
    assert f"width: {share}" in line
    assert f'role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuenow="{done}"' in line


def test_a_waiting_line_has_a_bar_without_a_value():
    line = Line("points").waiting("Encoding")
    assert "Encoding" in line and 'role="progressbar"' in line and "valuenow" not in line


def test_no_words_are_no_line():
    assert words("") == ""
    assert words("Cancelled.") == '<p role="status" style="margin: 0">Cancelled.</p>'

import io
import threading
import time

import pytest

from grounded.labelling.progress import NoProgress, ProgressBar, ProgressLines, RunCounter, RunSummary, open_progress
from grounded.labelling.store import Failure, FinishedClip
from tests.grounded.labelling.standin import PHRASES, record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def counter(images: int = 3, failures: int = 1) -> RunCounter:
    counted = RunCounter(PHRASES)
    for number in range(images):
        counted.add(record(f"{number}.png"))
    for number in range(failures):
        counted.add(Failure(file=f"x{number}.png", reason=""))
    return counted


def test_a_counter():
    counted = counter()
    assert (counted.images, counted.failures, counted.done, counted.instances) == (3, 1, 4, 3)
    summary = counted.summary(skipped=7, interrupted=True)
    assert summary.instances == {"bright": 3, "dark": 0}
    assert (summary.skipped, summary.interrupted) == (7, True)
    assert summary.seconds > 0 and summary.rate == pytest.approx(4 / summary.seconds)


@pytest.mark.parametrize(
    ("summary", "lines"),
    [
        (RunSummary(), ["0 images labelled, 0 failures, in 0.0 s, 0.00 images/s", "0 instances"]),
        (
            RunSummary(images=1, failures=2, skipped=3, instances={"a": 1, "b": 20}, seconds=100.0),
            [
                "1 image labelled, 3 labelled before, 2 failures, in 1 min 40 s, 0.03 images/s",
                "21 instances",
                "        20  b",
                "         1  a",
            ],
        ),
        (
            RunSummary(
                images=5,
                seconds=1.0,
                frames=4,
                clips=tuple(
                    FinishedClip(file=f"{number}.mp4", frames=1, config="1", tracks={"a": 2} if not number else {})
                    for number in range(7)
                ),
            ),
            [
                "1 image and 4 frames of clips labelled, 0 failures, in 1.0 s, 5.00 images/s",
                "0 instances",
                "7 clips finished, 2 tracks",
                "nothing was seen in 1.mp4, 2.mp4, 3.mp4, 4.mp4, 5.mp4 and 1 more",
            ],
        ),
        (
            RunSummary(images=8000, seconds=7620.0, interrupted=True),
            ["interrupted: 8000 images labelled, 0 failures, in 2 h 07 min, 1.05 images/s", "0 instances"],
        ),
    ],
    ids=["nothing", "some", "clips", "interrupted"],
)
def test_summaries(summary: RunSummary, lines: list[str]):
    assert str(summary).splitlines() == lines


def test_a_long_vocabulary_is_cut_short():
    lines = str(RunSummary(instances={str(number): 1000 - number for number in range(100)})).splitlines()
    assert len(lines) == 23
    assert lines[2] == "      1000  0" and lines[-1].endswith("80 other phrases")


def test_lines_come_now_and_then():
    stream = io.StringIO()
    lines = ProgressLines(stream, every=0.5)
    lines.start(10, lambda: 100)
    counted = counter()
    lines.update(counted)
    assert stream.getvalue() == ""
    time.sleep(0.6)
    lines.update(counted)
    lines.update(counted)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("14 of 100 images, ")
    assert " images/s, " in stream.getvalue() and stream.getvalue().endswith(" left, 3 instances, 1 failure\n")
    lines.close(counted)
    assert stream.getvalue().count("\n") == 2


def failing() -> int:
    raise OSError("gone")


@pytest.mark.parametrize("count", [lambda: None, failing], ids=["unknown", "failing"])
def test_without_a_total(count: object):
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.start(0, count)
    time.sleep(0.01)
    lines.close(counter())
    assert stream.getvalue().startswith("4 images, ") and " left" not in stream.getvalue()


def test_counting_does_not_delay_the_run():
    stream = io.StringIO()
    lines = ProgressLines(stream)
    ended = threading.Event()
    lines.start(0, lambda: 5 if ended.wait(30) else 6)
    lines.close(counter())
    ended.set()
    assert stream.getvalue().startswith("4 images, ")


def test_a_bar():
    stream = Terminal()
    bar = open_progress(stream)
    assert isinstance(bar, ProgressBar)
    bar.start(10, lambda: 100)
    time.sleep(0.05)
    counted = RunCounter(PHRASES)
    for number in range(3):
        counted.add(record(f"{number}.png"))
        bar.update(counted)
    bar.close(counted)
    last = stream.getvalue().split("\r")[-1]
    assert "13/100" in last and "instances=3" in last and "failures=0" in last and "image" in last


def test_lines_where_there_is_no_terminal():
    assert isinstance(open_progress(io.StringIO()), ProgressLines)


def test_no_progress():
    silent = NoProgress()
    silent.start(0, failing)
    silent.update(counter())
    silent.close(counter())
    assert str(counter().summary()).startswith("3 images")

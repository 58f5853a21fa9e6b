import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grounded.errors import OutputError, ResultError
from grounded.labelling.review import log
from grounded.labelling.review.log import Review, read_reviews
from segany.utils.rle import RLE, rle_area
from tests.data import ROOT
from tests.fuzzing import FUZZ_COUNTS, fuzz
from tests.grounded.failures import unprivileged
from tests.grounded.labelling.reviewed import NEW, make_review


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"action": "praise", "instance": 0}, "'praise'", id="action"),
        pytest.param({"action": "reject"}, "either an instance or an id", id="of nothing"),
        pytest.param({"action": "accept", "instance": 0, "id": "x"}, "either an instance or an id", id="of both"),
        pytest.param({"action": "accept", "instance": -1}, "must be a row", id="negative row"),
        pytest.param({"action": "relabel", "instance": 0}, "must have a phrase", id="no phrase"),
        pytest.param({"action": "redraw", "instance": 0}, "must have a mask", id="no mask"),
        pytest.param({"action": "add", "id": "x", "phrase": "cat"}, "must have a mask", id="nothing to add"),
        pytest.param(
            {"action": "add", "instance": 0, "phrase": "cat", "mask": dict(NEW)}, "must have an id", id="add to a row"
        ),
        pytest.param({"action": "accept", "instance": 0, "mood": "good"}, "mood", id="unknown key"),
        pytest.param({"action": "redraw", "instance": 0, "mask": 3}, "not a review", id="mask of another form"),
        pytest.param(
            {"action": "accept", "instance": 0, "seconds": -1.0}, "seconds must be from 0", id="less than no time"
        ),
        pytest.param({"action": "accept", "instance": 0, "clicks": 1.5}, "clicks must be a number", id="half a click"),
    ],
)
def test_wrong_reviews(values: dict[str, Any], message: str):
    with pytest.raises(ResultError, match=message):
        Review.from_line(json.dumps({"file": "a.png", **values}))


def test_a_line_and_back():
    for review in (
        make_review("accept", 0),
        make_review("accept"),
        replace(make_review("reject", 1), seconds=2.25, clicks=0),
        make_review("add", "x", phrase="ein Hühnchen", mask=NEW, source="labelme"),
    ):
        line = review.to_line()
        assert line.count(b"\n") == 1 and line.endswith(b"\n")
        assert Review.from_line(line) == review


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        pytest.param(b"", 0, id="empty file"),
        pytest.param(make_review("accept", 0).to_line(), 1, id="whole"),
        pytest.param(make_review("accept", 0).to_line() + make_review("reject", 1).to_line()[:-9], 1, id="cut off"),
        pytest.param(make_review("accept", 0).to_line()[:3], 0, id="one line, cut off"),
        pytest.param(make_review("accept", 0).to_line()[:-1], 1, id="without a line end"),
    ],
)
def test_append_repairs_what_a_crash_left(left: bytes, kept: int, tmp_path: Path):
    (tmp_path / "reviews.jsonl").write_bytes(left)
    assert len(log.read_reviews(tmp_path)) == kept
    log.append_reviews(tmp_path, make_review("reject", 2), make_review("accept", 1))
    assert [(one.action, one.instance) for one in log.read_reviews(tmp_path)[kept:]] == [("reject", 2), ("accept", 1)]
    assert (tmp_path / "reviews.jsonl").read_bytes().count(b"\n") == kept + 2


def test_reading_goes_on_where_it_was_left(tmp_path: Path):
    assert log.read_reviews_from(tmp_path, 0) == ([], 0)
    log.append_reviews(tmp_path, make_review("accept", 0))
    first, offset = log.read_reviews_from(tmp_path, 0)
    log.append_reviews(tmp_path, make_review("reject", 1))
    second, end = log.read_reviews_from(tmp_path, offset)
    assert [one.action for one in (*first, *second)] == ["accept", "reject"]
    assert log.read_reviews_from(tmp_path, end) == ([], end)


def test_a_line_that_is_read_before_its_line_feed(tmp_path: Path):
    line = make_review("accept", 0).to_line()
    (tmp_path / "reviews.jsonl").write_bytes(line.rstrip())
    (first,), offset = log.read_reviews_from(tmp_path, 0)
    with (tmp_path / "reviews.jsonl").open("ab") as file:
        file.write(b"\n" + make_review("reject", 1).to_line())
    (second,), _ = log.read_reviews_from(tmp_path, offset)
    assert [first.action, second.action] == ["accept", "reject"]
    assert [one.action for one in log.read_reviews(tmp_path)] == ["accept", "reject"]


def test_a_damaged_line_is_told(tmp_path: Path):
    log.append_reviews(tmp_path, make_review("accept", 0))
    with (tmp_path / "reviews.jsonl").open("ab") as file:
        file.write(b"what?\n" + make_review("accept", 1).to_line())
    with pytest.raises(ResultError, match=r"reviews\.jsonl, byte \d+: not a review"):
        log.read_reviews(tmp_path)


def test_a_folder_that_may_not_be_written(tmp_path: Path):
    tmp_path.chmod(0o755)
    with unprivileged(), pytest.raises(OutputError, match=r"cannot write .*reviews\.jsonl"):
        log.append_reviews(tmp_path / "run", make_review("accept", 0))


def test_reviews_outlive_a_kill(tmp_path: Path):
    code = (
        "import sys; from grounded.labelling.review.log import Review, append_reviews\n"
        "for i in range(10**6):\n"
        "    append_reviews(sys.argv[1], Review(file='a.png', instance=i, action='accept'))\n"
        "    print(i, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            last = int(process.stdout.readline())
        process.kill()
        last = int(([*process.stdout.read().split()] or [last])[-1])
    found = log.read_reviews(tmp_path)
    assert [one.instance for one in found] == list(range(len(found))) and len(found) >= last + 1


@pytest.mark.slow
def test_two_processes_append(tmp_path: Path):
    code = (
        "import sys; from grounded.labelling.review.log import Review, append_reviews\n"
        "for i in range(30): append_reviews(sys.argv[1], Review(file=sys.argv[2], instance=i, action='accept'))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path, name], cwd=ROOT) for name in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    files = log.group_by_file(log.read_reviews(tmp_path))
    assert [[one.instance for one in files[name]] for name in ("a", "b")] == [list(range(30))] * 2


def test_times_are_in_order():
    first = make_review("accept", 0)
    time.sleep(0.002)
    assert first.time < make_review("accept", 0).time and first.time.endswith("+00:00")
    assert os.fspath(Path(log.REVIEWS)) == "reviews.jsonl"


def test_damaged_reviews_are_left_out_on_demand(tmp_path: Path):
    good, bad = Review(file="a.jpg", action="accept", instance=0), b'{"file":"a.jpg","action":"redraw","instance":0,'
    mask = b'"mask":{"size":[3,4],"counts":"51"}}\n'
    (tmp_path / "reviews.jsonl").write_bytes(good.to_line() + bad + mask + good.to_line())
    with pytest.raises(ResultError, match=r"reviews\.jsonl, byte .*: not a review: run lengths must add up"):
        read_reviews(tmp_path)
    damaged: list[str] = []
    assert read_reviews(tmp_path, damaged) == [good, good]
    assert len(damaged) == 1


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_damaged_lines(count: int):
    mask = RLE(size=[3, 4], counts="156")
    reviews = [
        Review(file="a.jpg", action="redraw", instance=0, mask=mask),
        Review(file="a.jpg", action="add", id="x", phrase="a dog", mask=mask),
    ]

    def read(content: bytes) -> None:
        review = Review.from_line(content)
        again = Review.from_line(review.to_line())
        assert (again.file, again.key, again.mask) == (review.file, review.key, review.mask)
        if review.mask is not None:
            assert rle_area([review.mask])[0] <= 2**32

    fuzz([review.to_line() for review in reviews], read, count)

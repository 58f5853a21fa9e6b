import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grounded.answers import from_masks
from grounded.errors import OutputError, ResultError
from grounded.labelling import reviews
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.reviews import Review
from grounded.labelling.store import Run, open_run
from segany.masks import RLE, encode_rle
from tests.data import ROOT, disk
from tests.grounded.failures import unprivileged

SIZE = (40, 60)


def mask(x: float, radius: float = 8) -> RLE:
    return encode_rle(disk(*SIZE, x, 20, radius)[None])[0]


def record(file: str = "a.png", phrases: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Record:
    rles = [mask(10 + 15 * i) for i in range(count)]
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    found = from_masks(phrases, SIZE, rles, np.arange(count) % len(phrases), scores, "detector")
    return Record(image=ImageInfo(file=file, width=SIZE[1], height=SIZE[0]), instances=found, config="abc")


def said(action: str, instance: int | str | None = None, file: str = "a.png", **values: Any) -> Review:
    key = {"id": instance} if isinstance(instance, str) else {"instance": instance}
    return Review(file=file, action=action, **key, **values)


NEW = mask(50, 5)


@pytest.mark.parametrize(
    ("made", "labels", "accepted"),
    [
        pytest.param([], ["cat", "dog", "cat"], [], id="nothing said"),
        pytest.param([said("accept", 1)], ["cat", "dog", "cat"], ["dog"], id="accept"),
        pytest.param([said("reject", 1)], ["cat", "cat"], [], id="reject"),
        pytest.param([said("reject", 1), said("accept", 1)], ["cat", "dog", "cat"], ["dog"], id="the later counts"),
        pytest.param([said("accept", 1), said("reject", 1)], ["cat", "cat"], [], id="the later counts, reject"),
        pytest.param([said("relabel", 0, phrase="dog")], ["dog", "dog", "cat"], ["dog"], id="relabel"),
        pytest.param([said("relabel", 0, phrase="a hen")], ["a hen", "dog", "cat"], ["a hen"], id="a new phrase"),
        pytest.param(
            [said("relabel", 0, phrase="hen"), said("accept", 0)],
            ["hen", "dog", "cat"],
            ["hen"],
            id="accept a new label",
        ),
        pytest.param(
            [said("relabel", 0, phrase="hen"), said("relabel", 0, phrase="dog")],
            ["dog", "dog", "cat"],
            ["dog"],
            id="relabel twice",
        ),
        pytest.param([said("add", "x", phrase="hen", mask=NEW)], ["cat", "dog", "cat", "hen"], ["hen"], id="add"),
        pytest.param(
            [said("add", "x", phrase="hen", mask=NEW), said("relabel", "x", phrase="dog")],
            ["cat", "dog", "cat", "dog"],
            ["dog"],
            id="relabel what was added",
        ),
        pytest.param(
            [said("add", "x", phrase="hen", mask=NEW), said("reject", "x")],
            ["cat", "dog", "cat"],
            [],
            id="reject added",
        ),
        pytest.param(
            [said("add", "x", phrase="hen", mask=NEW), said("undo", "x")], ["cat", "dog", "cat"], [], id="undo add"
        ),
        pytest.param([said("reject", 1), said("undo", 1)], ["cat", "dog", "cat"], [], id="undo"),
        pytest.param(
            [said("reject", 1), said("accept", 2), said("undo", 1)],
            ["cat", "dog", "cat"],
            ["cat"],
            id="undo an earlier one",
        ),
        pytest.param(
            [said("relabel", 0, phrase="hen"), said("reject", 0), said("undo", 0)],
            ["hen", "dog", "cat"],
            ["hen"],
            id="undo the last alone",
        ),
        pytest.param(
            [said("relabel", 0, phrase="hen"), said("reject", 0), said("undo", 0), said("undo", 0)],
            ["cat", "dog", "cat"],
            [],
            id="undo twice",
        ),
        pytest.param([said("undo", 0)], ["cat", "dog", "cat"], [], id="nothing to undo"),
        pytest.param([said("reject", 1, config="abc")], ["cat", "cat"], [], id="of this run"),
        pytest.param([said("reject", 9, config="old")], ["cat", "dog", "cat"], [], id="of a run before"),
        pytest.param([said("reject", 0, file="b.png")], ["cat", "dog", "cat"], [], id="another picture"),
    ],
)
def test_apply(made: list[Review], labels: list[str], accepted: list[str]):
    assert reviews.apply(record(), made).instances.labels.tolist() == labels
    assert reviews.apply(record(), made, accepted_only=True).instances.labels.tolist() == accepted


def test_a_redrawn_mask_has_its_own_box_and_no_old_scores():
    before = record()
    before = replace(before, instances=replace(before.instances, clip_scores=np.full(3, 0.5, np.float32)))
    after = reviews.apply(before, [said("redraw", 1, mask=NEW)])
    assert after.instances.rles == (before.instances.rles[0], NEW, before.instances.rles[2])
    assert after.instances.boxes[1].tolist() == [46, 16, 55, 25]
    assert np.isnan(after.instances.clip_scores).tolist() == [False, True, False]
    assert np.isnan(after.instances.predicted_iou).tolist() == [False, True, False]
    assert after.instances.scores.tolist() == before.instances.scores.tolist()
    assert (after.image, after.config) == (before.image, before.config)
    assert before.instances.rles[1] != NEW


def test_an_added_instance_has_no_scores():
    after = reviews.apply(record(count=0), [said("add", "x", phrase="Dog", mask=NEW)]).instances
    assert after.phrases == ("cat", "dog") and after.labels.tolist() == ["dog"]
    assert after.sources.tolist() == ["person"] and np.isnan(after.scores).all()
    assert after.boxes[0].tolist() == [46, 16, 55, 25]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        pytest.param(said("accept", 3), "of instance 3, the record has 3", id="no such row"),
        pytest.param(
            said("redraw", 0, mask=RLE(size=[4, 4], counts="0")), r"size \[4, 4\], the picture is \[40, 60\]", id="size"
        ),
    ],
)
def test_reviews_that_do_not_fit(made: Review, message: str):
    with pytest.raises(ResultError, match=message):
        reviews.apply(record(), [made])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"action": "praise", "instance": 0}, "'praise'", id="action"),
        pytest.param({"action": "accept"}, "either an instance or an id", id="of nothing"),
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
    ],
)
def test_wrong_reviews(values: dict[str, Any], message: str):
    with pytest.raises(ResultError, match=message):
        Review.from_line(json.dumps({"file": "a.png", **values}))


def test_a_line_and_back():
    for review in (said("accept", 0), said("add", "x", phrase="ein Hühnchen", mask=NEW, source="labelme")):
        line = review.to_line()
        assert line.count(b"\n") == 1 and line.endswith(b"\n")
        assert Review.from_line(line) == review


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        pytest.param(b"", 0, id="empty file"),
        pytest.param(said("accept", 0).to_line(), 1, id="whole"),
        pytest.param(said("accept", 0).to_line() + said("reject", 1).to_line()[:-9], 1, id="cut off"),
        pytest.param(said("accept", 0).to_line()[:3], 0, id="one line, cut off"),
        pytest.param(said("accept", 0).to_line()[:-1], 1, id="without a line end"),
    ],
)
def test_append_repairs_what_a_crash_left(left: bytes, kept: int, tmp_path: Path):
    (tmp_path / "reviews.jsonl").write_bytes(left)
    assert len(reviews.read(tmp_path)) == kept
    reviews.append(tmp_path, said("reject", 2), said("accept", 1))
    assert [(one.action, one.instance) for one in reviews.read(tmp_path)[kept:]] == [("reject", 2), ("accept", 1)]
    assert (tmp_path / "reviews.jsonl").read_bytes().count(b"\n") == kept + 2


def test_reading_goes_on_where_it_was_left(tmp_path: Path):
    assert reviews.read_from(tmp_path, 0) == ([], 0)
    reviews.append(tmp_path, said("accept", 0))
    first, offset = reviews.read_from(tmp_path, 0)
    reviews.append(tmp_path, said("reject", 1))
    second, end = reviews.read_from(tmp_path, offset)
    assert [one.action for one in (*first, *second)] == ["accept", "reject"]
    assert reviews.read_from(tmp_path, end) == ([], end)


def test_a_damaged_line_is_told(tmp_path: Path):
    reviews.append(tmp_path, said("accept", 0))
    with (tmp_path / "reviews.jsonl").open("ab") as file:
        file.write(b"what?\n" + said("accept", 1).to_line())
    with pytest.raises(ResultError, match=r"reviews\.jsonl, byte \d+: not a review"):
        reviews.read(tmp_path)


def test_a_folder_that_may_not_be_written(tmp_path: Path):
    tmp_path.chmod(0o755)
    with unprivileged(), pytest.raises(OutputError, match=r"cannot write .*reviews\.jsonl"):
        reviews.append(tmp_path / "run", said("accept", 0))


def test_reviews_outlive_a_kill(tmp_path: Path):
    code = (
        "import sys; from grounded.labelling.reviews import Review, append\n"
        "for i in range(10**6):\n"
        "    append(sys.argv[1], Review(file='a.png', instance=i, action='accept'))\n"
        "    print(i, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            last = int(process.stdout.readline())
        process.kill()
        last = int(([*process.stdout.read().split()] or [last])[-1])
    found = reviews.read(tmp_path)
    assert [one.instance for one in found] == list(range(len(found))) and len(found) >= last + 1


@pytest.mark.slow
def test_two_processes_append(tmp_path: Path):
    code = (
        "import sys; from grounded.labelling.reviews import Review, append\n"
        "for i in range(30): append(sys.argv[1], Review(file=sys.argv[2], instance=i, action='accept'))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path, name], cwd=ROOT) for name in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    files = reviews.by_file(reviews.read(tmp_path))
    assert [[one.instance for one in files[name]] for name in ("a", "b")] == [list(range(30))] * 2


def write_run(folder: Path, *records: Record) -> Path:
    with open_run(folder, Run(source="/nowhere", phrases=("cat", "dog"), config="abc")) as writer:
        for one in records:
            writer.append(one)
    return folder


def test_corrected(tmp_path: Path):
    folder = write_run(tmp_path, record("a.png"), record("b.png"), record("c.png", count=0), record("d.png", count=1))
    reviews.append(
        folder, said("accept", 1), said("reject", 0), said("reject", 0, "d.png"), said("accept", 0, "gone.png")
    )
    counts = {one.image.file: len(one.instances) for one in reviews.corrected(folder)}
    assert counts == {"a.png": 2, "b.png": 3, "c.png": 0, "d.png": 0}
    # A picture in which everything was rejected has been looked at: nothing is there.
    seen = {one.image.file: len(one.instances) for one in reviews.corrected(folder, accepted_only=True)}
    assert seen == {"a.png": 1, "d.png": 0}
    assert list(reviews.corrected(write_run(tmp_path / "empty"))) == []


def test_times_are_in_order():
    first = said("accept", 0)
    time.sleep(0.002)
    assert first.time < said("accept", 0).time and first.time.endswith("+00:00")
    assert os.fspath(Path(reviews.REVIEWS)) == "reviews.jsonl"

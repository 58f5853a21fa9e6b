import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from grounded.data.image import SourceImage
from grounded.errors import ConfigError, OutputError
from grounded.labelling.engines.local import Options, answer, label, pending, write_outcomes
from grounded.labelling.loading import Loaded, load
from grounded.labelling.progress import Silent, Tally
from grounded.labelling.records import Record
from grounded.labelling.sources import Item, open_source
from grounded.labelling.store import Failure, Run, failures, files_done, open_run, records
from grounded.labelling.task import Labelled
from tests.grounded.labelling.standin import PHRASES, SIZES, Bright, label_folder, write_pictures

RUN = Run(source="/data", phrases=PHRASES, models={"detector": "none"}, config="1")


def contents(folder: Path) -> dict[str, dict]:
    return {found.image.file: found.to_dict() for found in records(folder)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "images", 12)


def test_every_picture_gets_a_record(images: Path, tmp_path: Path):
    summary = label_folder(images, tmp_path / "out")
    assert (summary.pictures, summary.failures, summary.skipped, summary.interrupted) == (12, 0, 0, False)
    assert summary.instances == {"bright": 12, "dark": 0}
    found = {record.image.file: record for record in records(tmp_path / "out")}
    assert sorted(found) == [f"{number:04d}.png" for number in range(12)]
    record = found["0001.png"]
    assert (record.image.height, record.image.width) == SIZES[1] == record.instances.image_size
    assert (record.models, record.config, record.seconds) == ({"detector": "none"}, "1", {"look": 0.001})
    assert len(record.image.sha256) == 64


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_how_the_work_is_done_changes_no_answer(images: Path, tmp_path: Path, workers: int, batch: int):
    label_folder(images, tmp_path / "one", workers=1, batch=1, readers=1)
    label_folder(images, tmp_path / "other", workers=workers, batch=batch)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_an_empty_source(tmp_path: Path):
    @dataclass(frozen=True)
    class Nothing:
        spec: str = "/nothing"

        def items(self) -> Iterator[Item]:
            return iter(())

        def get(self, file: str) -> bytes:
            return b""

        def count(self) -> int:
            return 0

    with open_run(tmp_path, RUN) as writer:
        assert label(Nothing(), Bright(), writer).pictures == 0
    assert files_done(tmp_path) == set()


def test_the_second_run_has_nothing_to_do(images: Path, tmp_path: Path):
    label_folder(images, tmp_path / "out")
    before = contents(tmp_path / "out")
    summary = label_folder(images, tmp_path / "out")
    assert (summary.pictures, summary.skipped) == (0, 12)
    write_pictures(images, 13)
    assert label_folder(images, tmp_path / "out").pictures == 1
    assert {**before, **contents(tmp_path / "out")} == contents(tmp_path / "out")


def test_failures_do_not_stop_a_run_and_can_be_retried(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("0001.png", "0004.png"):  # of one size, so that they share batches with others
        (images / name).rename(images / f"hard-{name}")
    summary = label_folder(images, out, batch=4)
    assert (summary.pictures, summary.failures) == (10, 4)
    failed = failures(out)
    assert {file: (failure.kind, failure.attempts) for file, failure in failed.items()} == {
        "broken.png": ("image", 1),
        "gone.png": ("read", 1),
        "hard-0001.png": ("model", 1),
        "hard-0004.png": ("model", 1),
    }
    assert failed["hard-0001.png"].reason == "too hard"
    again = label_folder(images, out)
    assert (again.pictures, again.failures, again.skipped) == (0, 0, 10)
    Image.new("RGB", (4, 3)).save(images / "broken.png")
    summary = label_folder(images, out, retry_failures=True)
    assert (summary.pictures, summary.failures) == (1, 3)
    assert failures(out)["gone.png"].attempts == 2
    assert "broken.png" in files_done(out)
    assert (out / "failures.jsonl").read_bytes().count(b"\n") == 3


def test_large_pictures_are_failures(images: Path, tmp_path: Path):
    Image.new("L", (100, 100)).save(images / "large.png")
    label_folder(images, tmp_path / "out", max_pixels=9_999)
    assert set(failures(tmp_path / "out")) == {"large.png"}
    assert "10" in failures(tmp_path / "out")["large.png"].reason


def test_what_is_pending(images: Path, tmp_path: Path):
    source = open_source(images)
    with open_run(tmp_path / "out", RUN) as writer:
        writer.done.add("0003.png")
        writer.fail(Failure(file="0005.png", reason="x"))
        assert [item.file[3] for item in pending(source, writer)][:6] == ["0", "1", "2", "4", "6", "7"]
        assert [item.file[3] for item in pending(source, writer, retry_failures=True)][:5] == ["0", "1", "2", "4", "5"]


def loaded(*names: str) -> list[Loaded]:
    buffer = io.BytesIO()
    Image.new("L", (4, 3)).save(buffer, "PNG")
    return [one for one in (load(Item(name, buffer.getvalue)) for name in names) if isinstance(one, Loaded)]


class Asked:
    """A step that notes what it was asked, and raises for some."""

    def __init__(self, error: Exception | None = None, answers: int | None = None) -> None:
        self.calls: list[int] = []
        self.error, self.answers = error, answers

    def __call__(self, pictures: Sequence[SourceImage]) -> list[Labelled]:
        self.calls.append(len(pictures))
        if self.error and any(picture.path and picture.path.name == "bad.png" for picture in pictures):
            raise self.error
        return Bright()(pictures)[: self.answers]


def test_a_batch_that_raises_is_asked_for_one_by_one():
    step = Asked(MemoryError("no room"))
    outcomes = answer(step, loaded("a.png", "bad.png", "c.png"), RUN)
    assert step.calls == [3, 1, 1, 1]
    assert [type(outcome) for outcome in outcomes] == [Record, Failure, Record]
    assert outcomes[1] == Failure(file="bad.png", reason="MemoryError: no room", kind="model")
    assert answer(step, [], RUN) == []


def test_a_step_that_answers_for_too_few():
    outcomes = answer(Asked(answers=1), loaded("a.png", "b.png"), RUN)
    assert all(isinstance(outcome, Record) for outcome in outcomes) and len(outcomes) == 2
    outcomes = answer(Asked(answers=0), loaded("a.png"), RUN)
    assert isinstance(outcomes[0], Failure) and "got 0 answers" in outcomes[0].reason


class Upon(Silent):
    """Acts when a number of pictures is done."""

    def __init__(self, handled: int, act: Callable[[], object]) -> None:
        self.handled, self.act = handled, act

    def show(self, tally: Tally) -> None:
        if tally.handled == self.handled:
            self.act()


def test_stopping_finishes_what_is_in_work(tmp_path: Path):
    source = open_source(write_pictures(tmp_path / "images", 100))
    stopped = threading.Event()
    with open_run(tmp_path / "out", RUN) as writer:
        summary = label(
            source, Bright(), writer, Options(workers=2), progress=Upon(5, stopped.set), stop=stopped.is_set
        )
    assert summary.interrupted and 5 <= summary.pictures <= 5 + 3
    assert len(files_done(tmp_path / "out")) == summary.pictures
    with open_run(tmp_path / "out", RUN) as writer:
        assert label(source, Bright(), writer).pictures == 100 - summary.pictures


def test_a_disk_that_fills_up_ends_the_run_and_leaves_whole_lines(tmp_path: Path):
    source = open_source(write_pictures(tmp_path / "images", 20))
    with pytest.raises(OutputError, match="the disk is full"), open_run(tmp_path / "out", RUN) as writer:
        full = open("/dev/full", "ab", buffering=0)  # noqa: SIM115 - the writer closes it
        act = Upon(5, lambda: writer._files.update({tmp_path / "out" / "records" / "00000.jsonl": full}))
        label(source, Bright(), writer, progress=act)
    assert len(files_done(tmp_path / "out")) == 5
    with open_run(tmp_path / "out", RUN) as writer:
        assert label(source, Bright(), writer).pictures == 15


def test_workers_have_shards_of_their_own_and_a_picture_one_record(tmp_path: Path):
    source = open_source(write_pictures(tmp_path / "images", 4))
    first, second = answer(Bright(), loaded("a.png", "b.png"), RUN)
    outcomes = [(first, 0), (second, 7), (first, 7), (Failure(file="a.png", reason="late"), 0)]
    with open_run(tmp_path / "out", RUN) as writer:
        summary = write_outcomes(outcomes, writer, source)
    assert (summary.pictures, summary.failures) == (2, 0)
    assert sorted(os.listdir(tmp_path / "out" / "records")) == ["00000.jsonl", "00007.jsonl"]


def test_threads_end_with_the_run(images: Path, tmp_path: Path):
    before = {thread.name for thread in threading.enumerate()}
    label_folder(images, tmp_path / "out")
    after = {thread.name for thread in threading.enumerate()}
    assert {name for name in after - before if not name.startswith("count")} == set()


def test_a_changed_configuration_is_refused(images: Path, tmp_path: Path):
    label_folder(images, tmp_path / "out")
    with pytest.raises(ConfigError, match="--restart"):
        label_folder(images, tmp_path / "out", config="2")


@dataclass(frozen=True)
class Endless:
    """One small picture under many names."""

    count_: int
    data: bytes
    spec: str = "/endless"

    def items(self) -> Iterator[Item]:
        return (Item(f"{number:06d}.png", self.read) for number in range(self.count_))

    def read(self) -> bytes:
        return self.data

    def get(self, file: str) -> bytes:
        return self.data

    def count(self) -> int:
        return self.count_


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc to see the memory of the process")
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path, count: int):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    levels: list[int] = []
    with open_run(tmp_path, RUN) as writer:
        progress = Upon(count // 10, lambda: levels.append(resident()))
        label(Endless(count, buffer.getvalue()), Bright(), writer, Options(workers=2, batch=4), progress=progress)
    # Decoded, the pictures take 12 kB each; held, the records of the last nine tenths alone would take more than this.
    assert resident() - levels[0] < count * 2_000
    assert len(files_done(tmp_path)) == count

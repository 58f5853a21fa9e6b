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
from grounded.labelling.engines.local import EngineOptions, label_batch, label_local, pending_items, write_outcomes
from grounded.labelling.loading import LoadedImage, load_image
from grounded.labelling.progress import NoProgress, RunCounter
from grounded.labelling.records import Record
from grounded.labelling.sources import Item, open_source
from grounded.labelling.store import Failure, Run, open_run, read_done_files, read_failures, read_records
from grounded.labelling.task import LabelledImage
from tests.grounded.labelling.standin import PHRASES, SIZES, Bright, label_folder, write_images

RUN = Run(source="/data", phrases=PHRASES, models={"detector": "none"}, config="1")


def contents(folder: Path) -> dict[str, dict]:
    return {found.image.file: found.to_dict() for found in read_records(folder)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 12)


def test_every_image_gets_a_record(images: Path, tmp_path: Path):
    summary = label_folder(images, tmp_path / "out")
    assert (summary.images, summary.failures, summary.skipped, summary.interrupted) == (12, 0, 0, False)
    assert summary.instances == {"bright": 12, "dark": 0}
    found = {record.image.file: record for record in read_records(tmp_path / "out")}
    assert sorted(found) == [f"{number:04d}.png" for number in range(12)]
    record = found["0001.png"]
    assert (record.image.height, record.image.width) == SIZES[1] == record.instances.image_size
    assert (record.models, record.config, record.seconds) == ({"detector": "none"}, "1", {"look": 0.001})
    assert len(record.image.sha256) == 64


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_scheduling_changes_no_record(images: Path, tmp_path: Path, workers: int, batch: int):
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
        assert label_local(Nothing(), Bright(), writer).images == 0
    assert read_done_files(tmp_path) == set()


def test_the_second_run_has_nothing_to_do(images: Path, tmp_path: Path):
    label_folder(images, tmp_path / "out")
    before = contents(tmp_path / "out")
    summary = label_folder(images, tmp_path / "out")
    assert (summary.images, summary.skipped) == (0, 12)
    write_images(images, 13)
    assert label_folder(images, tmp_path / "out").images == 1
    assert {**before, **contents(tmp_path / "out")} == contents(tmp_path / "out")


def test_failures_do_not_stop_a_run_and_can_be_retried(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("0001.png", "0004.png"):  # of one size, so that they share batches with others
        (images / name).rename(images / f"hard-{name}")
    summary = label_folder(images, out, batch=4)
    assert (summary.images, summary.failures) == (10, 4)
    failed = read_failures(out)
    assert {file: (failure.kind, failure.attempts) for file, failure in failed.items()} == {
        "broken.png": ("image", 1),
        "gone.png": ("read", 1),
        "hard-0001.png": ("model", 1),
        "hard-0004.png": ("model", 1),
    }
    assert failed["hard-0001.png"].reason == "too hard"
    again = label_folder(images, out)
    assert (again.images, again.failures, again.skipped) == (0, 0, 10)
    Image.new("RGB", (4, 3)).save(images / "broken.png")
    summary = label_folder(images, out, retry_failures=True)
    assert (summary.images, summary.failures) == (1, 3)
    assert read_failures(out)["gone.png"].attempts == 2
    assert "broken.png" in read_done_files(out)
    assert (out / "failures.jsonl").read_bytes().count(b"\n") == 3


def test_large_images_are_failures(images: Path, tmp_path: Path):
    Image.new("L", (100, 100)).save(images / "large.png")
    label_folder(images, tmp_path / "out", max_pixels=9_999)
    assert set(read_failures(tmp_path / "out")) == {"large.png"}
    assert "10" in read_failures(tmp_path / "out")["large.png"].reason


def test_pending_items(images: Path, tmp_path: Path):
    source = open_source(images)
    with open_run(tmp_path / "out", RUN) as writer:
        writer.done.add("0003.png")
        writer.fail(Failure(file="0005.png", reason="x"))
        assert [item.file[3] for item in pending_items(source, writer)][:6] == ["0", "1", "2", "4", "6", "7"]
        assert [item.file[3] for item in pending_items(source, writer, retry_failures=True)][:5] == [
            "0",
            "1",
            "2",
            "4",
            "5",
        ]


def loaded(*names: str) -> list[LoadedImage]:
    buffer = io.BytesIO()
    Image.new("L", (4, 3)).save(buffer, "PNG")
    return [one for one in (load_image(Item(name, buffer.getvalue)) for name in names) if isinstance(one, LoadedImage)]


class RecordingTask:
    """A task that notes the sizes of its batches, and raises for some images."""

    def __init__(self, error: Exception | None = None, most: int | None = None) -> None:
        self.calls: list[int] = []
        self.error, self.most = error, most

    def __call__(self, images: Sequence[SourceImage]) -> list[LabelledImage]:
        self.calls.append(len(images))
        if self.error and any(image.path and image.path.name == "bad.png" for image in images):
            raise self.error
        return Bright()(images)[: self.most]


def test_a_batch_that_raises_is_repeated_image_by_image():
    task = RecordingTask(MemoryError("no room"))
    outcomes = label_batch(task, loaded("a.png", "bad.png", "c.png"), RUN)
    assert task.calls == [3, 1, 1, 1]
    assert [type(outcome) for outcome in outcomes] == [Record, Failure, Record]
    assert outcomes[1] == Failure(file="bad.png", reason="MemoryError: no room", kind="model")
    assert label_batch(task, [], RUN) == []


def test_a_task_that_labels_too_few():
    outcomes = label_batch(RecordingTask(most=1), loaded("a.png", "b.png"), RUN)
    assert all(isinstance(outcome, Record) for outcome in outcomes) and len(outcomes) == 2
    outcomes = label_batch(RecordingTask(most=0), loaded("a.png"), RUN)
    assert isinstance(outcomes[0], Failure) and "got 0 results" in outcomes[0].reason


class CallAt(NoProgress):
    """Calls a function when so many images are done."""

    def __init__(self, done: int, act: Callable[[], object]) -> None:
        self.done, self.act = done, act

    def update(self, counter: RunCounter) -> None:
        if counter.done == self.done:
            self.act()


def test_stopping_finishes_batches_in_progress(tmp_path: Path):
    source = open_source(write_images(tmp_path / "images", 100))
    stopped = threading.Event()
    with open_run(tmp_path / "out", RUN) as writer:
        summary = label_local(
            source,
            Bright(),
            writer,
            EngineOptions(workers=2),
            progress=CallAt(5, stopped.set),
            should_stop=stopped.is_set,
        )
    assert summary.interrupted and 5 <= summary.images <= 5 + 3
    assert len(read_done_files(tmp_path / "out")) == summary.images
    with open_run(tmp_path / "out", RUN) as writer:
        assert label_local(source, Bright(), writer).images == 100 - summary.images


def test_a_disk_that_fills_up_ends_the_run_and_leaves_whole_lines(tmp_path: Path):
    source = open_source(write_images(tmp_path / "images", 20))
    with pytest.raises(OutputError, match="the disk is full"), open_run(tmp_path / "out", RUN) as writer:
        full = open("/dev/full", "ab", buffering=0)  # noqa: SIM115 - the writer closes it
        act = CallAt(5, lambda: writer._files.update({tmp_path / "out" / "records" / "00000.jsonl": full}))
        label_local(source, Bright(), writer, progress=act)
    assert len(read_done_files(tmp_path / "out")) == 5
    with open_run(tmp_path / "out", RUN) as writer:
        assert label_local(source, Bright(), writer).images == 15


def test_workers_have_their_own_shards_and_an_image_one_record(tmp_path: Path):
    source = open_source(write_images(tmp_path / "images", 4))
    first, second = label_batch(Bright(), loaded("a.png", "b.png"), RUN)
    outcomes = [(first, 0), (second, 7), (first, 7), (Failure(file="a.png", reason="late"), 0)]
    with open_run(tmp_path / "out", RUN) as writer:
        summary = write_outcomes(outcomes, writer, source)
    assert (summary.images, summary.failures) == (2, 0)
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
    """One small image under many names."""

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
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, count: int):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    levels: list[int] = []
    with open_run(tmp_path, RUN) as writer:
        progress = CallAt(count // 10, lambda: levels.append(resident()))
        label_local(
            Endless(count, buffer.getvalue()), Bright(), writer, EngineOptions(workers=2, batch=4), progress=progress
        )
    # Decoded, the images take 12 kB each; held, the records of the last nine tenths alone would take more than this.
    assert resident() - levels[0] < count * 2_000
    assert len(read_done_files(tmp_path)) == count

"""The engine on Ray: the same records as in one process, whatever becomes of the workers.

Tasks are stand-ins without models, but for one test; the workers are real processes, and die for real.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from grounded.config import load as load_config
from grounded.data.image import SourceImage
from grounded.errors import ConfigError
from grounded.labelling.engines import ray_workers
from grounded.labelling.engines.local import EngineOptions, label_local
from grounded.labelling.engines.ray import label_ray, plan_workers
from grounded.labelling.engines.ray_workers import WorkerError
from grounded.labelling.progress import NoProgress, RunCounter, RunSummary
from grounded.labelling.sources import Item, open_source
from grounded.labelling.store import Run, open_run, read_failures, read_records
from grounded.labelling.task import LabelledImage, PipelineTaskSpec
from grounded.video.clip import Clip
from grounded.video.tracks import TrackedFrame
from tests.data import PICNIC, ROOT
from tests.grounded.labelling import standin
from tests.grounded.labelling.standin import PHRASES

WITHOUT_RAY = "needs Ray: pip install 'grounded-segany[ray]'"


@dataclass(frozen=True)
class Bright:
    """A spec, and the task that it builds: an image with "poison" in its name ends the process that labels it."""

    notes: Path  # a folder where every process that labels leaves its id
    seconds: float = 0.0  # for each image

    def load(self) -> "Bright":
        return self

    def __call__(self, images: Sequence[SourceImage]) -> list[LabelledImage]:
        (self.notes / str(os.getpid())).touch()
        if any(image.path and "poison" in image.path.name for image in images):
            os._exit(1)
        return standin.Bright(self.seconds)(images)

    def track(self, clip: Clip, before: Mapping[int, TrackedFrame]) -> Iterator[TrackedFrame]:
        (self.notes / str(os.getpid())).touch()
        for frame in standin.Bright(self.seconds).track(clip, before):
            if clip.info.name.startswith("poison") and frame.number == 3:
                os._exit(1)
            yield frame


@dataclass(frozen=True)
class Unloadable:
    """A spec whose loading fails, by an exception or by the death of the process."""

    how: str

    def load(self) -> Bright:
        if self.how == "dies":
            os._exit(1)
        raise ConfigError("no such weights")


class CallAt(NoProgress):
    """Calls a function when so many images are done."""

    def __init__(self, act: Callable[[], object], *done: int) -> None:
        self.act, self.done = act, done

    def update(self, counter: RunCounter) -> None:
        if counter.done in self.done:
            self.act()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with two CPUs, at the priority of the tests and with their modules."""
    ray = pytest.importorskip("ray", reason=WITHOUT_RAY)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RAY_worker_niceness", "0"), ("RAY_USAGE_STATS_ENABLED", "0"), ("PYTHONPATH", str(ROOT))):
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, log_to_driver=False)
        yield
        ray.shutdown()


def write_source(folder: Path, count: int, *special: str) -> str:
    """Write small images of several sizes, and one of each of the given names in their midst. Returns the folder."""
    standin.write_images(folder, count)
    for name in special:
        Image.new("RGB", (12, 12), "white").save(folder / f"{count // 2:04d}-{name}.png")
    return str(folder)


def labelled(
    engine: Callable, images: str | Path, spec: object, out: Path, clips: bool = False, **options: object
) -> RunSummary:
    source = standin.open_clips(Path(images)) if clips else open_source(images)
    run = Run(source=source.spec, phrases=PHRASES, models={"detector": "none"}, config="1")
    with open_run(out, run) as writer:
        return engine(source, spec, writer, EngineOptions(batch=2), **options)


def contents(out: Path) -> dict[str, object]:
    """The records of a run by file, less the times, which differ. An image with two records is a failed test."""
    found = {}
    for shard in sorted((out / "records").glob("*.jsonl")):
        for line in shard.read_bytes().splitlines():
            name = line.split(b'"file":"', 1)[1].split(b'"', 1)[0].decode()
            assert name not in found, f"two records of {name}"
            found[name] = None
    for record in read_records(out):
        found[record.image.file] = record.to_dict() | {"seconds": None}
    return found


def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "processes"
    folder.mkdir(exist_ok=True)
    return folder


def kill_workers(folder: Path) -> None:
    for note in folder.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(note.name), signal.SIGKILL)


NODE = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 8.0}}
SMALL = {"Alive": True, "Resources": {"CPU": 3.0}}
GONE = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "expected"),
    [
        pytest.param([SMALL], None, 1, None, (3, 0), id="a worker for each CPU"),
        pytest.param([SMALL], None, 2, None, (1, 0), id="what is left over is not enough"),
        pytest.param([SMALL, SMALL], None, 2, None, (2, 0), id="a worker lies on one machine"),
        pytest.param([NODE], None, 1, None, (8, 1), id="a worker for each GPU"),
        pytest.param([NODE, NODE], None, 2, None, (16, 1), id="GPUs of two machines"),
        pytest.param([NODE], None, 1, 0.5, (16, 0.5), id="two workers share a GPU"),
        pytest.param([NODE], None, 4, None, (4, 1), id="too few CPUs for all GPUs"),
        pytest.param([NODE, SMALL], None, 1, 0, (19, 0), id="GPUs are left alone"),
        pytest.param([NODE, GONE], 5, 1, None, (5, 1), id="as many as asked for"),
    ],
)
def test_plan_workers(nodes: list, workers: int | None, cpus: float, gpus: float | None, expected: tuple) -> None:
    count, resources = plan_workers(nodes, workers, cpus, gpus)
    assert (count, resources["num_gpus"]) == expected
    assert resources["num_cpus"] == cpus


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "message"),
    [
        pytest.param([SMALL], 4, 1, None, "4 x 1 CPUs and 0 GPUs .* room for 3 .* 3 CPUs and 0 GPUs", id="CPUs"),
        pytest.param([SMALL], None, 1, 1, "1 x 1 CPUs and 1 GPUs .* room for 0", id="no GPU"),
        pytest.param([SMALL, SMALL], None, 4, None, "room for 0 .* on 2 machines", id="no machine is large enough"),
        pytest.param([GONE], None, 1, None, "room for 0", id="machine that is gone"),
        pytest.param([], None, 1, None, "room for 0", id="no machine"),
        pytest.param([SMALL], 0, 1, None, "got 0 of 1 CPUs", id="no worker"),
        pytest.param([SMALL], 1, 0, None, "got 1 of 0 CPUs", id="workers without a CPU"),
    ],
)
def test_what_does_not_fit_is_refused(
    nodes: list, workers: int | None, cpus: float, gpus: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_workers(nodes, workers, cpus, gpus)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what importing it then raises is what its absence raises
    images = write_source(tmp_path / "in", 1)
    with pytest.raises(ConfigError, match=r'pip install "grounded-segany\[ray\]"'):
        labelled(label_ray, images, Bright(tmp_path), tmp_path / "out")


def test_cluster_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster at {address}: Connection refused"):
            labelled(label_ray, write_source(tmp_path / "in", 1), Bright(tmp_path), tmp_path / "out", address=address)


@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    def test_records_are_those_of_one_process(self, tmp_path: Path) -> None:
        images = write_source(tmp_path / "in", 30, "hard")
        (tmp_path / "in" / "broken.png").write_bytes(b"no image")
        here, there = tmp_path / "here", tmp_path / "there"
        labelled(label_local, images, Bright(notes(tmp_path)), here)
        (notes(tmp_path) / str(os.getpid())).unlink()
        summary = labelled(label_ray, images, Bright(notes(tmp_path), 0.02), there, workers=2)
        assert contents(there) == contents(here)
        assert read_failures(there) == read_failures(here)
        assert {failure.kind for failure in read_failures(there).values()} == {"model", "image"}
        assert (summary.images, summary.failures, summary.interrupted) == (30, 2, False)
        assert sorted(path.name for path in (there / "records").iterdir()) == ["00000.jsonl", "00001.jsonl"]
        assert len(list(notes(tmp_path).iterdir())) == 2
        # Nothing is left to do, and nothing is done.
        again = labelled(label_ray, images, Bright(notes(tmp_path)), there, workers=1)
        assert (again.images, again.failures, again.skipped) == (0, 0, 30)

    def test_killed_worker_loses_nothing(self, tmp_path: Path) -> None:
        images = write_source(tmp_path / "in", 30)
        kill = CallAt(partial(kill_workers, notes(tmp_path)), 9)
        summary = labelled(label_ray, images, Bright(notes(tmp_path), 0.02), tmp_path / "out", workers=2, progress=kill)
        assert len(contents(tmp_path / "out")) == summary.images == 30
        assert not read_failures(tmp_path / "out")
        # Both workers were replaced; the later replacement may have found nothing left to do.
        assert len(list(notes(tmp_path).iterdir())) in (3, 4)

    @pytest.mark.slow
    @pytest.mark.long
    def test_clips_are_those_of_one_process_whatever_dies(self, tmp_path: Path) -> None:
        for seed, name in enumerate(("a", "b", "poison")):
            standin.write_clip_folder(tmp_path / "in" / name, 9, seed=seed)
        here, there = tmp_path / "here", tmp_path / "there"
        kill = CallAt(partial(kill_workers, notes(tmp_path)), 5)
        spec = Bright(notes(tmp_path), 0.05)
        summary = labelled(label_ray, tmp_path / "in", spec, there, clips=True, workers=2, progress=kill)
        assert (summary.images, summary.failures) == (9 + 9 + 3, 1)
        (failure,) = read_failures(there).values()
        assert (failure.file, failure.kind) == ("poison", "crash") and "died twice" in failure.reason
        labelled(label_local, tmp_path / "in", standin.Bright(), here, clips=True)
        frames = contents(here)
        assert contents(there) == {file: one for file, one in frames.items() if file in contents(there)}
        assert sum(file.startswith("poison") for file in contents(there)) == 3, "the frames before it are kept"

    @pytest.mark.long
    def test_workers_killed_again_and_again_lose_nothing(self, tmp_path: Path) -> None:
        images = write_source(tmp_path / "in", 60)
        kill = CallAt(partial(kill_workers, notes(tmp_path)), 5, 13, 14, 31, 50)
        summary = labelled(label_ray, images, Bright(notes(tmp_path), 0.02), tmp_path / "out", workers=2, progress=kill)
        # An image that is by itself with its worker at the wrong moment twice is taken for the cause.
        done, failed = set(contents(tmp_path / "out")), read_failures(tmp_path / "out")
        assert done | set(failed) == {path.name for path in (tmp_path / "in").iterdir()}
        assert (summary.images, summary.failures) == (len(done), len(failed))
        assert all(failure.kind == "crash" for failure in failed.values())

    def test_image_that_kills_its_worker_is_a_failure(self, tmp_path: Path) -> None:
        images = write_source(tmp_path / "in", 12, "poison")
        summary = labelled(label_ray, images, Bright(notes(tmp_path)), tmp_path / "out", workers=1)
        assert len(contents(tmp_path / "out")) == summary.images == 12
        (failure,) = read_failures(tmp_path / "out").values()
        assert (failure.file, failure.kind, failure.attempts) == ("0006-poison.png", "crash", 2)
        assert "died twice" in failure.reason and "\n" not in failure.reason

    @pytest.mark.slow
    def test_either_engine_goes_on_where_the_other_stopped(self, tmp_path: Path) -> None:
        images = write_source(tmp_path / "in", 40)
        out, wish = tmp_path / "out", []
        half = labelled(
            label_ray,
            images,
            Bright(notes(tmp_path), 0.01),
            out,
            workers=1,
            progress=CallAt(partial(wish.append, 1), 8),
            should_stop=lambda: bool(wish),
        )
        assert half.interrupted and 8 <= half.images < 40
        rest = labelled(label_local, images, Bright(notes(tmp_path)), out)
        assert (rest.images, rest.skipped) == (40 - half.images, half.images)
        assert len(contents(out)) == 40

    @pytest.mark.slow
    def test_what_a_worker_cannot_read_is_sent_to_it(self, tmp_path: Path) -> None:
        write_source(tmp_path / "in", 60)
        data = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
        source = Elsewhere(os.getpid(), data)
        ahead = Ahead(source)
        with open_run(tmp_path / "out", Run(source="elsewhere", phrases=PHRASES)) as writer:
            summary = label_ray(source, Bright(notes(tmp_path)), writer, workers=1, progress=ahead)
        assert len(contents(tmp_path / "out")) == summary.images == 60
        assert ahead.most <= 10, "more than two chunks and what was sent back are under way: nothing holds the source"
        (failure,) = read_failures(tmp_path / "out").values()
        assert (failure.file, failure.kind) == ("nowhere.png", "read")

    @pytest.mark.parametrize(
        ("spec", "error", "message"),
        [
            pytest.param(Unloadable("raises"), ConfigError, "^no such weights$", id="raises"),
            pytest.param(
                Unloadable("dies"),
                WorkerError,
                "workers die when they load the models",
                id="dies",
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_models_that_cannot_be_loaded_end_the_run(
        self, tmp_path: Path, spec: Unloadable, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            labelled(label_ray, write_source(tmp_path / "in", 3), spec, tmp_path / "out", workers=1)

    @pytest.mark.slow
    @pytest.mark.long
    def test_workers_that_die_of_everything_end_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray_workers, "_MAX_DEATHS", 3)
        images = write_source(tmp_path / "in", 1, *(f"{number}-poison" for number in range(6)))
        os.remove(tmp_path / "in" / "0000.png")
        with pytest.raises(WorkerError, match="3 workers died in a row"):
            labelled(label_ray, images, Bright(notes(tmp_path)), tmp_path / "out", workers=1)

    def test_resources_that_are_not_there_are_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Ray has room for 2 of them"):
            labelled(label_ray, write_source(tmp_path / "in", 1), Bright(tmp_path), tmp_path / "out", workers=3)

    @pytest.mark.slow
    @pytest.mark.long
    def test_models(self, tmp_path: Path) -> None:
        from grounded.labelling.vocabulary import Vocabulary

        folder = tmp_path / "in"
        folder.mkdir()
        for number, side in enumerate((320, 320, 256, 320)):
            Image.open(PICNIC).convert("RGB").resize((side, 240)).save(folder / f"{number}.png")
        spec = PipelineTaskSpec(load_config("tiny"), Vocabulary.from_text("a dog. pizza"))
        source = open_source(folder)
        for out, engine, work in (("here", label_local, spec.load()), ("there", label_ray, spec)):
            with open_run(tmp_path / out, spec.describe_run(source.spec)) as writer:
                assert engine(source, work, writer, EngineOptions(batch=2)).images == 4
        assert sum(len(record.instances) for record in read_records(tmp_path / "here")) > 0
        assert contents(tmp_path / "there") == contents(tmp_path / "here")


@dataclass
class Elsewhere:
    """Images that only one process can read, and one that none can. Counts those that were asked for."""

    process: int
    data: dict[str, bytes]
    spec: str = "elsewhere"
    asked: int = 0

    def items(self) -> Iterator[Item]:
        for name, data in self.data.items():
            self.asked += 1
            yield Item(name, partial(_read_in, self.process, data))
        yield Item("nowhere.png", partial(_read_in, 0, b""))

    def get(self, file: str) -> bytes:
        return self.data[file]

    def count(self) -> int:
        return len(self.data) + 1


class Ahead(NoProgress):
    """Most images that were asked for and not done."""

    def __init__(self, source: Elsewhere) -> None:
        self.source, self.most = source, 0

    def update(self, counter: RunCounter) -> None:
        self.most = max(self.most, self.source.asked - counter.done)


def _read_in(process: int, data: bytes) -> bytes:
    if os.getpid() != process:
        raise FileNotFoundError("no such image")
    return data


DRIVER = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what the background of a shell would ignore
from tests.grounded.labelling.engines import test_ray as tests
images, notes, out = sys.argv[1:]
tests.labelled(tests.label_ray, images, tests.Bright(Path(notes), 0.1), Path(out), workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_run_leaves_no_process_and_is_resumed(tmp_path: Path, how: signal.Signals) -> None:
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    images, out = write_source(tmp_path / "in", 60), tmp_path / "out"
    arguments = [images, str(notes(tmp_path)), str(out)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "records").is_dir() or len(contents(out)) < 10:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    driver.send_signal(how)
    assert driver.wait(60) != 0
    before = len(contents(out))
    assert before < 60
    deadline = time.monotonic() + 60
    while any(Path("/proc", note.name).exists() for note in notes(tmp_path).iterdir()):
        assert time.monotonic() < deadline, "a worker outlives the run"
        time.sleep(0.2)
    summary = labelled(label_local, images, Bright(notes(tmp_path)), out)
    assert (summary.images, summary.skipped) == (60 - before, before)
    assert len(contents(out)) == 60

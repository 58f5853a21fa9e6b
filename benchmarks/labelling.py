"""What labelling a data set costs beside the models, and what it saves: `python -m benchmarks.labelling`.

Rates are compared in one process and in turn. The loop that `grounded label` is compared to is the plain one, a call of
`pipeline.segment` for each file, which writes nothing; the images are shown to both for the first time in a round.
"""

import importlib.util
import io
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from PIL import Image

from grounded.config import load
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.labelling.engines.local import EngineOptions, label_local, pending_items
from grounded.labelling.progress import NoProgress, RunCounter
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.sources import Item, open_source
from grounded.labelling.store import Run, open_run
from grounded.labelling.task import LabelledImage, PipelineTask, PipelineTaskSpec
from grounded.labelling.vocabulary import Vocabulary
from grounded.utils.processors import available_processors

IMAGE = Path(__file__).parents[1] / "examples/picnic.png"
TEXT = "a dog. pizza. a balloon"
SPEC = PipelineTaskSpec(load("tiny"), Vocabulary.from_text(TEXT))
CORES = available_processors()


@dataclass(frozen=True)
class Figure:
    """A measured value, and what it is to reach."""

    name: str
    value: float
    target: float
    more_is_better: bool
    detail: str = ""

    @property
    def reached(self) -> bool:
        return self.value >= self.target if self.more_is_better else self.value <= self.target


@dataclass(frozen=True)
class FixedTask:
    """A task without models, which returns the same instances for every image."""

    instances: Instances

    def __call__(self, images: Sequence[SourceImage]) -> list[LabelledImage]:
        return [LabelledImage(self.instances, {"look": 0.0})] * len(images)


@dataclass(frozen=True)
class Repeated:
    """One small image under many names, without a disk."""

    number: int
    data: bytes
    spec: str = "/repeated"

    def items(self) -> Iterator[Item]:
        return (Item(f"{number:07d}.png", self._read) for number in range(self.number))

    def get(self, file: str) -> bytes:
        return self.data

    def count(self) -> int:
        return self.number

    def _read(self) -> bytes:
        return self.data


class AtTenth(NoProgress):
    """Notes the memory of the process when a tenth is done."""

    def __init__(self, number: int) -> None:
        self.number, self.level = number, 0.0

    def update(self, counter: RunCounter) -> None:
        if counter.done == self.number // 10:
            self.level = resident()


def resident() -> float:
    """MB of this process in memory now; elsewhere than on Linux the most so far."""
    if os.path.exists("/proc/self/statm"):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def write_images(folder: Path, number: int) -> Path:
    """Write photograph-like JPEG files of 640 x 480."""
    folder.mkdir()
    picnic = Image.open(IMAGE).convert("RGB")
    for index in range(number):
        picnic.rotate(index % 7 - 3).save(folder / f"{index:04d}.jpg", quality=90)
    return folder


def against_the_loop(number: int, rounds: int) -> Figure:
    """Images per second of the engine, as a multiple of the loop's; each as `grounded label` sets it up."""
    task = SPEC.load()
    workers = min(CORES, 4)
    rates: dict[str, list[float]] = {"loop": [], "engine": []}
    with tempfile.TemporaryDirectory() as name:
        source = open_source(write_images(Path(name) / "images", number))
        paths = sorted((Path(name) / "images").iterdir())

        def loop() -> None:
            torch.set_num_threads(CORES)
            for path in paths:
                task.pipeline.segment(path, TEXT)

        def engine() -> None:
            torch.set_num_threads(max(1, CORES // workers))
            with tempfile.TemporaryDirectory() as out, open_run(out, SPEC.describe_run(source.spec)) as writer:
                label_local(source, task, writer, EngineOptions(workers=workers))

        ways: dict[str, Callable[[], None]] = {"loop": loop, "engine": engine}
        loop()  # to warm up
        for _ in range(rounds):
            for way, work in ways.items():
                start = time.perf_counter()
                work()
                rates[way].append(number / (time.perf_counter() - start))
    medians = {way: statistics.median(values) for way, values in rates.items()}
    detail = f"{medians['engine']:.2f} against {medians['loop']:.2f} images/s, {workers} workers"
    return Figure("times as fast as a loop", medians["engine"] / medians["loop"], 1.1, True, detail)


def overhead(instances: Instances, number: int) -> Figure:
    """Milliseconds per image that are not the models': reading, decoding, records, bookkeeping."""
    source = Repeated(number, small_image())
    with (
        tempfile.TemporaryDirectory() as out,
        open_run(out, Run(source=source.spec, phrases=instances.phrases)) as writer,
    ):
        start = time.perf_counter()
        label_local(source, FixedTask(instances), writer)
        seconds = time.perf_counter() - start
    detail = f"{number} images of 64 x 64, {len(instances)} instances each"
    return Figure("overhead per image, ms", 1e3 * seconds / number, 2.0, False, detail)


def resume(instances: Instances, number: int) -> Figure:
    """Seconds from opening a folder of that many records to the first new image behind them."""
    with tempfile.TemporaryDirectory() as name:
        images, out = Path(name) / "images", Path(name) / "out"
        images.mkdir()
        run = Run(source=str(images), phrases=instances.phrases)
        record = Record(image=ImageInfo(file="?", width=640, height=480, sha256="0" * 64), instances=instances)
        beginning, rest = record.to_line().split(b"?", 1)
        open_run(out, run).close()
        with (out / "records" / "00000.jsonl").open("wb") as file:
            for index in range(number):
                (images / f"{index:06d}.jpg").touch()
                file.write(b"%b%06d.jpg%b" % (beginning, index, rest))
            size = file.tell()
        (images / f"{number:06d}.jpg").touch()
        start = time.perf_counter()
        with open_run(out, run) as writer:
            first = next(pending_items(open_source(images), writer))
            seconds = time.perf_counter() - start
        assert first.file == f"{number:06d}.jpg"
    return Figure(f"resume of {number} records, s", seconds, 5.0, False, f"{size / 1e6:.0f} MB of records")


def memory(task: PipelineTask, number: int) -> Figure:
    """MB that the last nine tenths of the images add, with the bundled models."""
    source, tenth = Repeated(number, small_image()), AtTenth(number)
    workers = min(CORES, 4)
    torch.set_num_threads(max(1, CORES // workers))
    with tempfile.TemporaryDirectory() as out, open_run(out, SPEC.describe_run(source.spec)) as writer:
        label_local(source, task, writer, EngineOptions(workers=workers), progress=tenth)
    detail = f"{number} images, {tenth.level:.0f} MB after the first tenth"
    return Figure("memory added by the last nine tenths, MB", resident() - tenth.level, 50.0, False, detail)


def with_ray(number: int, rounds: int) -> Figure:
    """Images per second of two workers with one thread each, as a multiple of one worker's."""
    from grounded.labelling.engines.ray import label_ray

    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        source = open_source(write_images(Path(name) / "images", number))
        for _ in range(rounds):
            for workers, values in rates.items():
                with tempfile.TemporaryDirectory() as out, open_run(out, SPEC.describe_run(source.spec)) as writer:
                    values.append(label_ray(source, SPEC, writer, workers=workers, cpus_per_worker=1).rate)
    one, two = (statistics.median(values) for values in rates.values())
    return Figure("Ray, two workers against one", two / one, 1.6, True, f"{two:.2f} against {one:.2f} images/s")


def small_image() -> bytes:
    """A PNG of 64 x 64."""
    buffer = io.BytesIO()
    Image.open(IMAGE).convert("RGB").resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def figures(only: Sequence[str], number: int, rounds: int, images: int) -> Iterator[Figure]:
    """Measure what was asked for; nothing means all of it, but for memory, which takes long."""
    wanted = only or ("loop", "overhead", "resume", "ray", *(("memory",) if images else ()))
    if "loop" in wanted:
        yield against_the_loop(number, rounds)
    if {"overhead", "resume"} & set(wanted):
        instances = SPEC.load()([SourceImage(Image.open(IMAGE).convert("RGB"))])[0].instances
        if "overhead" in wanted:
            yield overhead(instances, 2000)
        if "resume" in wanted:
            yield resume(instances, 100_000)
    if "ray" in wanted and importlib.util.find_spec("ray"):
        yield with_ray(2 * number, rounds)
    if "memory" in wanted:
        yield memory(SPEC.load(), images or 10_000)


@click.command()
@click.option("--number", default=16, show_default=True, help="Images for each rate.")
@click.option("--rounds", default=5, show_default=True, help="Runs of each rate, in turn; the median counts.")
@click.option("--images", default=0, help="Images for the memory that a long run adds; 10000 take an hour.")
@click.option("--only", type=click.Choice(["loop", "overhead", "resume", "ray", "memory"]), multiple=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(number: int, rounds: int, images: int, only: tuple[str, ...], json_path: Path | None) -> None:
    """Print each figure beside its target."""
    machine = f"{CORES} cores, {platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    print(f"{machine}\n\n| measure | value | target | | |\n|---|---|---|---|---|", flush=True)
    measured = []
    for figure in figures(only, number, rounds, images):
        measured.append(figure)
        sign, reached = "≥" if figure.more_is_better else "≤", "yes" if figure.reached else "no"
        value = f"{figure.value:.2f} | {sign} {figure.target:g}"
        print(f"| {figure.name} | {value} | {reached} | {figure.detail} |", flush=True)
    if json_path is not None:
        data = {"machine": machine, "figures": [asdict(figure) for figure in measured]}
        json_path.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()

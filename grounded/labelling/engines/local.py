"""Labelling in one process: images are loaded ahead, threads run the models, and records are written as they come."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from grounded.data.image import MAX_PIXELS
from grounded.errors import ResultError, describe_error
from grounded.labelling.loading import LoadedImage, group_by_size, load_ahead
from grounded.labelling.progress import NoProgress, RunCounter, RunProgress, RunSummary
from grounded.labelling.records import Record
from grounded.labelling.sources import Item, Source
from grounded.labelling.store import Failure, Run, Writer
from grounded.labelling.task import Task

Outcome = Record | Failure
StopCheck = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the work is scheduled. None of it changes a record."""

    workers: int = 1  # batches computed at the same time
    batch: int = 1  # most images of equal size that are computed together
    readers: int = 2  # threads that read and decode
    max_pixels: int | None = MAX_PIXELS  # of an image; larger ones are failures
    retry_failures: bool = False  # whether images that failed in earlier runs are tried again

    @property
    def ahead(self) -> int:
        """Images loaded before they are needed: enough for the batches that are next."""
        return 2 * self.workers * self.batch + self.readers


def label_local(
    source: Source,
    task: Task,
    writer: Writer,
    options: EngineOptions | None = None,
    *,
    progress: RunProgress | None = None,
    should_stop: StopCheck = lambda: False,
) -> RunSummary:
    """Label every image of `source` that `writer` has no record of.

    Args:
        source: the images.
        task: the models. With several workers it is called by as many threads.
        writer: of the run; the caller closes it.
        options: how the work is scheduled.
        progress: updated after every image.
        should_stop: called before each batch; once it returns True no batch begins, and those in progress are finished.

    Raises:
        OutputError: records cannot be written. Those so far are complete, and the same call goes on from there.
    """
    options = options or EngineOptions()
    outcomes = _label_in_threads(source, task, writer, options, should_stop)
    return write_outcomes(outcomes, writer, source, options=options, progress=progress, should_stop=should_stop)


def _label_in_threads(
    source: Source, task: Task, writer: Writer, options: EngineOptions, should_stop: StopCheck
) -> Iterator[tuple[Outcome, int]]:
    """Yield the outcome of every pending image, with the shard 0."""
    items = pending_items(source, writer, options.retry_failures)
    loaded = load_ahead(items, threads=options.readers, ahead=options.ahead, max_pixels=options.max_pixels)
    in_progress: deque[Future[list[Outcome]]] = deque()
    # One batch more than there are workers, so that none of them waits while records are written.
    with ThreadPoolExecutor(options.workers, thread_name_prefix="label") as pool:
        for group in group_by_size(loaded, options.batch):
            if should_stop():
                break
            if isinstance(group, Failure):
                yield group, 0
                continue
            in_progress.append(pool.submit(label_batch, task, group, writer.run))
            if len(in_progress) > options.workers:
                yield from ((outcome, 0) for outcome in in_progress.popleft().result())
        while in_progress:
            yield from ((outcome, 0) for outcome in in_progress.popleft().result())


def pending_items(source: Source, writer: Writer, retry_failures: bool = False) -> Iterator[Item]:
    """Yield the items of `source` that have no record yet; those that failed before only with `retry_failures`."""
    failed = set() if retry_failures else set(writer.failed)
    return (item for item in source.items() if item.file not in writer.done and item.file not in failed)


def label_batch(task: Task, loaded: Sequence[LoadedImage], run: Run) -> list[Outcome]:
    """Label a batch. If the task raises, each image is labelled by itself, and fails by itself."""
    try:
        labelled = task([one.image for one in loaded])
        if len(labelled) != len(loaded):
            raise ResultError(f"a task must label each of {len(loaded)} images, got {len(labelled)} results")
    except Exception as error:  # an error of any kind about one image must not cost the others
        if len(loaded) == 1:
            return [Failure(file=loaded[0].file, reason=describe_error(error), kind="model")]
        return [outcome for one in loaded for outcome in label_batch(task, [one], run)]
    return [
        Record(image=one.info, instances=found.instances, models=run.models, config=run.config, seconds=found.seconds)
        for one, found in zip(loaded, labelled, strict=True)
    ]


def write_outcomes(
    outcomes: Iterable[tuple[Outcome, int]],
    writer: Writer,
    source: Source,
    *,
    options: EngineOptions | None = None,
    progress: RunProgress | None = None,
    should_stop: StopCheck = lambda: False,
) -> RunSummary:
    """Write outcomes as they come, each image once.

    Args:
        outcomes: each with the number of the worker that it came from, which chooses the shard.
        writer: of the run.
        source: of the images; only counted.
        options: as in `label_local`.
        progress: as in `label_local`.
        should_stop: whether the run was interrupted; called at the end.

    Raises:
        OutputError: as in `label_local`.
    """
    progress, options = progress or NoProgress(), options or EngineOptions()
    skipped = len(writer.done)
    counter = RunCounter(writer.run.phrases)
    progress.start(skipped if options.retry_failures else skipped + len(writer.failed), source.count)
    try:
        for outcome, worker in outcomes:
            is_new = writer.fail(outcome) if isinstance(outcome, Failure) else writer.append(outcome, worker)
            if is_new:
                counter.add(outcome)
                progress.update(counter)
    finally:
        progress.close(counter)
    return counter.summary(skipped, interrupted=should_stop())

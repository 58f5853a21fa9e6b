"""The loop of one process: pictures are read ahead, models answer in threads, records are written as they come."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from grounded.data.image import MAX_PIXELS
from grounded.errors import ResultError
from grounded.labelling.loading import Loaded, by_size, describe, read_ahead
from grounded.labelling.progress import Progress, Silent, Summary, Tally
from grounded.labelling.records import Record
from grounded.labelling.sources import Item, Source
from grounded.labelling.store import Failure, Run, Writer
from grounded.labelling.task import Step

Outcome = Record | Failure
Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the work is done. None of it changes an answer."""

    workers: int = 1  # batches computed at the same time
    batch: int = 1  # most pictures of equal size that are computed together
    readers: int = 2  # threads that read and decode
    max_pixels: int | None = MAX_PIXELS  # of a picture; larger ones are failures
    retry_failures: bool = False  # whether pictures that failed in earlier runs are tried again

    @property
    def ahead(self) -> int:
        """Pictures loaded before they are needed: enough for the batches that are next."""
        return 2 * self.workers * self.batch + self.readers


def label(
    source: Source,
    step: Step,
    writer: Writer,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
    stop: Stop = lambda: False,
) -> Summary:
    """Label every picture of `source` that `writer` has no record of.

    Args:
        source: the pictures.
        step: the models. With several workers it is called by as many threads.
        writer: of the run; the caller closes it.
        options: how the work is done.
        progress: is told of every picture.
        stop: asked before each batch; once it says so no further one begins, and those in work are finished.

    Raises:
        OutputError: records cannot be written. Those so far are complete, and the same call goes on from there.
    """
    options = options or Options()
    outcomes = _outcomes(source, step, writer, options, stop)
    return write_outcomes(outcomes, writer, source, options=options, progress=progress, stop=stop)


def pending(source: Source, writer: Writer, retry_failures: bool = False) -> Iterator[Item]:
    """Yield the items of `source` that have no record yet; those that failed before only with `retry_failures`."""
    failed = set() if retry_failures else set(writer.failed)
    return (item for item in source.items() if item.file not in writer.done and item.file not in failed)


def answer(step: Step, loaded: Sequence[Loaded], run: Run) -> list[Outcome]:
    """Label a batch. Where the step raises, each picture is asked for by itself, and fails by itself."""
    try:
        labelled = step([one.picture for one in loaded])
        if len(labelled) != len(loaded):
            raise ResultError(f"a step must answer for each of {len(loaded)} pictures, got {len(labelled)} answers")
    except Exception as error:  # whatever is wrong with one picture must not cost the others
        if len(loaded) == 1:
            return [Failure(file=loaded[0].file, reason=describe(error), kind="model")]
        return [outcome for one in loaded for outcome in answer(step, [one], run)]
    return [
        Record(image=one.info, instances=found.instances, models=run.models, config=run.config, seconds=found.seconds)
        for one, found in zip(loaded, labelled, strict=True)
    ]


def write_outcomes(
    outcomes: Iterable[tuple[Outcome, int]],
    writer: Writer,
    source: Source,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    stop: Stop = lambda: False,
) -> Summary:
    """Write each outcome, with the number of the worker that it came from, as it comes; each picture once.

    Raises:
        OutputError: as in `label`.
    """
    progress, options = progress or Silent(), options or Options()
    skipped = len(writer.done)
    tally = Tally(writer.run.phrases)
    progress.begin(skipped if options.retry_failures else skipped + len(writer.failed), source.count)
    try:
        for outcome, worker in outcomes:
            written = writer.fail(outcome) if isinstance(outcome, Failure) else writer.append(outcome, worker)
            if written:
                tally.add(outcome)
                progress.show(tally)
    finally:
        progress.end(tally)
    return tally.summary(skipped, interrupted=stop())


def _outcomes(
    source: Source, step: Step, writer: Writer, options: Options, stop: Stop
) -> Iterator[tuple[Outcome, int]]:
    items = pending(source, writer, options.retry_failures)
    loaded = read_ahead(items, threads=options.readers, ahead=options.ahead, max_pixels=options.max_pixels)
    working: deque[Future[list[Outcome]]] = deque()
    # One batch more than there are workers, so that none of them waits while records are written.
    with ThreadPoolExecutor(options.workers, thread_name_prefix="label") as pool:
        for group in by_size(loaded, options.batch):
            if stop():
                break
            if isinstance(group, Failure):
                yield group, 0
                continue
            working.append(pool.submit(answer, step, group, writer.run))
            if len(working) > options.workers:
                yield from ((outcome, 0) for outcome in working.popleft().result())
        while working:
            yield from ((outcome, 0) for outcome in working.popleft().result())

"""Labelling in one process: images are loaded ahead, threads run the models, and records are written as they come.

Clips come after the images, one after the other, each frame by frame.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import torch

from grounded.data.image import MAX_PIXELS
from grounded.errors import ResultError, describe_error
from grounded.labelling.loading import LoadedImage, group_by_size, load_ahead
from grounded.labelling.progress import NoProgress, RunCounter, RunProgress, RunSummary
from grounded.labelling.records import Record
from grounded.labelling.sources import Item, Source
from grounded.labelling.store import Failure, FinishedClip, Run, Writer
from grounded.labelling.task import Task
from grounded.labelling.tracking import (
    check_clip_settings,
    count_frames,
    frames_to_go_on_from,
    track_clip,
    unfinished_clips,
)
from grounded.video.tracks import TrackedFrame

Outcome = Record | Failure | FinishedClip
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
    """Label every image of `source` that `writer` has no record of, and then track its clips to their ends.

    Args:
        source: the images and clips.
        task: the models. With several workers it is called by as many threads. For clips it is a `ClipTask`.
        writer: of the run; the caller closes it.
        options: how the work is scheduled.
        progress: updated after every image and frame.
        should_stop: called before each batch or frame; once it returns True none begins, and those in progress are
            finished.

    Raises:
        ConfigError: clips of the run were tracked with other settings of video.
        OutputError: records cannot be written. Those so far are complete, and the same call goes on from there.
    """
    options = options or EngineOptions()
    work = PendingWork(source, writer, options.retry_failures)
    outcomes = chain(
        _label_in_threads(work.images(), task, writer, options, should_stop),
        _track_one_by_one(work, task, writer, options, should_stop),
    )
    return write_outcomes(outcomes, writer, source, options=options, progress=progress, should_stop=should_stop)


def _label_in_threads(
    items: Iterator[Item], task: Task, writer: Writer, options: EngineOptions, should_stop: StopCheck
) -> Iterator[tuple[Outcome, int]]:
    """Yield the outcome of every image, with the shard 0."""
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


def _track_one_by_one(
    work: "PendingWork", task: Task, writer: Writer, options: EngineOptions, should_stop: StopCheck
) -> Iterator[tuple[Outcome, int]]:
    """Yield the outcomes of every clip that was put aside, with the shard 0."""
    threads = torch.get_num_threads()
    if options.workers > 1:  # each had its share of the cores
        torch.set_num_threads(threads * options.workers)
    try:
        while work.clips and not should_stop():
            item = work.clips.popleft()
            for outcome in track_clip(task, item, writer.run, work.frames_before(item)):
                yield outcome, 0
                if should_stop() and not isinstance(outcome, FinishedClip):
                    return
    finally:
        torch.set_num_threads(threads)


def pending_items(source: Source, writer: Writer, retry_failures: bool = False) -> Iterator[Item]:
    """Yield the items of `source` that are not done yet; those that failed before only with `retry_failures`.

    Raises:
        ConfigError: a clip of the run was tracked with other settings of video.
    """
    finished = {clip.file: clip.config for clip in writer.clips.values()}
    check_clip_settings(writer.folder, finished, writer.run)
    failed = set() if retry_failures else set(writer.failed)
    for item in source.items():
        done = writer.done if item.clip is None else writer.clips
        if item.file not in done and item.file not in failed:
            yield item


class PendingWork:
    """The images and clips of a source that are not done yet. Clips come last, as each takes a worker for long.

    Attributes:
        clips: those that have been met among the images; all of them once the images have been taken.
    """

    def __init__(self, source: Source, writer: Writer, retry_failures: bool = False) -> None:
        self._items = pending_items(source, writer, retry_failures)
        self._writer = writer
        self._unfinished: set[str] | None = None
        self.clips: deque[Item] = deque()

    def images(self) -> Iterator[Item]:
        for item in self._items:
            if item.clip is None:
                yield item
            else:
                self.clips.append(item)

    def frames_before(self, item: Item) -> dict[int, TrackedFrame]:
        """The frames that a clip goes on from: of an earlier run, or of this one where it was begun before.

        Raises:
            ConfigError: clips of the run were tracked with other settings of video.
            ResultError: a record is damaged.
        """
        writer = self._writer
        if self._unfinished is None:
            self._unfinished = unfinished_clips(writer.folder, writer.clips, writer.run)
        if item.file not in self._unfinished:
            self._unfinished.add(item.file)  # from now on
            return {}
        return frames_to_go_on_from(writer.folder, item.file)


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
    """Write outcomes as they come, each image and frame once.

    Args:
        outcomes: each with the number of the worker that it came from, which chooses the shard.
        writer: of the run.
        source: of the images and clips; only counted.
        options: as in `label_local`.
        progress: as in `label_local`.
        should_stop: whether the run was interrupted; called at the end.

    Raises:
        OutputError: as in `label_local`.
    """
    progress, options = progress or NoProgress(), options or EngineOptions()
    skipped = len(writer.done)
    counter = RunCounter(writer.run.phrases)
    progress.start(skipped if options.retry_failures else skipped + len(writer.failed), lambda: count_frames(source))
    try:
        for outcome, worker in outcomes:
            if _write(outcome, worker, writer):
                counter.add(outcome)
                if not isinstance(outcome, FinishedClip):
                    progress.update(counter)
    finally:
        progress.close(counter)
    return counter.summary(skipped, interrupted=should_stop())


def _write(outcome: Outcome, worker: int, writer: Writer) -> bool:
    if isinstance(outcome, Failure):
        return writer.fail(outcome)
    return writer.finish(outcome) if isinstance(outcome, FinishedClip) else writer.append(outcome, worker)

"""Ray workers and the pool that distributes images to them, repeating those of a worker that died.

A worker is sent chunks of items. When it dies, the images of its chunks are suspects: each is repeated by itself, on a
worker that has nothing else in progress, so that a second death is caused by that image. All others are innocent, and a
new worker takes the dead one's place.

Clips follow when the images have run out, one per worker, whose frames come back in several calls. A clip whose worker
dies is a suspect too: another one goes on with it from the last frame that has come back, and if that dies before one
more frame has come, the clip is at fault.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch

from grounded.errors import GroundedError, describe_error
from grounded.labelling.engines.local import EngineOptions, Outcome, PendingWork, StopCheck, label_batch
from grounded.labelling.loading import group_by_size, load_ahead
from grounded.labelling.records import Record
from grounded.labelling.sources import Item
from grounded.labelling.store import Failure, Run
from grounded.labelling.task import Task, TaskSpec
from grounded.labelling.tracking import track_clip
from grounded.video.tracks import TrackedFrame

# One of them is being read while the models are busy with the other.
CHUNKS_PER_WORKER = 2
# Deaths in a row that end the run: without an image, or a worker that has its models, between them.
_MAX_DEATHS = 20
_MAX_DEATHS_WHILE_LOADING = 3
_POLL_SECONDS = 0.5  # how soon a stop is noticed
_PLACEMENT_SECONDS = 300.0  # to wait for resources that others hold
_CLIP_SECONDS = 2.0  # after which a worker returns the frames that it has tracked
_STRAGGLER_SECONDS = 30.0  # that the first worker waits for the others, so that they begin together


class WorkerError(GroundedError):
    """Workers cannot be started, or die for reasons other than an image."""


class Worker:
    """The actor: runs in a process of its own. Calls come in threads, so that one reads while another computes."""

    def __init__(self, resources: Mapping[str, int | float], run: Run, options: EngineOptions) -> None:
        if not resources["num_gpus"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves them in sight
        self._threads, self._run, self._options = max(1, int(resources["num_cpus"])), run, options
        self._computing, self._stopped = threading.Lock(), threading.Event()
        self._task: Task | None = None
        self._clip: Iterator[Outcome] = iter(())  # the outcomes of the clip in progress that are still to come

    def load(self, spec: TaskSpec) -> None:
        self._task = spec.load()
        torch.set_num_threads(self._threads)

    def stop(self) -> None:
        """Begin no further batch."""
        self._stopped.set()

    def label(self, items: Sequence[Item]) -> list[Outcome]:
        """Label items; returns their outcomes in any order, and only some of them after `stop`."""
        assert self._task is not None
        options, outcomes = self._options, list[Outcome]()
        loaded = load_ahead(items, threads=options.readers, ahead=options.ahead, max_pixels=options.max_pixels)
        for group in group_by_size(loaded, options.batch):
            if isinstance(group, Failure):
                outcomes.append(group)
                continue
            with self._computing:
                if self._stopped.is_set():
                    break
                labelled = label_batch(self._task, group, self._run)
                if any(isinstance(outcome, Failure) for outcome in labelled):
                    _exit_if_gpu_is_broken()
            outcomes += labelled
        return outcomes

    def begin_clip(self, item: Item, before: Mapping[int, TrackedFrame]) -> list[Outcome]:
        """Track the first frame of a clip that follows those in `before`; see `go_on_with_clip`."""
        assert self._task is not None
        self._clip = track_clip(self._task, item, self._run, before)
        return self.go_on_with_clip(0)

    def go_on_with_clip(self, seconds: float = _CLIP_SECONDS) -> list[Outcome]:
        """Track the frames that follow, for so many seconds, and return their outcomes.

        The last one of a clip is no record. After `stop` there may be none.
        """
        outcomes, ends = list[Outcome](), time.monotonic() + seconds
        with self._computing:
            while not self._stopped.is_set():
                outcome = next(self._clip, None)
                if isinstance(outcome, Failure):
                    _exit_if_gpu_is_broken()
                outcomes += [] if outcome is None else [outcome]
                if not isinstance(outcome, Record) or time.monotonic() >= ends:
                    break
        return outcomes


def _exit_if_gpu_is_broken() -> None:
    """End the process if an error has made its GPU unusable: all images after it would fail, and fast."""
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)


class StartedWorker(NamedTuple):
    """An actor of `Worker`, and Ray references that become ready once it has its resources and its models."""

    actor: Any
    placed: Any
    loaded: Any


@dataclass(eq=False)
class _Slot:
    """A place for one worker, and the chunks in progress there. The number is that of its shard."""

    number: int
    actor: Any
    placed: Any
    loading: Any  # None once the models are loaded
    chunks: dict[Any, list[Item]] = field(default_factory=dict)  # by the reference of their outcomes
    clip: Item | None = None  # in progress: there is nothing else then
    was_alive: Any = None  # while a suspect is all that is in progress: ready if the worker lived when it was sent


class WorkerPool:
    """All workers, and the images in progress. Lives in the process that writes the records.

    Args:
        ray: the module, connected to a cluster.
        start: starts a worker.
        count: of workers.
        chunk_size: most images that are sent at once.
    """

    def __init__(self, ray: Any, start: Callable[[], StartedWorker], count: int, chunk_size: int) -> None:
        self._ray, self._start, self._chunk_size = ray, start, chunk_size
        self._slots = [_Slot(number, *start()) for number in range(count)]
        self._suspects: deque[Item] = deque()  # were with a worker when it died
        self._read_here: deque[Item] = deque()  # hold their bytes, because their worker cannot read them
        self._deaths = self._deaths_while_loading = 0
        self._placement_ends = time.monotonic() + _PLACEMENT_SECONDS

    def close(self) -> None:
        """End all workers."""
        for slot in self._slots:
            with suppress(Exception):  # the cluster itself may be gone
                self._ray.kill(slot.actor)

    def wait_until_loaded(self, should_stop: StopCheck) -> None:
        """Wait until the workers have their models: all of them, or the first and those not far behind it."""
        ends = float("inf")
        while any(slot.loading for slot in self._slots) and time.monotonic() < ends and not should_stop():
            for _ in self._poll():
                pass  # nothing but models is in progress
            if ends == float("inf") and not all(slot.loading for slot in self._slots):
                ends = time.monotonic() + _STRAGGLER_SECONDS

    def label(self, work: PendingWork, should_stop: StopCheck) -> Generator[tuple[Outcome, int], None, None]:
        """Yield the outcomes of all images and then of all clips, with the number of the worker, as they come.

        What is yielded has a record before the next one is taken, so that a clip can go on from it.

        Raises:
            WorkerError: workers die again and again, or none is given its resources.
        """
        stopping, images = False, work.images()
        while True:
            if not stopping and should_stop():
                stopping = True
                for slot in self._slots:
                    slot.actor.stop.remote()
            # One chunk for each worker before the second for any: there may be few images.
            for slot in [] if stopping else self._slots * CHUNKS_PER_WORKER:
                self._send_next_chunk(slot, images, work)
            is_idle = not any(slot.chunks for slot in self._slots)
            # If a worker that has its models was sent nothing, nothing is left.
            if is_idle and (stopping or not all(slot.loading for slot in self._slots)):
                return
            yield from self._poll(stopping)

    def _send_next_chunk(self, slot: _Slot, images: Iterator[Item], work: PendingWork) -> None:
        """Send one more chunk, if the worker has room; suspects come first, each to a worker with nothing else."""
        if slot.loading or slot.clip or slot.was_alive or len(slot.chunks) >= CHUNKS_PER_WORKER:
            return
        if self._suspects:
            if slot.chunks:
                return
            # A worker that had died by now, unnoticed, must not count against the image.
            slot.was_alive = slot.actor.__ray_ready__.remote()
            chunk = [self._suspects.popleft()]
            if chunk[0].clip is not None:
                self._begin_clip(slot, chunk[0], work)
                return
        else:
            chunk = [self._read_here.popleft() for _ in range(min(self._chunk_size, len(self._read_here)))]
            chunk += islice(images, self._chunk_size - len(chunk))
        if chunk:
            slot.chunks[slot.actor.label.remote(chunk)] = chunk
        elif work.clips and not slot.chunks:
            self._begin_clip(slot, work.clips.popleft(), work)

    def _begin_clip(self, slot: _Slot, item: Item, work: PendingWork) -> None:
        slot.clip = item
        slot.chunks[slot.actor.begin_clip.remote(item, work.frames_before(item))] = [item]

    def _poll(self, stopping: bool = False) -> Iterator[tuple[Outcome, int]]:
        """Wait up to `_POLL_SECONDS` for workers, and yield the outcomes that have come."""
        waiting = {ref: slot for slot in self._slots for ref in (slot.loading, *slot.chunks) if ref}
        self._ray.wait(list(waiting), timeout=_POLL_SECONDS)
        ready, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for ref in ready:
            slot = waiting[ref]
            if ref == slot.loading:
                self._finish_loading(slot)
            elif ref in slot.chunks:  # else its worker was replaced just now
                for outcome in self._collect(slot, ref):
                    yield outcome, slot.number
                if slot.clip is not None and not slot.chunks and not stopping:
                    slot.chunks[slot.actor.go_on_with_clip.remote()] = [slot.clip]
        self._check_placement()

    def _finish_loading(self, slot: _Slot) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(slot.loading)
        except errors.RayTaskError as error:  # raised by the task spec
            cause = error.cause
            raise cause if isinstance(cause, Exception) else WorkerError(describe_error(error)) from error
        except errors.RayError as error:
            self._deaths_while_loading += 1
            if self._deaths_while_loading >= _MAX_DEATHS_WHILE_LOADING:
                hint = "have they the memory, and every machine this version of the package?"
                raise WorkerError(f"workers die when they load the models: {_death_cause(error)}; {hint}") from error
            self._replace(slot)
        else:
            slot.loading, self._deaths_while_loading = None, 0

    def _collect(self, slot: _Slot, ref: Any) -> Iterator[Outcome]:
        """Yield the outcomes of a chunk. If its worker died, its images become suspects or, proven guilty, failures."""
        errors = self._ray.exceptions
        items, was_alive, slot.was_alive = slot.chunks.pop(ref), slot.was_alive, None
        try:
            outcomes = self._ray.get(ref)
        except errors.RayTaskError as error:  # not of the models, whose errors are outcomes
            reason = describe_error(error.cause or error)
            slot.clip = None
            yield from self._suspect(items, was_alive is not None, reason, "model")
        except errors.RayError as error:
            self._deaths += 1
            if self._deaths >= _MAX_DEATHS:
                message = f"{_MAX_DEATHS} workers died in a row, the last one so: {_death_cause(error)}"
                raise WorkerError(message) from error
            items += [item for chunk in slot.chunks.values() for item in chunk]
            self._replace(slot)
            reason = f"its worker died twice: {_death_cause(error)}"
            yield from self._suspect(items, self._is_ready(was_alive), reason, "crash")
        else:
            self._deaths = 0 if outcomes else self._deaths
            if slot.clip is not None:
                slot.clip = slot.clip if all(isinstance(outcome, Record) for outcome in outcomes) else None
                yield from outcomes
                return
            yield from self._read_for_worker(outcomes, items)

    def _is_ready(self, ref: Any) -> bool:
        if ref is not None:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(ref, timeout=1)
                return True
        return False

    def _suspect(self, items: list[Item], is_guilty: bool, reason: str, kind: str) -> Iterator[Outcome]:
        """Put items among the suspects, or yield the failure of the one that was alone with its worker."""
        if is_guilty:
            yield Failure(file=items[0].file, reason=reason, kind=kind, attempts=2)
        else:
            self._suspects.extend(items)

    def _read_for_worker(self, outcomes: Sequence[Outcome], items: Sequence[Item]) -> Iterator[Outcome]:
        """Yield outcomes, except of images that only this process can read: those are sent again as bytes."""
        by_name = {item.file: item for item in items}
        for outcome in outcomes:
            if isinstance(outcome, Failure) and outcome.kind == "read":
                try:
                    data = by_name[outcome.file].read()
                except Exception:  # of the same kind as the worker's, whose failure stands
                    yield outcome
                else:
                    self._read_here.append(replace(by_name[outcome.file], read=partial(bytes, data)))
            else:
                yield outcome

    def _replace(self, slot: _Slot) -> None:
        """Start a new worker in the place of one that died. Its chunks are lost."""
        self._ray.kill(slot.actor)  # it may only be out of reach
        slot.chunks.clear()
        slot.clip = None
        slot.actor, slot.placed, slot.loading = self._start()
        self._placement_ends = time.monotonic() + _PLACEMENT_SECONDS

    def _check_placement(self) -> None:
        """Raise WorkerError if no worker was given its resources for long: others hold them."""
        if time.monotonic() < self._placement_ends or not all(slot.loading for slot in self._slots):
            return
        if not self._ray.wait([slot.placed for slot in self._slots], timeout=0)[0]:
            raise WorkerError(f"no worker was given its CPUs and GPUs in {_PLACEMENT_SECONDS:.0f} s: others hold them")


def _death_cause(error: Exception) -> str:
    """The last line of Ray's message about a death, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [describe_error(error)]
    detail = lines[-1].partition("Worker exit detail: ")[2] or lines[-1]
    return detail.partition(" Some common causes")[0][:300]

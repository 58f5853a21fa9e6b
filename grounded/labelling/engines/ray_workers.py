"""Workers in processes of their own, and who is given which pictures: the part of the engine on Ray that may lose some.

A worker is sent chunks of items. When it dies, the pictures of its chunks are suspects: each is asked for again by
itself, of a worker that has nothing else under way, so that a second death is that picture's doing. Everything else is
innocent, and a new worker takes the dead one's place.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

from grounded.errors import GroundedError
from grounded.labelling.engines.local import Options, Outcome, Stop, answer
from grounded.labelling.loading import by_size, describe, read_ahead
from grounded.labelling.sources import Item
from grounded.labelling.store import Failure, Run
from grounded.labelling.task import Recipe, Step

# One of them is being read while the models are busy with the other.
CHUNKS_PER_WORKER = 2
# Deaths in a row that are bad luck still: without a picture, or a worker that has its models, between them.
_DEATHS = 20
_DEATHS_AT_START = 3
_POLL_SECONDS = 0.5  # how soon a stop is noticed
_PLACEMENT_SECONDS = 300.0  # until resources that others hold are given up
_STRAGGLER_SECONDS = 30.0  # that the first worker waits for the others, so that they begin together


class WorkerError(GroundedError):
    """Workers cannot be started, or die for reasons other than a picture."""


class Labeller:
    """What a worker's process holds. Calls come in threads: one reads while another computes."""

    def __init__(self, resources: Mapping[str, int | float], run: Run, options: Options) -> None:
        if not resources["num_gpus"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves them in sight
        self._threads, self._run, self._options = max(1, int(resources["num_cpus"])), run, options
        self._computing, self._stopped = threading.Lock(), threading.Event()
        self._step: Step | None = None

    def load(self, recipe: Recipe) -> None:
        import torch

        self._step = recipe.load()
        torch.set_num_threads(self._threads)

    def stop(self) -> None:
        """Let no further batch begin."""
        self._stopped.set()

    def label(self, items: Sequence[Item]) -> list[Outcome]:
        """Answer for the items, in any order; for some of them where the worker was told to stop."""
        assert self._step is not None
        options, outcomes = self._options, list[Outcome]()
        loaded = read_ahead(items, threads=options.readers, ahead=options.ahead, max_pixels=options.max_pixels)
        for group in by_size(loaded, options.batch):
            if isinstance(group, Failure):
                outcomes.append(group)
                continue
            with self._computing:
                if self._stopped.is_set():
                    break
                answers = answer(self._step, group, self._run)
                if any(isinstance(outcome, Failure) for outcome in answers):
                    _die_with_the_gpu()
            outcomes += answers
        return outcomes


def _die_with_the_gpu() -> None:
    """End the process where an error has left its GPU without use: all pictures after it would fail, and fast."""
    import torch

    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)


@dataclass(eq=False)
class _Worker:
    """One place for an actor, and what is under way to it. The number is that of its shard."""

    number: int
    actor: Any
    placed: Any
    loading: Any  # None once the models are there
    chunks: dict[Any, list[Item]] = field(default_factory=dict)
    alone: Any = None  # where a suspect is all that is under way: what is there if the worker lived when it came


class Crew:
    """All workers, and the pictures that are under way. Lives in the process that writes.

    Args:
        ray: the module, connected to a cluster.
        start: starts an actor of `Labeller`, and returns it, what is there once it has a place, and what is there once
            it has its models.
        count: of workers.
        chunk: most pictures that are sent at once.
    """

    def __init__(self, ray: Any, start: Callable[[], tuple[Any, Any, Any]], count: int, chunk: int) -> None:
        self._ray, self._start, self._chunk = ray, start, chunk
        self._workers = [_Worker(number, *start()) for number in range(count)]
        self._suspects: deque[Item] = deque()  # were with a worker when it died
        self._read_here: deque[Item] = deque()  # hold their bytes
        self._deaths = self._deaths_at_start = 0
        self._placement_ends = time.monotonic() + _PLACEMENT_SECONDS

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            with suppress(Exception):  # the cluster itself may be gone
                self._ray.kill(worker.actor)

    def wait(self, stop: Stop) -> None:
        """Wait until the workers have their models: all of them, or the first and those that are not far behind."""
        ends = float("inf")
        while any(worker.loading for worker in self._workers) and time.monotonic() < ends and not stop():
            for _ in self._events():
                pass  # nothing but models is under way
            if ends == float("inf") and not all(worker.loading for worker in self._workers):
                ends = time.monotonic() + _STRAGGLER_SECONDS

    def outcomes(self, items: Iterator[Item], stop: Stop) -> Generator[tuple[Outcome, int], None, None]:
        """Yield the outcome of every item, with the number of its worker, as they come.

        Raises:
            WorkerError: workers die again and again, or none is given its resources.
        """
        stopping = False
        while True:
            if not stopping and stop():
                stopping = True
                for worker in self._workers:
                    worker.actor.stop.remote()
            # One chunk for each worker before the second for any: there may be few pictures.
            for worker in [] if stopping else self._workers * CHUNKS_PER_WORKER:
                self._supply(worker, items)
            idle = not any(worker.chunks for worker in self._workers)
            # A worker that has its models and is given nothing means that there is nothing left.
            if idle and (stopping or not all(worker.loading for worker in self._workers)):
                return
            yield from self._events()

    def _supply(self, worker: _Worker, items: Iterator[Item]) -> None:
        """Send the worker one more chunk, if it has room; suspects come first, each to a worker with nothing else."""
        if worker.loading or worker.alone or len(worker.chunks) >= CHUNKS_PER_WORKER:
            return
        if self._suspects:
            if not worker.chunks:
                # A worker that was dead by then, unnoticed, must not count against the picture.
                worker.alone = worker.actor.__ray_ready__.remote()
                self._send(worker, [self._suspects.popleft()])
        elif chunk := list(islice(chain(_emptied(self._read_here), items), self._chunk)):
            self._send(worker, chunk)

    def _send(self, worker: _Worker, items: list[Item]) -> None:
        worker.chunks[worker.actor.label.remote(items)] = items

    def _events(self) -> Iterator[tuple[Outcome, int]]:
        """Wait a moment for something to happen, and yield the outcomes in it."""
        waited = {ref: worker for worker in self._workers for ref in (worker.loading, *worker.chunks) if ref}
        self._ray.wait(list(waited), timeout=_POLL_SECONDS)
        ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        for ref in ready:
            worker = waited[ref]
            if ref == worker.loading:
                self._loaded(worker)
            elif ref in worker.chunks:  # else its worker was replaced just now
                for outcome in self._collected(worker, ref):
                    yield outcome, worker.number
        self._check_placement()

    def _loaded(self, worker: _Worker) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(worker.loading)
        except errors.RayTaskError as error:  # raised by the recipe
            raise error.cause if isinstance(error.cause, Exception) else WorkerError(describe(error)) from error
        except errors.RayError as error:
            self._deaths_at_start += 1
            if self._deaths_at_start >= _DEATHS_AT_START:
                hint = "have they the memory, and every machine this version of the package?"
                raise WorkerError(f"workers die when they load the models: {_cause(error)}; {hint}") from error
            self._replace(worker)
        else:
            worker.loading, self._deaths_at_start = None, 0

    def _collected(self, worker: _Worker, ref: Any) -> Iterator[Outcome]:
        """Take the answer to a chunk, or find out what became of it."""
        errors = self._ray.exceptions
        items, alone, worker.alone = worker.chunks.pop(ref), worker.alone, None
        try:
            outcomes = self._ray.get(ref)
        except errors.RayTaskError as error:  # not the models', whose errors are outcomes
            yield from self._again(items, alone is not None, describe(error.cause or error), "model")
        except errors.RayError as error:
            self._deaths += 1
            if self._deaths >= _DEATHS:
                raise WorkerError(f"{_DEATHS} workers died in a row, the last one so: {_cause(error)}") from error
            items += [item for chunk in worker.chunks.values() for item in chunk]
            self._replace(worker)
            yield from self._again(items, self._is_there(alone), f"its worker died twice: {_cause(error)}", "crash")
        else:
            self._deaths = 0 if outcomes else self._deaths
            yield from self._readable(outcomes, items)

    def _is_there(self, ref: Any) -> bool:
        if ref is not None:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(ref, timeout=1)
                return True
        return False

    def _again(self, items: list[Item], convict: bool, reason: str, kind: str) -> Iterator[Outcome]:
        """Suspect the items, or convict the one that was alone."""
        if convict:
            yield Failure(file=items[0].file, reason=reason, kind=kind, attempts=2)
        else:
            self._suspects.extend(items)

    def _readable(self, outcomes: Sequence[Outcome], items: Sequence[Item]) -> Iterator[Outcome]:
        """Pass outcomes on, but for pictures that the worker could not read, and this process can."""
        named = {item.file: item for item in items}
        for outcome in outcomes:
            if isinstance(outcome, Failure) and outcome.kind == "read":
                try:
                    data = named[outcome.file].read()
                except Exception:  # as the worker said
                    yield outcome
                else:
                    self._read_here.append(Item(outcome.file, partial(bytes, data)))
            else:
                yield outcome

    def _replace(self, worker: _Worker) -> None:
        """Put a new actor into the place of one that died. What was under way to it is lost."""
        self._ray.kill(worker.actor)  # it may only be out of reach
        worker.chunks.clear()
        worker.actor, worker.placed, worker.loading = self._start()
        self._placement_ends = time.monotonic() + _PLACEMENT_SECONDS

    def _check_placement(self) -> None:
        """Raise WorkerError where no worker was given its resources for long: others hold them."""
        if time.monotonic() < self._placement_ends or not all(worker.loading for worker in self._workers):
            return
        if not self._ray.wait([worker.placed for worker in self._workers], timeout=0)[0]:
            raise WorkerError(f"no worker was given its CPUs and GPUs in {_PLACEMENT_SECONDS:.0f} s: others hold them")


def _emptied(queue: deque[Item]) -> Iterator[Item]:
    while queue:
        yield queue.popleft()


def _cause(error: Exception) -> str:
    """What Ray says of a death in its last line, less the advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [describe(error)]
    detail = lines[-1].partition("Worker exit detail: ")[2] or lines[-1]
    return detail.partition(" Some common causes")[0][:300]

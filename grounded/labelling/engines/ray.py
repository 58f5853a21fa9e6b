"""The loop of many processes, on one machine or a cluster: `engine.label` with its batches answered by Ray actors.

Each worker is an actor, a process that holds the models and a GPU, or a number of CPUs. It is sent names and not
pictures: an item of a folder, of a list or of an uncompressed TAR is read by the worker, so that pictures do not pass
through one machine; what a worker cannot read, since it shares no file system with the run, is read here and sent to it
as bytes. At most two chunks of pictures are under way to a worker, one of which is being read while the models are busy
with the other, and sources are listed no further: memory does not grow with their length. Answers come back as records,
and only this process writes them, those of worker i into shard i.

Ray Data, which does the same with less code, repeats a batch whose worker died without end: a data set of 40 with one
picture that kills its worker was at its twelfth dead worker when it was given up. It also takes its items as a
list or a data source of its own, and does not tell which pictures were lost. Here

- the pictures of a worker that died are asked for again, each by itself. One whose worker dies again becomes a failure
  of the kind "crash"; all others get their records, from a new worker in the dead one's place.
- a worker whose GPU no longer answers ends itself: all pictures after that would fail, and fast.
- workers that die one after the other without a finished picture between end the run, with an error.

Nothing is written for a picture before its answer is here, so a run may be killed, or lose machines, at any moment, and
is resumed by either engine.
"""

import importlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from grounded.errors import ConfigError
from grounded.labelling.engines.local import Options, Stop, pending, write_outcomes
from grounded.labelling.engines.ray_workers import CHUNKS_PER_WORKER, Crew, Labeller
from grounded.labelling.loading import describe
from grounded.labelling.progress import Progress, Summary
from grounded.labelling.sources import Source
from grounded.labelling.store import Run, Writer
from grounded.labelling.task import Recipe

# Pictures in a chunk, as a multiple of the batch: enough to find some of equal size, few enough to lose.
_BATCHES = 4
# Where pictures are not put together: few, so that workers end at about the same time.
_SINGLE = 2
_OBJECT_STORE_BYTES = 256 << 20  # names and records are small; what does not fit goes to the disk
_ENVIRONMENT = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def label_ray(
    source: Source,
    recipe: Recipe,
    writer: Writer,
    options: Options | None = None,
    *,
    workers: int | None = None,
    cpus_per_worker: int | float = 1,
    gpus_per_worker: int | float | None = None,
    address: str | None = None,
    progress: Progress | None = None,
    stop: Stop = lambda: False,
) -> Summary:
    """Label every picture of `source` that `writer` has no record of; the same records as `engine.label` writes.

    The clock of the summary starts when the workers have loaded their models. Where Ray runs in this process already,
    it is used and left running.

    Args:
        source: the pictures. Items are pickled.
        recipe: builds the step, in each worker.
        writer: of the run; the caller closes it.
        options: as in `engine.label`, but for `workers`: batch and readers are of each worker.
        workers: how many; None for as many as there is room for.
        cpus_per_worker: CPUs of each; PyTorch computes with as many threads.
        gpus_per_worker: GPUs of each, 0.5 where two share one; None for one where there are GPUs. A worker with 0 does
            not see them.
        address: of a cluster, "auto" for the one that this machine belongs to; None starts Ray here for this run, or
            follows the environment variable RAY_ADDRESS.
        progress: is told of every picture.
        stop: once it says so no further batch begins, and those in work are finished.

    Raises:
        ConfigError: Ray is not installed, no cluster answers, or it has not the resources; what a worker raises when it
            loads the models is raised as it is.
        WorkerError: workers die again and again, or the cluster's resources are taken by others.
        OutputError: as in `engine.label`.
    """
    options = options or Options()
    with _cluster(address) as ray:
        count, resources = fitting(ray.nodes(), workers, cpus_per_worker, gpus_per_worker)
        start = partial(_start, ray, resources, recipe, writer.run, options)
        chunk = _BATCHES * options.batch if options.batch > 1 else _SINGLE
        with closing(Crew(ray, start, count, chunk)) as crew:
            crew.wait(stop)
            outcomes = crew.outcomes(pending(source, writer, options.retry_failures), stop)
            with closing(outcomes):
                return write_outcomes(outcomes, writer, source, options=options, progress=progress, stop=stop)


def fitting(
    nodes: Sequence[Mapping[str, Any]], workers: int | None, cpus: int | float, gpus: int | float | None
) -> tuple[int, dict[str, int | float]]:
    """Return how many workers there are to be, and the resources of each.

    Args:
        nodes: of the cluster, as `ray.nodes()` lists them.
        workers: as many as this, or None for as many as there is room for; a worker lies on one node.
        cpus: of each worker.
        gpus: of each worker; None for one where there are any.

    Raises:
        ConfigError: there is no room for that many. Ray would wait for ever.
    """
    if cpus <= 0 or (gpus is not None and gpus < 0) or (workers is not None and workers < 1):
        raise ConfigError(
            f"workers need a CPU, and there must be one of them: got {workers} of {cpus} CPUs, {gpus} GPUs"
        )
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    all_cpus, all_gpus = (sum(node.get(name, 0) for node in alive) for name in ("CPU", "GPU"))
    gpus = (1 if all_gpus else 0) if gpus is None else gpus
    asked = {"CPU": cpus, "GPU": gpus}
    room = sum(min(int(node.get(name, 0) / share + 1e-6) for name, share in asked.items() if share) for node in alive)
    if room < (workers or 1):
        raise ConfigError(
            f"{workers or 1} x {cpus:g} CPUs and {gpus:g} GPUs were asked for, and Ray has room for {room} of them: "
            f"{all_cpus:g} CPUs and {all_gpus:g} GPUs on {len(alive)} machine{'' if len(alive) == 1 else 's'}"
        )
    return workers or room, {"num_cpus": cpus, "num_gpus": gpus}


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """The module ray, connected; what this starts, it ends."""
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(f'the engine ray needs Ray: pip install "grounded-segany[ray]" ({error})') from error
    if ray.is_initialized():
        yield ray
        return
    remote = address or os.environ.get("RAY_ADDRESS")
    _check_address(remote or "")
    own = {"address": "local", "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _environment():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **({"address": remote} if remote else own))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster at {remote or 'this machine'}: {describe(error)}") from error
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray has put its own in place of the caller's
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise ConfigError where nothing listens at host:port. Ray would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"no Ray cluster at {address}: {error.strerror or error}") from error


@contextmanager
def _environment() -> Iterator[None]:
    """What a Ray that is started here inherits: workers import from where this process does, and do not give way to
    every other process, and nothing is reported to anybody, unless the user has set it otherwise.
    """
    settings = {name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()}
    settings["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start(
    ray: Any, resources: Mapping[str, int | float], recipe: Recipe, run: Run, options: Options
) -> tuple[Any, Any, Any]:
    """Start a worker. Returns its actor, and what is there once it has a place and once it has its models."""
    # Ray would restart it and repeat its calls; who died of what is decided here. Two chunks, and a call to stop.
    actor = ray.remote(Labeller).options(
        **resources, max_concurrency=CHUNKS_PER_WORKER + 1, max_restarts=0, max_task_retries=0
    )
    actor = actor.remote(resources, run, options)
    return actor, actor.__ray_ready__.remote(), actor.load.remote(recipe)

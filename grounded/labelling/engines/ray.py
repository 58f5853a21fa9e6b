"""Labelling in many processes, on one machine or a cluster: as `engines.local`, with the batches run by Ray actors.

Each worker is an actor, a process that holds the models and a GPU, or a number of CPUs. It is sent names and not
images: an item of a folder, of a list or of an uncompressed TAR is read by the worker, so that images do not pass
through one machine. An image that a worker cannot read, because it shares no file system with the run, is read here and
sent to it as bytes. At most two chunks of images are in progress per worker, one of which is read while the models are
busy with the other, and sources are listed no further: memory does not grow with their length. Workers return records,
and only this process writes them, those of worker i into shard i.

Ray Data, which does the same with less code, repeats a batch whose worker died without end: a data set of 40 with one
image that kills its worker was at its twelfth dead worker when it was given up. It also takes its items as a
list or a data source of its own, and does not tell which images were lost. Here

- the images of a worker that died are repeated, each by itself. One whose worker dies again becomes a failure of the
  kind "crash"; all others get their records, from a new worker in the dead one's place.
- a worker whose GPU no longer responds ends itself: all images after that would fail, and fast.
- a clip is tracked by one worker, which returns its frames every two seconds. If it dies, another goes on from there.
- workers that die one after the other without a finished image between them end the run, with an error.

Nothing is written for an image before its record is here, so a run may be killed, or lose machines, at any moment, and
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

from grounded.errors import ConfigError, describe_error
from grounded.labelling.engines.local import EngineOptions, PendingWork, StopCheck, write_outcomes
from grounded.labelling.engines.ray_workers import CHUNKS_PER_WORKER, StartedWorker, Worker, WorkerPool
from grounded.labelling.progress import RunProgress, RunSummary
from grounded.labelling.sources import Source
from grounded.labelling.store import Run, Writer
from grounded.labelling.task import TaskSpec

# Images in a chunk, as a multiple of the batch: enough to find some of equal size, few enough to lose.
_BATCHES_PER_CHUNK = 4
# Images in a chunk without batches: few, so that workers end at about the same time.
_SINGLE_IMAGES_PER_CHUNK = 2
_OBJECT_STORE_BYTES = 256 << 20  # names and records are small; the excess goes to the disk
_ENVIRONMENT = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def label_ray(
    source: Source,
    spec: TaskSpec,
    writer: Writer,
    options: EngineOptions | None = None,
    *,
    workers: int | None = None,
    cpus_per_worker: int | float = 1,
    gpus_per_worker: int | float | None = None,
    address: str | None = None,
    progress: RunProgress | None = None,
    should_stop: StopCheck = lambda: False,
) -> RunSummary:
    """Label every image of `source` that `writer` has no record of, and track its clips, one per worker.

    Records are those that `label_local` writes.

    The clock of the summary starts when the workers have loaded their models. If Ray runs in this process already,
    it is used and left running.

    Args:
        source: the images and clips. Items are pickled.
        spec: builds the task, in each worker.
        writer: of the run; the caller closes it.
        options: as in `label_local`, but for `workers`: batch and readers are of each worker.
        workers: number of workers; None for as many as there is room for.
        cpus_per_worker: CPUs of each; PyTorch computes with as many threads.
        gpus_per_worker: GPUs of each, 0.5 where two share one; None for one where there are GPUs. A worker with 0 does
            not see them.
        address: of a cluster, "auto" for the one that this machine belongs to; None starts Ray here for this run, or
            follows the environment variable RAY_ADDRESS.
        progress: updated after every image and frame.
        should_stop: once it returns True no batch begins, and those in progress are finished.

    Raises:
        ConfigError: Ray is not installed, no cluster responds, or it does not have the resources. An error of a worker
            that loads the models is raised as it is.
        WorkerError: workers die again and again, or the cluster's resources are taken by others.
        OutputError: as in `label_local`.
    """
    options = options or EngineOptions()
    with _connect(address) as ray:
        count, resources = plan_workers(ray.nodes(), workers, cpus_per_worker, gpus_per_worker)
        start = partial(_start_worker, ray, resources, spec, writer.run, options)
        chunk_size = _BATCHES_PER_CHUNK * options.batch if options.batch > 1 else _SINGLE_IMAGES_PER_CHUNK
        with closing(WorkerPool(ray, start, count, chunk_size)) as pool:
            pool.wait_until_loaded(should_stop)
            outcomes = pool.label(PendingWork(source, writer, options.retry_failures), should_stop)
            with closing(outcomes):
                return write_outcomes(
                    outcomes, writer, source, options=options, progress=progress, should_stop=should_stop
                )


def plan_workers(
    nodes: Sequence[Mapping[str, Any]], workers: int | None, cpus: int | float, gpus: int | float | None
) -> tuple[int, dict[str, int | float]]:
    """Return the number of workers, and the resources of each as Ray's options.

    Args:
        nodes: of the cluster, as `ray.nodes()` lists them.
        workers: number of workers, or None for as many as there is room for; a worker lies on one node.
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
    per_worker = {"CPU": cpus, "GPU": gpus}
    room = sum(min(int(node.get(name, 0) / n + 1e-6) for name, n in per_worker.items() if n) for node in alive)
    if room < (workers or 1):
        raise ConfigError(
            f"{workers or 1} x {cpus:g} CPUs and {gpus:g} GPUs were asked for, and Ray has room for {room} of them: "
            f"{all_cpus:g} CPUs and {all_gpus:g} GPUs on {len(alive)} machine{'' if len(alive) == 1 else 's'}"
        )
    return workers or room, {"num_cpus": cpus, "num_gpus": gpus}


@contextmanager
def _connect(address: str | None) -> Iterator[Any]:
    """Yield the module ray, connected to a cluster. A Ray that is started here is shut down again."""
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(f'the engine ray needs Ray: pip install "grounded-segany[ray]" ({error})') from error
    if ray.is_initialized():
        yield ray
        return
    remote = address or os.environ.get("RAY_ADDRESS")
    _check_address(remote or "")
    local = {"address": "local", "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _ray_environment():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **({"address": remote} if remote else local))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster at {remote or 'this machine'}: {describe_error(error)}") from error
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
def _ray_environment() -> Iterator[None]:
    """Set the variables that a Ray started here inherits, unless the user has set them otherwise.

    With them workers import from the same paths as this process, do not give way to every other process, and no usage
    is reported to anybody.
    """
    variables = {name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()}
    variables["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker(
    ray: Any, resources: Mapping[str, int | float], spec: TaskSpec, run: Run, options: EngineOptions
) -> StartedWorker:
    # Ray would restart it and repeat its calls; the pool decides that itself. Two chunks, and a call to stop.
    actor_class = ray.remote(Worker).options(
        **resources, max_concurrency=CHUNKS_PER_WORKER + 1, max_restarts=0, max_task_retries=0
    )
    actor = actor_class.remote(resources, run, options)
    return StartedWorker(actor, placed=actor.__ray_ready__.remote(), loaded=actor.load.remote(spec))

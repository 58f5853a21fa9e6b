"""Measures the edge maps of many images in several processes."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from grounded.errors import ResultError
from grounded.evaluation.boundaries.annotations import read_annotations
from grounded.evaluation.boundaries.measure import THRESHOLDS, TOLERANCE, BoundaryCounts, measure_edge_map
from grounded.utils.processors import available_processors


@dataclass(frozen=True)
class BoundaryProtocol:
    """How boundaries are measured; the defaults are those of BSDS500."""

    thresholds: int = THRESHOLDS
    tolerance: float = TOLERANCE  # share of the image diagonal
    thinned: bool = True


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """The counts of one image."""

    name: str
    annotators: int
    counts: BoundaryCounts


def measure_edge_maps(
    edge_maps: Iterable[tuple[str, Float[np.ndarray, "_ _"]]],
    truths: dict[str, Path],
    protocol: BoundaryProtocol | None = None,
    workers: int | None = None,
) -> Generator[MeasuredImage, None, None]:
    """Yield the counts of each image, in the order in which edge maps come.

    Args:
        edge_maps: names of images with strengths from 0 to 1; taken while earlier ones are measured, a few ahead.
        truths: the ground truth by the name of the image, see `find_annotations`.
        protocol: how to measure; that of BSDS500 by default.
        workers: processes, with 1 none but this one; as many as there are processors by default.

    Raises:
        ResultError: ground truth cannot be read, or does not fit its edge map; the message names the image.
    """
    protocol, workers = protocol or BoundaryProtocol(), workers or available_processors()
    if workers == 1:
        for name, edge_map in edge_maps:
            yield _measure(name, edge_map, truths[name], protocol)
        return
    # Started afresh: a copy of this process would hold the models, and the locks of their threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        running: deque[Future[MeasuredImage]] = deque()
        for name, edge_map in edge_maps:
            running.append(pool.submit(_measure, name, edge_map, truths[name], protocol))
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _measure(name: str, edge_map: Float[np.ndarray, "h w"], truth: Path, protocol: BoundaryProtocol) -> MeasuredImage:
    annotations = read_annotations(truth)
    try:
        counts = measure_edge_map(edge_map, annotations, protocol.thresholds, protocol.tolerance, protocol.thinned)
    except ResultError as error:
        raise ResultError(f"{name}: {error}") from error
    return MeasuredImage(name, len(annotations), counts)

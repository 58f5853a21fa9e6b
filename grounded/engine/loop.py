"""The loop of the rounds: prepare, annotate, train, and on to the next; each step can be cut off and done again."""

from collections.abc import Callable

from tqdm import tqdm

from grounded.engine.accepted import accepted_masks
from grounded.engine.images import ChosenImages, choose_images, read_list
from grounded.engine.proposals import find_for_comparison, write_records
from grounded.engine.rounds import Engine
from grounded.engine.training import train_round
from grounded.errors import ResultError
from grounded.labelling.progress import RunProgress
from grounded.labelling.sources import open_source


def prepare(
    engine: Engine,
    device: str | None = None,
    progress: RunProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Engine:
    """Write the records of the current round, and return the engine in the phase "annotate"; as it was if interrupted.

    Raises:
        GroundedError: images or model cannot be read, or files cannot be written.
    """
    images = choose_images(engine, open_source(engine.plan.source))
    summary = write_records(engine, images, device, progress, should_stop)
    if summary.interrupted:
        return engine
    if not summary.images + summary.skipped:
        raise ResultError(f"no image of round {engine.number} can be read: {engine.round_folder()}/failures.jsonl")
    return engine.in_phase("annotate")


def finish(
    engine: Engine,
    device: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Engine:
    """End the current round: train on what was accepted, and return the engine at the beginning of the next one.

    After a round in which nothing was accepted, as one of the automatic stage, the model stays as it is.

    Raises:
        ResultError: nothing was accepted in a round in which a person annotates.
        GroundedError: as in `train_round`.
    """
    accepted = accepted_masks(engine.round_folder())
    if any(accepted.values()):
        if engine.phase == "annotate":
            engine = engine.in_phase("train")
        compare(engine, engine.number, device, should_stop)
        if should_stop() or not train_round(engine, device, tell, should_stop):
            return engine
    elif engine.round.stage != "auto":
        raise ResultError(
            f"nothing is accepted in round {engine.number}: annotate it first, with grounded engine annotate"
        )
    if engine.number == len(engine.plan.rounds):
        return engine.in_phase("done")
    return engine.in_phase("prepare", engine.number + 1)


def compare(
    engine: Engine, number: int, device: str | None = None, should_stop: Callable[[], bool] = lambda: False
) -> None:
    """Find what the model of a round finds by itself in the images that a person annotated, for the report.

    Raises:
        GroundedError: the model or images cannot be read, or files cannot be written.
    """
    folder = engine.round_folder(number)
    files = [file for file, masks in accepted_masks(folder).items() if masks]
    images = ChosenImages(open_source(engine.plan.source), read_list(folder))
    found = find_for_comparison(engine, number, images, files, device)
    for _ in tqdm(found, "comparing", len(files), unit="image", disable=None):
        if should_stop():
            break

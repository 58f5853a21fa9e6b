"""`grounded label`: find what a text names in a whole data set, one line of JSON per picture."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grounded.cli.options import NAMES, pipeline_options, settings
from grounded.errors import ConfigError, GroundedError

if TYPE_CHECKING:
    from grounded.labelling.engines.local import Options, Stop
    from grounded.labelling.progress import Summary
    from grounded.labelling.sources import Source
    from grounded.labelling.store import Writer
    from grounded.labelling.task import StepSpec
    from grounded.labelling.vocabulary import Vocabulary

# More batches at once bring a CPU little, and each needs memory of its own.
_MOST_WORKERS = 4


@click.command()
@click.argument("images", metavar="IMAGES")
@click.argument("text")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the pictures that a COCO or text file lists, if not its own.",
)
@pipeline_options
@click.option("--tiles", metavar="SIZE[:OVERLAP]", help="Look at pictures in tiles as well: 640:0.25.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who computes.")
@click.option("--address", help="With --engine ray: of a cluster, or auto.")
@click.option("--cpus-per-worker", type=float, default=1, show_default=True, help="With --engine ray.")
@click.option("--gpus-per-worker", type=float, help="With --engine ray; by default 1 where there are GPUs.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Batches computed at once; by default 1 on a GPU, and on a CPU as many as its cores, up to 4. With "
    "--engine ray processes that hold the models; by default as many as there is room for.",
)
@click.option("--batch", type=click.IntRange(min=1), help="Pictures of equal size computed together.  [1; on a GPU 8]")
@click.option("--restart", is_flag=True, help="Put aside what an earlier run left in the folder, and begin again.")
@click.option("--retry-failures", is_flag=True, help="Try again what failed in earlier runs.")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=200,
    show_default=True,
    help="Larger pictures are failures, by the size that the file states.",
)
@click.option(
    "--phrase-scores/--no-phrase-scores",
    default=True,
    show_default=True,
    help="Keep the score of every instance against every phrase.",
)
@click.option(
    "--sync-seconds",
    type=click.FloatRange(min=0),
    default=5,
    show_default=True,
    help="Longest work that a crash of the machine may cost.",
)
def label(
    images: str,
    text: str,
    out: Path,
    root: Path | None,
    tiles: str | None,
    engine: str,
    address: str | None,
    cpus_per_worker: float,
    gpus_per_worker: float | None,
    workers: int | None,
    batch: int | None,
    restart: bool,
    retry_failures: bool,
    max_megapixels: float,
    phrase_scores: bool,
    sync_seconds: float,
    **fields: Any,
) -> None:
    """Find what TEXT names in all IMAGES, and write one record per picture into a folder.

    IMAGES is a folder, a pattern such as "data/**/*.jpg", a text file of paths, a TAR file or a pattern of TAR files,
    or a COCO file. TEXT holds phrases, as in "a dog. the red mug", or is the path of a YAML vocabulary.

    A run that was interrupted or killed goes on where it was when the same command is given again.

    Exit status: 0 every picture has a record; 1 some failed, as failures.jsonl tells, or the run could not go on;
    2 wrong arguments; 130 or 143 interrupted, and the records so far are complete.
    """
    from grounded.labelling.engines.local import Options
    from grounded.labelling.sources import open_source
    from grounded.labelling.store import open_run
    from grounded.labelling.task import StepSpec
    from grounded.labelling.tiling.tiles import Tiles

    if local != "ray" and (address or gpus_per_worker is not None or cpus_per_worker != 1):
        raise click.UsageError("--address, --cpus-per-worker and --gpus-per-worker need --engine ray")
    try:
        config = settings(**{name: fields[name] for name in NAMES})
        spec = StepSpec(config, _vocabulary(text), Tiles.parse(tiles) if tiles else None)
        source = open_source(images, root)
        writer = open_run(
            out, spec.run(source.spec, phrase_scores=phrase_scores), restart=restart, sync_seconds=sync_seconds
        )
    except GroundedError as error:
        raise click.UsageError(str(error)) from error
    gpu = _on_gpu(config.device)
    options = Options(
        workers=workers or (1 if gpu else min(_cores(), _MOST_WORKERS)),
        batch=batch or (8 if gpu else 1),
        readers=max(2, min(8, _cores() // 2)),
        max_pixels=round(max_megapixels * 1e6),
        retry_failures=retry_failures,
    )
    engine_options: dict[str, Any] = {}
    if local == "ray":
        if config.device == "cpu":
            gpus_per_worker = gpus_per_worker or 0
        engine_options = {"workers": workers, "address": address}
        engine_options |= {"cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    _run(source, spec, writer, options, local, engine_options)


def _run(
    source: "Source",
    spec: "StepSpec",
    writer: "Writer",
    options: "Options",
    engine: str,
    engine_options: dict[str, Any],
) -> None:
    """Label, print the summary and exit."""
    from grounded.labelling.engines.local import pending
    from grounded.labelling.interrupts import interruptible
    from grounded.labelling.loading import describe
    from grounded.labelling.progress import Summary
    from segany import CheckpointError

    with interruptible(lambda line: click.echo(f"\n{line}", err=True)) as stop:
        try:
            with writer:
                summary = Summary(skipped=len(writer.done))
                if any(True for _ in pending(source, writer, options.retry_failures)):  # else no model is needed
                    label_with = _on_ray if local == "ray" else _here
                    summary = label_with(source, spec, writer, options, stop, **engine_options)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except Exception as error:
            reason = str(error) if isinstance(error, CheckpointError) else describe(error)
            click.echo(f"Error: {reason}", err=True)
            sys.exit(1)
    click.echo(str(summary))
    failed = len(writer.failed)
    if failed:
        again = "" if options.retry_failures else "; --retry-failures tries them again"
        click.echo(f"{failed} without a record, see {writer.folder / 'failures.jsonl'}{again}", err=True)
    sys.exit(stop.exit_status or (1 if failed else 0))


def _here(source: "Source", spec: "StepSpec", writer: "Writer", options: "Options", stop: "Stop") -> "Summary":
    """Label in this process."""
    from dataclasses import replace

    from grounded.labelling import progress
    from grounded.labelling.engines import local
    from grounded.models.weights import hashes

    threads = max(1, _cores() // options.workers) if options.workers > 1 else None
    step = replace(spec, threads=threads).load()
    writer.require_weights(hashes(spec.config))
    return local.label(source, step, writer, options, progress=progress.on(), stop=stop)


def _on_ray(
    source: "Source", spec: "StepSpec", writer: "Writer", options: "Options", stop: "Stop", **engine_options: Any
) -> "Summary":
    """Label in workers of Ray."""
    from grounded.labelling import progress
    from grounded.labelling.engines.ray import label_ray
    from grounded.models.weights import hashes

    writer.require_weights(hashes(spec.config))  # as far as they are on this machine
    return label_ray(source, spec, writer, options, progress=progress.on(), stop=stop, **engine_options)


def _vocabulary(text: str) -> "Vocabulary":
    """Phrases, or a file of them."""
    from grounded.labelling.vocabulary import Vocabulary

    if text.lower().endswith((".yaml", ".yml")):
        return Vocabulary.from_yaml(text)
    if os.path.exists(text):
        raise ConfigError(f"TEXT must be phrases or a YAML file, got the path {text}")
    return Vocabulary.from_text(text)


def _on_gpu(device: str) -> bool:
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _cores() -> int:
    """Cores that this process may use; a container is often given fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

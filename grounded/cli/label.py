"""The command `grounded label`: segments a data set, and writes one line of JSON per image or frame of a clip."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grounded.cli.options import pipeline_options, read_config
from grounded.errors import BusyError, ConfigError, GroundedError, describe_error
from grounded.utils.processors import available_processors

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.labelling.engines.local import EngineOptions
    from grounded.labelling.sources import Source
    from grounded.labelling.store import Failure, Writer
    from grounded.labelling.task import PipelineTaskSpec
    from grounded.labelling.vocabulary import Vocabulary

# Of what was not read: reasons, and names for each of them. failures.jsonl has all.
_REASONS_LISTED, _NAMES_LISTED = 10, 5
# More batches at once bring a CPU little, and each needs memory of its own.
_MOST_WORKERS = 4


@click.command()
@click.argument("images", metavar="IMAGES")
@click.argument("text")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the images that a COCO or text file lists, if not its own.",
)
@click.option("--clips", is_flag=True, help="Each folder of images, and each animated image, is one clip.")
@pipeline_options
@click.option("--tiles", metavar="SIZE[:OVERLAP]", help="Look at images in tiles as well: 640:0.25.")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where models run."
)
@click.option("--address", help="With --engine ray: of a cluster, or auto.")
@click.option("--cpus-per-worker", type=float, default=1, show_default=True, help="With --engine ray.")
@click.option("--gpus-per-worker", type=float, help="With --engine ray; by default 1 where there are GPUs.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Batches computed at once; by default 1 on a GPU, and on a CPU as many as its cores, up to 4. With "
    "--engine ray processes that hold the models; by default as many as there is room for.",
)
@click.option("--batch", type=click.IntRange(min=1), help="Images of equal size computed together.  [1; on a GPU 8]")
@click.option("--restart", is_flag=True, help="Put aside what an earlier run left in the folder, and begin again.")
@click.option("--retry-failures", is_flag=True, help="Try again what failed in earlier runs.")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=200,
    show_default=True,
    help="Larger images are failures, by the size that the file states.",
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
    help="A crash of the machine loses at most the work of so many seconds.",
)
def label(
    images: str,
    text: str,
    out: Path,
    root: Path | None,
    clips: bool,
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
    """Find what TEXT names in all IMAGES, and write one record per image into a folder.

    IMAGES is a folder, a pattern such as "data/**/*.jpg", a text file of paths and addresses, an address, a TAR file or
    a pattern of TAR files, or a COCO file. TEXT holds phrases, as in "a dog. the red mug", or is the path of a YAML
    vocabulary.

    Video files among them are tracked, each by itself, when the images are done: one record per frame, in which an
    object has the same track_id throughout. With --clips folders of images are clips too.

    A run that was interrupted or killed goes on where it was when the same command is given again.

    Exit status: 0 every image and frame has a record; 1 some failed, as failures.jsonl tells, or the run could not go
    on; 2 wrong arguments; 130 or 143 interrupted, and the records so far are complete.
    """
    if clips and root:
        raise click.UsageError("--clips is for folders of images, --root for images that a file lists")
    if engine != "ray" and (address or gpus_per_worker is not None or cpus_per_worker != 1):
        raise click.UsageError("--address, --cpus-per-worker and --gpus-per-worker need --engine ray")
    from grounded.labelling.sources import FolderSource, ListedFiles, SequenceSource, open_source
    from grounded.labelling.store import open_run
    from grounded.labelling.task import PipelineTaskSpec
    from grounded.labelling.tiling.tiles import Tiles

    try:
        config = read_config(**fields)
        spec = PipelineTaskSpec(config, _read_vocabulary(text), Tiles.parse(tiles) if tiles else None)
        source = open_source(images, root, videos=True)
        source = SequenceSource.of(source) if clips else source
        run = spec.describe_run(source.spec, phrase_scores=phrase_scores, clips=clips)
        writer = open_run(out, run, restart=restart, sync_seconds=sync_seconds)
        if isinstance(source, ListedFiles) and source.source_ids is not None:
            source.source_ids.write(out)  # exports keep them
    except BusyError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except GroundedError as error:
        raise click.UsageError(str(error)) from error

    own_files = source.left_out() if isinstance(source, (FolderSource, ListedFiles, SequenceSource)) else []
    for line in _shortened(own_files):
        click.echo(f"Note: left out, as this program wrote it: {line}", err=True)
    options = _engine_options(config.device, workers, batch, round(max_megapixels * 1e6), retry_failures)
    ray_options = {
        "workers": workers,
        "address": address,
        "cpus_per_worker": cpus_per_worker,
        "gpus_per_worker": 0 if gpus_per_worker is None and config.device == "cpu" else gpus_per_worker,
    }
    _label_and_exit(source, spec, writer, options, ray_options if engine == "ray" else None)


def _engine_options(
    device: str, workers: int | None, batch: int | None, max_pixels: int, retry_failures: bool
) -> "EngineOptions":
    """How the work is scheduled: by default on a GPU one worker and batches of eight, on a CPU a worker per core."""
    import torch

    from grounded.labelling.engines.local import EngineOptions

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return EngineOptions(
        workers=workers or (1 if on_gpu else min(available_processors(), _MOST_WORKERS)),
        batch=batch or (8 if on_gpu else 1),
        readers=max(2, min(8, available_processors() // 2)),
        max_pixels=max_pixels,
        retry_failures=retry_failures,
    )


def _label_and_exit(
    source: "Source",
    spec: "PipelineTaskSpec",
    writer: "Writer",
    options: "EngineOptions",
    ray_options: dict[str, Any] | None,
) -> None:
    """Run the engine, the one on Ray with `ray_options` or else the local one, print the summary and exit."""
    from grounded.labelling.engines.local import label_local, pending_items
    from grounded.labelling.engines.ray import label_ray
    from grounded.labelling.interrupts import catch_interrupts
    from grounded.labelling.progress import RunSummary, open_progress
    from grounded.models.checkpoints import hash_checkpoints, resolve_models
    from grounded.stages.detect import note_unread

    with catch_interrupts(lambda line: click.echo(f"\n{line}", err=True)) as interrupt:
        try:
            with writer:
                summary = RunSummary(skipped=len(writer.done))
                if any(True for _ in pending_items(source, writer, options.retry_failures)):  # else no model is needed
                    if ray_options is None:
                        threads = max(1, available_processors() // options.workers) if options.workers > 1 else None
                        task = replace(spec, threads=threads).load()
                        for note in note_unread(task.pipeline.detector, task.vocabulary.queries):
                            click.echo(f"Note: {note}", err=True)
                        label_all = partial(label_local, source, task)
                    else:
                        label_all = partial(label_ray, source, spec, **ray_options)
                    # With Ray, those on this machine.
                    writer.require_weights(hash_checkpoints(spec.config), resolve_models(spec.config))
                    summary = label_all(writer, options, progress=open_progress(), should_stop=interrupt)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except Exception as error:
            click.echo(f"Error: {describe_error(error)}", err=True)
            sys.exit(1)
    click.echo(str(summary))
    failed = len(writer.failed)
    if failed:
        for line in _list_unread(writer.failed.values()):
            click.echo(line, err=True)
        hint = "" if options.retry_failures else "; --retry-failures tries them again"
        click.echo(f"{failed} without a record, see {writer.folder / 'failures.jsonl'}{hint}", err=True)
    sys.exit(interrupt.exit_status or (1 if failed else 0))


def _list_unread(failures: "Iterable[Failure]") -> list[str]:
    """Return a line for each reason for which files were not read: "2 files were not read: a.heic, b.heic: ..."."""
    files: dict[tuple[bool, str], list[str]] = {}
    for failure in failures:
        if failure.kind in ("read", "image", "clip"):
            files.setdefault((failure.kind == "clip", failure.reason), []).append(failure.file)
    lines = []
    for (is_clip, reason), names in files.items():
        what = f"{len(names)} {'clip' if is_clip else 'file'}{'' if len(names) == 1 else 's'}"
        done = "tracked to its end" if is_clip else "read"
        lines.append(
            f"{what} {'was' if len(names) == 1 else 'were'} not {done}: {', '.join(_shortened(names))}: {reason}"
        )
    return lines[:_REASONS_LISTED]


def _shortened(names: list[str]) -> list[str]:
    """Return the first names, and how many others there are."""
    others = len(names) - _NAMES_LISTED
    return names if others <= 0 else [*names[:_NAMES_LISTED], f"and {others} more"]


def _read_vocabulary(text: str) -> "Vocabulary":
    """Read a YAML file, or split a text into phrases."""
    from grounded.labelling.vocabulary import Vocabulary

    if text.lower().endswith((".yaml", ".yml")):
        return Vocabulary.from_yaml(text)
    if os.path.exists(text):
        raise ConfigError(f"TEXT must be phrases or a YAML file, got the path {text}")
    return Vocabulary.from_text(text)

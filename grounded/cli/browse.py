"""`grounded browse`: look through a labelled data set, and correct it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grounded.config import from_dict, load, override
from grounded.errors import ConfigError, GroundedError
from grounded.settings import PipelineConfig

if TYPE_CHECKING:
    from grounded.labelling.sources import Source
    from grounded.labelling.store import Run


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", metavar="SOURCE", help="Where the pictures are now, if they have been moved.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. [default: the first free from 7870]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Whoever reaches it can see and correct; 0.0.0.0 lets other machines in.",
)
@click.option("--config", help="Preset or YAML file whose segmenter redraws masks. [default: that of the run]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--report", is_flag=True, help="Print how far reviews and labels agree, as JSON, and serve nothing.")
@click.option(
    "--static",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.html",
    help="Write a sheet of small overlays, the lowest scores first, and serve nothing.",
)
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Pictures on the sheet.")
def browse(
    folder: Path,
    images: str | None,
    port: int | None,
    host: str,
    config: str | None,
    device: str | None,
    report: bool,
    static: Path | None,
    limit: int,
) -> None:
    """Review what `grounded label` wrote into DIR, on a page of this machine.

    Instances are accepted, rejected, called something else, drawn again by clicks, and added. What is said is appended
    to DIR/reviews.jsonl at once; records stay as they are, and exports take both together. Ctrl-C ends it.

    Exit status: 0 ended by Ctrl-C, or written; 1 something failed; 2 wrong arguments.
    """
    from segany import CheckpointError

    try:
        from grounded.labelling.store import Run

        run = Run.read(folder)
        if report:
            from grounded.labelling.review.agreement import agreement

            click.echo(json.dumps(agreement(folder).to_dict(), indent=1))
            return
        source = _source(run, images)
        if static:
            from grounded.labelling.review.contact_sheet import write_sheet

            count = write_sheet(folder, source, static, limit)
            click.echo(f"{static}: {count} picture{'' if count == 1 else 's'}", err=True)
            return
        _serve(folder, source, _settings(run, config, device), host, port)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except (GroundedError, CheckpointError) as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("Stopped", err=True)


def _serve(folder: Path, source: "Source | None", settings: PipelineConfig, host: str, port: int | None) -> None:
    from grounded.labelling.review import server
    from grounded.labelling.review.clicks import Redrawing
    from grounded.labelling.review.session import Desk

    with server.listen(host, port) as taken:
        server.serve(Desk(folder, source, Redrawing(settings)), host, taken)


def _settings(run: "Run", config: str | None, device: str | None) -> PipelineConfig:
    settings = from_dict(run.configuration, where="the run's configuration") if config is None else load(config)
    return settings if device is None else override(settings, device=device)


def _source(run: "Run", images: str | None) -> "Source | None":
    """The pictures; without them masks can still be looked at, unless where they are was said and is wrong."""
    from grounded.labelling.sources import open_source

    if images is not None:
        return open_source(images)
    try:
        return open_source(run.source)
    except GroundedError as error:
        click.echo(f"Warning: {error}. Say with --images where the pictures are now", err=True)
        return None

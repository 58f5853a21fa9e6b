"""`grounded browse`: look through a labelled data set, and correct it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grounded.cli.errors import errors_as_messages
from grounded.config import PipelineConfig, from_dict, load, override
from grounded.errors import GroundedError

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.labelling.sources import Source
    from grounded.labelling.store import Run


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", metavar="SOURCE", help="Where the images are now, if they have been moved.")
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
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Images on the sheet.")
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

    Instances are accepted, rejected, relabelled, drawn again by clicks, and added. Each review is appended to
    DIR/reviews.jsonl at once; records stay as they are, and exports apply the reviews. Ctrl-C ends it.

    Frames of clips are shown, and not corrected here: a track is corrected from a frame on, by `grounded track` with
    --prompts or in the Video tab of `grounded demo`.

    Exit status: 0 ended by Ctrl-C, or written; 1 something failed; 2 wrong arguments.
    """
    from grounded.labelling.review import server
    from grounded.labelling.review.agreement import run_agreement
    from grounded.labelling.review.clicks import ClickSegmenter
    from grounded.labelling.review.contact_sheet import write_contact_sheet
    from grounded.labelling.review.session import ReviewSession
    from grounded.labelling.store import Run
    from grounded.output.fonts import letter_notes

    with errors_as_messages():
        run = Run.read(folder)
        if report:
            click.echo(json.dumps(run_agreement(folder).to_dict(), indent=1))
            return
        source = _open_images(run, images)
        if static:
            count = write_contact_sheet(folder, source, static, limit)
            for note in letter_notes(run.phrases):
                click.echo(f"Warning: {note}", err=True)
            click.echo(f"{static}: {count} image{'' if count == 1 else 's'}", err=True)
            return
        segmenter = ClickSegmenter(_read_config(run, config, device))
        try:
            with server.listen(host, port) as listener:
                server.serve(ReviewSession(folder, source, segmenter), host, listener)
        except KeyboardInterrupt:
            click.echo("Stopped", err=True)


def _read_config(run: "Run", name: str | None, device: str | None) -> PipelineConfig:
    config = from_dict(run.configuration, where="the run's configuration") if name is None else load(name)
    return config if device is None else override(config, device=device)


def _open_images(run: "Run", images: str | None) -> "Source | None":
    """Open the images of a run; None where they are not in their place any more, for masks can be reviewed without.

    Raises:
        GroundedError: there is nothing at the place that `images` names.
    """
    from grounded.labelling.frame_images import open_run_images

    if images is not None:
        return open_run_images(run, images)
    try:
        return open_run_images(run)
    except GroundedError as error:
        click.echo(f"Warning: {error}. Say with --images where the images are now", err=True)
        return None

"""`grounded export`: a labelled data set in a format that other programs read."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from grounded.errors import ConfigError, GroundedError
from grounded.labelling.formats.exporting import FORMATS, NOTE

if TYPE_CHECKING:
    from grounded.labelling.records import Record
    from grounded.labelling.store import Run


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--format", "name", required=True, type=click.Choice(list(FORMATS)), help="What to write.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="PATH",
    help="Output folder, new or empty. [default: DIR/exports/FORMAT]",
)
@click.option(
    "--min-score", type=click.FloatRange(0, 1), help="Leave out instances below; those of unknown score stay."
)
@click.option("--as-found", is_flag=True, help="Take no notice of reviews.")
@click.option("--accepted-only", is_flag=True, help="Leave out what nobody has looked at.")
@click.option("--with-images", is_flag=True, help="Write copies of the pictures, turned upright.")
@click.option("--images", metavar="SOURCE", help="Where the pictures are now, if they have been moved.")
@click.option("--replace", is_flag=True, help=f"Take the place of an earlier export, a folder with {NOTE} in it.")
def export(
    folder: Path,
    name: str,
    out: Path | None,
    min_score: float | None,
    as_found: bool,
    accepted_only: bool,
    with_images: bool,
    images: str | None,
    replace: bool,
) -> None:
    """Write what `grounded label` found, as it was corrected, in a format that other programs read.

    DIR is the folder of the run. The output folder is there when it is complete, and not before. What the format could
    not say is printed, and stated in its export.txt.

    Boxes and masks are of the upright pictures. Programs that ignore the EXIF orientation need the upright copies that
    --with-images writes.

    Exit status: 0 the folder is complete; 1 something failed, and there is no folder; 2 wrong arguments; 130
    interrupted.
    """
    from grounded.labelling.formats.exporting import export as write

    if as_found and accepted_only:
        raise click.UsageError("--accepted-only needs the reviews that --as-found leaves out")
    if images is not None and not with_images:
        raise click.UsageError("--images needs --with-images")
    out = out or folder / "exports" / name
    try:
        run = _run(folder)
        get = _pictures(run, images) if with_images else None
        records = tqdm(_records(folder, as_found, accepted_only), unit="picture", disable=None)
        chosen = _above(records, min_score)
        summary = write(name, chosen, _classes(folder, run, as_found), out, get, replace=replace)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except (GroundedError, ImportError) as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    click.echo(f"{folder} -> {out} ({summary.pictures} pictures, {summary.instances} instances)")
    for line in summary.lines():
        click.echo(f"  lost: {line}")


def _run(folder: Path) -> "Run":
    from grounded.labelling.store import Run

    return Run.read(folder)


def _pictures(run: "Run", images: str | None) -> Callable[[str], bytes]:
    from grounded.labelling.sources import open_source

    try:
        return open_source(images or run.source).get
    except ConfigError as error:
        hint = "" if images else "; say with --images where the pictures are now"
        raise ConfigError(f"{error}{hint}") from error


def _records(folder: Path, as_found: bool, accepted_only: bool) -> "Iterator[Record]":
    from grounded.labelling import store
    from grounded.labelling.review import apply

    return store.records(folder) if as_found else apply.corrected(folder, accepted_only)


def _above(records: "Iterable[Record]", min_score: float | None) -> "Iterator[Record]":
    from dataclasses import replace

    for record in records:
        if min_score is None:
            yield record
        else:
            is_below = record.instances.scores < min_score  # which no unknown score is
            yield replace(record, instances=record.instances[~is_below])


def _classes(folder: Path, run: "Run", as_found: bool) -> tuple[str, ...]:
    """The labels in the order in which they were asked for, then those that a person brought in, sorted."""
    from grounded.labelling import store
    from grounded.labelling.review import apply, log

    said = {} if as_found else log.by_file(review for review in log.read(folder) if review.phrase)
    if not said:
        return run.phrases
    said, index = log.by_file(log.read(folder)), store.record_index(folder)
    found = {
        label
        for file in said.keys() & index.keys()
        for label in apply.apply(store.record_at(*index[file]), said[file]).instances.labels.tolist()
    }
    return (*run.phrases, *sorted(found.difference(run.phrases)))

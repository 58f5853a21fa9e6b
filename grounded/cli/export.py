"""`grounded export`: a labelled data set in a format that other programs read."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from grounded.errors import ConfigError, GroundedError, ResultError
from grounded.labelling.formats import EXPORT_FORMATS, NOTE, VIDEO_FORMATS

if TYPE_CHECKING:
    from grounded.labelling.records import Record
    from grounded.labelling.store import Run


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--format", "name", required=True, type=click.Choice([*EXPORT_FORMATS, *VIDEO_FORMATS]), help="What to write."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="PATH",
    help="Output folder, new or empty. [default: DIR/exports/FORMAT]",
)
@click.option(
    "--min-score", type=click.FloatRange(0, 1), help="Leave out instances below; those of unknown score stay."
)
@click.option("--as-found", is_flag=True, help="Ignore reviews.")
@click.option("--accepted-only", is_flag=True, help="Leave out what nobody has looked at.")
@click.option("--with-images", is_flag=True, help="Write copies of the images, turned upright.")
@click.option("--images", metavar="SOURCE", help="Where the images are now, if they have been moved.")
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

    Frames of clips are images too, named "clip.mp4/000012.jpg"; --with-images decodes the clips. coco-video,
    youtube-vis, mot, mots and davis write tracks, a file or folder for each clip, from the records alone.

    Boxes and masks are of the upright images. Programs that ignore the EXIF orientation need the upright copies that
    --with-images writes.

    Exit status: 0 the folder is complete; 1 something failed, and there is no folder, or records of the run cannot be
    read and are missing from it; 2 wrong arguments; 130 interrupted.
    """
    from grounded.labelling.formats.exporter import export as write_export
    from grounded.labelling.frame_images import named_as_image
    from grounded.labelling.review.apply import corrected_records
    from grounded.labelling.store import Run, damaged_lines, read_records
    from grounded.labelling.store.source_ids import SourceIds

    if as_found and accepted_only:
        raise click.UsageError("--accepted-only needs the reviews that --as-found leaves out")
    if images is not None and not with_images:
        raise click.UsageError("--images needs --with-images")
    out = out or folder / "exports" / name
    if name in VIDEO_FORMATS:
        if accepted_only or with_images:
            raise click.UsageError(f"{name} is written from the records of clips, without images and without reviews")
        _export_clips(name, folder, out, min_score, replace)
        return
    try:
        run = Run.read(folder)
        read_image = _image_reader(run, images) if with_images else None
        damaged: list[str] = []
        found = read_records(folder, damaged) if as_found else corrected_records(folder, accepted_only, damaged)
        named = map(named_as_image, tqdm(found, unit="image", disable=None))
        records = _drop_below(named, min_score)
        classes, ids = _classes(folder, run, as_found), SourceIds.read(folder)
        summary = write_export(name, records, classes, out, read_image, replace=replace, source_ids=ids)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except (GroundedError, ImportError) as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    click.echo(f"{folder} -> {out} ({summary.images} images, {summary.instances} instances)")
    for line in summary.lines():
        click.echo(f"  lost: {line}")
    for line in damaged_lines(damaged):
        click.echo(f"Error: {line}", err=True)
    sys.exit(1 if damaged else 0)


def _export_clips(name: str, folder: Path, out: Path, min_score: float | None, replace: bool) -> None:
    """Write the tracks of the clips of a run."""
    from grounded.labelling.formats.video import export_clips

    try:
        with tqdm(unit="frame", disable=None) as progress:
            summary = export_clips(name, folder, out, min_score, progress.update, replace=replace)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except GroundedError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    click.echo(f"{folder} -> {out} ({summary.images} frames, {summary.instances} instances)")
    for line in summary.lines():
        click.echo(f"  lost: {line}")


def _image_reader(run: "Run", images: str | None) -> Callable[[str], bytes]:
    """Return a function from an image's `file` to its bytes, from `images` or else the source of the run."""
    from grounded.labelling.frame_images import open_run_images

    try:
        return open_run_images(run, images).get
    except ConfigError as error:
        hint = "" if images else "; say with --images where the images are now"
        raise ConfigError(f"{error}{hint}") from error


def _drop_below(records: "Iterable[Record]", min_score: float | None) -> "Iterator[Record]":
    """Yield records without the instances whose score is known and below `min_score`."""
    for record in records:
        if min_score is None:
            yield record
        else:
            is_below = record.instances.scores < min_score  # False for nan: unknown scores stay
            yield dataclasses.replace(record, instances=record.instances[~is_below])


def _classes(folder: Path, run: "Run", as_found: bool) -> tuple[str, ...]:
    """Return the labels in the order of the run's phrases, then those that a person brought in, sorted."""
    from grounded.labelling.review.apply import apply_reviews
    from grounded.labelling.review.log import group_by_file, read_reviews
    from grounded.labelling.store import index_records, read_record_at

    reviews = [] if as_found else read_reviews(folder, [])
    if not any(review.phrase for review in reviews):
        return run.phrases
    by_file, index = group_by_file(reviews), index_records(folder, [])
    labels: set[str] = set()
    for file in by_file.keys() & index.keys():
        with suppress(ResultError):  # said when it is exported
            labels.update(apply_reviews(read_record_at(*index[file]), by_file[file]).instances.labels.tolist())
    return (*run.phrases, *sorted(labels.difference(run.phrases)))

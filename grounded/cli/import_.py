"""`grounded import`: take back what was corrected elsewhere, or begin a run with other people's annotations."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grounded.errors import ConfigError, GroundedError
from grounded.labelling.formats import IMPORT_FORMATS

if TYPE_CHECKING:
    from grounded.labelling.formats.annotations import AnnotationReader, Notes

_REFUSED_SHOWN = 10
_ACTIONS = {"accept": "accepted", "reject": "rejected", "relabel": "relabelled", "redraw": "redrawn", "add": "added"}


@click.command("import")
@click.argument("path", metavar="PATH", type=click.Path(exists=True, path_type=Path))
@click.option("--format", "name", type=click.Choice(list(IMPORT_FORMATS)), help="By default guessed.")
@click.option(
    "--into",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the run that the annotations correct.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder: the annotations become a run of their own.",
)
@click.option(
    "--keep-missing", is_flag=True, help="With --into: do not reject what is missing, as after a partial COCO export."
)
@click.option("--images", metavar="SOURCE", help="With --out: where the images are.  [where the annotations are]")
@click.option(
    "--coco",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With COCO results: the annotation file that their ids are of.  [instances.json beside them]",
)
@click.option("--restart", is_flag=True, help="With --out: put aside what the folder holds, and begin again.")
def import_(
    path: Path,
    name: str | None,
    into: Path | None,
    out: Path | None,
    keep_missing: bool,
    images: str | None,
    coco: Path | None,
    restart: bool,
) -> None:
    """Import annotations of other tools, or what an export wrote: a file or folder of any format.

    Formats: COCO, COCO results, COCO panoptic, LabelMe, Label Studio, CVAT, YOLO, VOC, PNG, CSV and Parquet.

    With --into they are compared with the records of a run that was exported and corrected elsewhere: what is as it was
    is accepted, the rest is relabelled, redrawn, rejected or added. Images are told by their names, wherever the tool
    has moved them. What cannot be read is named and left out, and nothing is rejected in such an image. With --out they
    become records themselves.

    Exit status: 0 imported; 1 some images could not be, or none; 2 wrong arguments.
    """
    from grounded.labelling.formats.annotations import Notes, guess_format, open_annotations

    if (into is None) == (out is None):
        raise click.UsageError("give either --into, the folder of a run to correct, or --out, a new folder")
    if into is not None and (images or restart):
        raise click.UsageError("--images and --restart go with --out")
    if out is not None and keep_missing:
        raise click.UsageError("--keep-missing goes with --into")
    notes = Notes()
    try:
        name = name or guess_format(path)
        if coco is not None and name != "coco-results":
            raise ConfigError(f"--coco goes with COCO results, got {name}")
        reader = open_annotations(path, name, **({} if coco is None else {"coco": coco}))
        if into is not None:
            imported, refused, summary = _import_corrections(into, reader, name, notes, keep_missing)
        else:
            assert out is not None  # one of the two is given
            imported, refused, summary = _import_ground_truth(out, reader, path, name, notes, images, restart)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except (GroundedError, ImportError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    click.echo(f"{path} -> {into or out}: {imported} images, {summary}")
    for line in notes.lines():
        click.echo(f"  note: {line}", err=True)
    for file, reason in list(refused.items())[:_REFUSED_SHOWN]:
        click.echo(f"Error: {file}: {reason}", err=True)
    if len(refused) > _REFUSED_SHOWN:
        click.echo(f"{len(refused)} images were not imported; the first {_REFUSED_SHOWN} are named", err=True)
    if not imported:
        click.echo("Error: no image was imported", err=True)
    sys.exit(1 if refused or not imported else 0)


def _import_corrections(
    folder: Path, reader: "AnnotationReader", name: str, notes: "Notes", keep_missing: bool
) -> tuple[int, dict[str, str], str]:
    from grounded.labelling.formats.corrections import import_corrections

    result = import_corrections(folder, reader, name, notes, keep_missing)
    done = [f"{result.actions[action]} {text}" for action, text in _ACTIONS.items() if result.actions[action]]
    return result.images, result.refused, ", ".join(done) or "nothing new"


def _import_ground_truth(
    folder: Path, reader: "AnnotationReader", path: Path, name: str, notes: "Notes", images: str | None, restart: bool
) -> tuple[int, dict[str, str], str]:
    from grounded.labelling.formats.ground_truth import import_ground_truth, read_image_size, run_of
    from grounded.labelling.sources import open_source

    files: list[str] | None = None
    read_size = None
    if images is not None:
        image_source = open_source(images)
        source, files = image_source.spec, [item.file for item in image_source.items()]
        read_size = partial(read_image_size, image_source)
    else:
        # A COCO file lists the images itself; those of the other formats lie beside their annotations.
        place = path if name == "coco" or path.is_dir() else path.parent
        source = str(place.resolve())
    run = run_of(reader, path, name, source)
    result = import_ground_truth(folder, reader, run, notes, files, restart, read_size)
    return result.images, result.refused, f"{result.instances} instances"

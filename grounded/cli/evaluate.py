"""`grounded evaluate`: how good labels are."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.errors import ConfigError, GroundedError, ImageError
from grounded.utils.files import check_folder, json_bytes, written_together

if TYPE_CHECKING:
    from PIL import Image

    from grounded.evaluation.cases import Paired
    from grounded.evaluation.labels import LabelEvaluation
    from grounded.evaluation.matching import Kind
    from grounded.labelling.records import Record
    from grounded.labelling.store import Run

_KINDS: "dict[str, tuple[Kind, ...]]" = {"mask": ("mask",), "box": ("box",), "both": ("mask", "box")}


@click.group()
def evaluate() -> None:
    """Measure how good labels are."""


def _mapping(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """PHRASE=CLASS of `--map`, as a dict."""
    mapping = {}
    for value in values:
        phrase, _, label = (part.strip() for part in value.rpartition("="))
        if not phrase or not label:
            raise click.BadParameter(f"expected PHRASE=CLASS, got {value!r}", context, option)
        mapping[phrase] = label
    return mapping


@evaluate.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--truth",
    required=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="COCO annotation file: what there is to be found.",
)
@click.option(
    "--out", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), help="[default: DIR/evaluation]"
)
@click.option(
    "--iou",
    type=click.Choice(list(_KINDS)),
    default="both",
    show_default=True,
    help="What AP compares. All else compares masks, with box the boxes.",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    callback=_mapping,
    metavar="PHRASE=CLASS",
    help="A phrase that is called otherwise in the truth; may be repeated.",
)
@click.option("--as-found", is_flag=True, help="Measure the automatic labels, without the corrections of a review.")
@click.option(
    "--missing",
    type=click.Choice(["count", "skip"]),
    default="count",
    show_default=True,
    help="Pictures of the truth without a record: count as empty answers, or leave them out.",
)
@click.option("--images", metavar="SOURCE", help="Where the pictures are now. [default: where they were labelled]")
@click.option(
    "--iou-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Least IoU at which an answer finds an object.",
)
@click.option(
    "--boundary-tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.008,
    show_default=True,
    help="Distance at which boundaries agree, as a share of the image diagonal.",
)
@click.option(
    "--worst", type=click.IntRange(1, 100), default=12, show_default=True, help="Pictures on the sheet of the worst."
)
def labels(
    folder: Path,
    truth: Path,
    out: Path | None,
    iou: str,
    mapping: dict[str, str],
    as_found: bool,
    missing: str,
    images: str | None,
    **values: Any,
) -> None:
    """Measure the labels in DIR, which `grounded label` wrote, against a true annotation.

    A phrase asks for the class of the same name; upper and lower case, articles and underscores make no difference.
    Only classes that were asked are measured. Writes evaluation.json, evaluation.md, reliability.png, confusion.png and
    worst.png, the truth beside the answer in the pictures that were answered worst.

    Exit status: 0 measured; 1 something failed; 2 wrong arguments.
    """
    from grounded.evaluation.labels import MeasureSettings, evaluate_labels
    from grounded.evaluation.page import notes

    out = out or folder / "evaluation"
    try:
        check_folder(out)
        settings = MeasureSettings(kinds=_KINDS[iou], **values)
        run = _run(folder)
        paired = _paired(folder, run, truth, mapping, as_found, missing == "count")
        for note in notes(paired):
            click.echo(f"Warning: {note}", err=True)
        evaluation = evaluate_labels(paired, settings, _progress("measuring", "picture"))
        _write(out, evaluation, _picture_reader(images, run))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except GroundedError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    click.echo(_summary(evaluation))
    click.echo(f"-> {out / 'evaluation.md'}")


def _run(folder: Path) -> "Run | None":
    """What was asked; None in a folder that holds records alone."""
    from grounded.labelling.store import Run

    return None if not (folder / "run.json").exists() and (folder / "records").is_dir() else Run.read(folder)


def _paired(
    folder: Path, run: "Run | None", truth: Path, mapping: dict[str, str], as_found: bool, count_missing: bool
) -> "Paired":
    from grounded.evaluation.cases import pair
    from grounded.evaluation.naming import ClassNames
    from grounded.evaluation.truth import read_truth
    from grounded.labelling import store
    from grounded.labelling.review import apply

    true = read_truth(truth)
    found: Iterator[Record] = store.records(folder) if as_found else apply.corrected(folder)
    records = _progress("reading", "record")(found)
    return pair(records, true, ClassNames(true.classes, mapping), run.phrases if run else (), count_missing)


def _picture_reader(images: str | None, run: "Run | None") -> Callable[[str], bytes]:
    """Return what reads a picture by its name; without pictures, what raises for each."""
    from grounded.labelling.sources import open_source

    def nothing(file: str) -> bytes:
        raise ImageError(f"no such picture: {file}")

    if images is not None:
        return open_source(images).get
    if run is None:
        return nothing
    try:
        return open_source(run.source).get
    except ConfigError as error:
        click.echo(f"Warning: the pictures are not where they were: {error}; --images says where they are", err=True)
        return nothing


def _write(out: Path, evaluation: "LabelEvaluation", images: Callable[[str], bytes]) -> None:
    """Write all files, or none where one fails."""
    from grounded.evaluation.page import markdown
    from grounded.evaluation.plots import confusion_table, reliability_diagram
    from grounded.evaluation.report import to_dict
    from grounded.evaluation.worst import worst_sheet

    pictures = {
        "reliability.png": reliability_diagram(evaluation.reliability),
        "confusion.png": confusion_table(evaluation.confusion),
        "worst.png": worst_sheet(evaluation.worst, images),
    }
    with written_together() as write:
        for name, picture in pictures.items():
            write(out / name, _png(picture))
        write(out / "evaluation.json", json_bytes(to_dict(evaluation)))
        write(out / "evaluation.md", markdown(evaluation, tuple(pictures)).encode())


def _png(picture: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _summary(evaluation: "LabelEvaluation") -> str:
    """The most important numbers, in percent."""
    counts, absent = evaluation.overall, evaluation.absence.overall
    measures = [(f"{kind} AP", value.overall.mean) for kind, value in evaluation.precision.items()]
    measures += [("precision", counts.precision), ("recall", counts.recall), ("mean IoU of found", counts.mean_iou)]
    measures += [("boundary F of found", counts.boundary_f), ("absent phrases answered", absent.share)]
    measures += [("calibration error", evaluation.reliability.error)]
    told = ", ".join(f"{name} {100 * value:.1f}" for name, value in measures if value is not None)
    return f"{len(evaluation.paired.cases)} pictures, {len(evaluation.classes)} classes: {told}"


def _progress(what: str, unit: str) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Return what passes things on beside a bar on a terminal, and beside nothing elsewhere."""

    def passed_on(things: Iterable[Any]) -> Iterator[Any]:
        yield from tqdm(things, desc=what, unit=f" {unit}s", disable=None, leave=False)

    return passed_on

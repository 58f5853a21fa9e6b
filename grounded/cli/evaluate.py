"""`grounded evaluate`: how good labels are."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.errors import ConfigError, GroundedError, ImageError, ResultError, one_line

if (
    TYPE_CHECKING
):  # modules that load PyTorch are imported when they are used, so that --help and wrong arguments are fast
    from grounded.evaluation.dataset import GroundTruth, MatchedDataset
    from grounded.evaluation.evaluate import LabelEvaluation
    from grounded.evaluation.matching import IouType
    from grounded.labelling.store import Run

_IOU_TYPES: dict[str, tuple["IouType", ...]] = {"mask": ("mask",), "box": ("box",), "both": ("mask", "box")}


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
    help="COCO annotation file with the ground truth.",
)
@click.option(
    "--out", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), help="[default: DIR/evaluation]"
)
@click.option(
    "--iou",
    type=click.Choice(list(_IOU_TYPES)),
    default="both",
    show_default=True,
    help="What AP compares. All other measures compare masks, with box the boxes.",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    callback=_mapping,
    metavar="PHRASE=CLASS",
    help="A phrase with another name in the ground truth; may be repeated.",
)
@click.option("--as-found", is_flag=True, help="Measure the automatic labels, without the corrections of a review.")
@click.option(
    "--missing",
    type=click.Choice(["count", "skip"]),
    default="count",
    show_default=True,
    help="Images of the ground truth without a record: count as empty, or leave out.",
)
@click.option(
    "--count-crowds", is_flag=True, help="Take the crowds of the ground truth (iscrowd) for objects, not for regions."
)
@click.option("--images", metavar="SOURCE", help="Where the images are now. [default: where they were labelled]")
@click.option(
    "--iou-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Least IoU at which a prediction matches an object.",
)
@click.option(
    "--boundary-tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.008,
    show_default=True,
    help="Distance at which boundaries agree, as a share of the image diagonal.",
)
@click.option(
    "--worst", type=click.IntRange(1, 100), default=12, show_default=True, help="Images on the sheet of the worst."
)
def labels(
    folder: Path,
    truth: Path,
    out: Path | None,
    iou: str,
    mapping: dict[str, str],
    as_found: bool,
    missing: str,
    count_crowds: bool,
    images: str | None,
    **values: Any,
) -> None:
    """Measure the labels in DIR, which `grounded label` wrote, against ground truth.

    A phrase stands for the class of the same name; upper and lower case, articles and underscores make no difference.
    Only classes that a phrase asks for are measured. Objects that are a box without a mask are measured as boxes alone.
    What cannot be read of the ground truth is named and left out.

    Writes evaluation.json, evaluation.md, reliability.png, confusion.png and worst.png, the ground truth beside the
    predictions in the worst images.

    Exit status: 0 measured; 1 something failed, or records of the run cannot be read; 2 wrong arguments.
    """
    from grounded.evaluation.dataset import read_ground_truth
    from grounded.evaluation.evaluate import EvaluationConfig, evaluate_labels
    from grounded.evaluation.report.report import skipped_notes
    from grounded.output.fonts import letter_notes
    from grounded.utils.files import check_folder

    out = out or folder / "evaluation"
    damaged: list[str] = []  # lines on records and reviews that cannot be read
    try:
        check_folder(out)
        config = EvaluationConfig(iou_types=_IOU_TYPES[iou], **values)
        run = _read_run(folder)
        ground_truth = read_ground_truth(truth, count_crowds)
        dataset = _match(folder, run, ground_truth, mapping, as_found, missing == "count", damaged)
        for note in (*skipped_notes(dataset), *letter_notes(dataset.phrase_classes)):
            click.echo(f"Warning: {note}", err=True)
        evaluation = evaluate_labels(dataset, config, _progress("measuring", "image"))
        _write(out, evaluation, _image_reader(images, run))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except GroundedError as error:
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
    click.echo(_summary(evaluation))
    click.echo(f"-> {out / 'evaluation.md'}")
    sys.exit(1 if damaged else 0)


def _read_run(folder: Path) -> "Run | None":
    """Read the settings of a run; None in a folder that holds records alone."""
    from grounded.labelling.store import Run

    return None if not (folder / "run.json").exists() and (folder / "records").is_dir() else Run.read(folder)


def _match(
    folder: Path,
    run: "Run | None",
    ground_truth: "GroundTruth",
    mapping: dict[str, str],
    as_found: bool,
    count_missing: bool,
    damaged: list[str],
) -> "MatchedDataset":
    from grounded.evaluation.dataset import ClassNames, match_records
    from grounded.labelling.review.apply import corrected_records
    from grounded.labelling.store import damaged_lines, read_records

    found = read_records(folder, damaged) if as_found else corrected_records(folder, damaged=damaged)
    names = ClassNames(ground_truth.classes, mapping)
    records = _progress("reading", "record")(found)
    dataset = match_records(records, ground_truth, names, run.phrases if run else (), count_missing)
    lines = damaged_lines(damaged)
    if damaged and not any(pair.record_file for pair in dataset.pairs):
        raise ResultError("nothing to measure: " + "; ".join(lines))
    return replace(dataset, notes=(*lines, *dataset.notes))


def _image_reader(images: str | None, run: "Run | None") -> Callable[[str], bytes]:
    """Return a function that reads an image by its name; without images it raises ImageError."""
    from grounded.labelling.sources import open_source

    def raise_missing(file: str) -> bytes:
        raise ImageError(f"no such image: {file}")

    if images is not None:
        return open_source(images).get
    if run is None:
        return raise_missing
    try:
        return open_source(run.source).get
    except ConfigError as error:
        click.echo(f"Warning: the images are not where they were: {error}; --images says where they are", err=True)
        return raise_missing


def _write(out: Path, evaluation: "LabelEvaluation", read_image: Callable[[str], bytes]) -> None:
    """Write all files, or none where one fails."""
    from grounded.evaluation.report.plots import draw_confusion_matrix, draw_reliability_diagram
    from grounded.evaluation.report.report import to_dict, to_markdown
    from grounded.evaluation.report.worst import draw_worst
    from grounded.utils.files import atomic_files, image_bytes, json_bytes

    images = {
        "reliability.png": draw_reliability_diagram(evaluation.calibration),
        "confusion.png": draw_confusion_matrix(evaluation.confusion),
        "worst.png": draw_worst(evaluation.worst, read_image),
    }
    with atomic_files() as write:
        for name, image in images.items():
            write(out / name, image_bytes(image, optimize=True))
        write(out / "evaluation.json", json_bytes(to_dict(evaluation)))
        write(out / "evaluation.md", to_markdown(evaluation, tuple(images)).encode())


def _summary(evaluation: "LabelEvaluation") -> str:
    """The most important numbers, in percent."""
    counts, absent = evaluation.overall, evaluation.absent_classes.overall
    measures = [(f"{iou_type} AP", value.overall.mean) for iou_type, value in evaluation.precision.items()]
    measures += [("precision", counts.precision), ("recall", counts.recall), ("mean IoU of matches", counts.mean_iou)]
    measures += [("boundary F of matches", counts.boundary_f), ("false positives on absent classes", absent.rate)]
    measures += [("calibration error", evaluation.calibration.error)]
    listed = ", ".join(f"{name} {100 * value:.1f}" for name, value in measures if value is not None)
    return f"{len(evaluation.dataset.pairs)} images, {len(evaluation.classes)} classes: {listed}"


def _progress(action: str, unit: str) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Return a function that passes items on beside a progress bar on a terminal, and without one elsewhere."""

    def pass_on(items: Iterable[Any]) -> Iterator[Any]:
        yield from tqdm(items, desc=action, unit=f" {unit}s", disable=None, leave=False)

    return pass_on

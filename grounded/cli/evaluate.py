"""`grounded evaluate`: how good labels, tracks, masks and edges are."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.cli.errors import errors_as_messages
from grounded.cli.evaluate_boxes import boxes
from grounded.cli.evaluate_edges import edges
from grounded.cli.evaluate_points import points
from grounded.cli.evaluate_proposals import proposals
from grounded.cli.evaluate_text import text
from grounded.errors import ConfigError, ImageError, ResultError

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.evaluation.dataset import GroundTruth, MatchedDataset
    from grounded.evaluation.evaluate import LabelEvaluation
    from grounded.evaluation.matching import IouType
    from grounded.evaluation.video.evaluate import Protocol
    from grounded.evaluation.video.sources import ClipPair
    from grounded.labelling.formats.annotations import Notes
    from grounded.labelling.store import Run

_IOU_TYPES: dict[str, tuple["IouType", ...]] = {"mask": ("mask",), "box": ("box",), "both": ("mask", "box")}


@click.group()
def evaluate() -> None:
    """Measure how good labels, tracks, masks and edges are."""


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
    with errors_as_messages():
        check_folder(out)
        config = EvaluationConfig(iou_types=_IOU_TYPES[iou], **values)
        run = _read_run(folder)
        ground_truth = read_ground_truth(truth, count_crowds)
        dataset = _match(folder, run, ground_truth, mapping, as_found, missing == "count", damaged)
        for note in (*skipped_notes(dataset), *letter_notes(dataset.phrase_classes)):
            click.echo(f"Warning: {note}", err=True)
        evaluation = evaluate_labels(dataset, config, _progress("measuring", "image"))
        _write(out, evaluation, _image_reader(images, run))
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
    from grounded.labelling.frame_images import open_run_images
    from grounded.labelling.sources import open_source

    def raise_missing(file: str) -> bytes:
        raise ImageError(f"no such image: {file}")

    if images is not None:
        return open_source(images).get
    if run is None:
        return raise_missing
    try:
        return open_run_images(run).get
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


for _command in (edges, points, proposals, boxes, text):
    evaluate.add_command(_command)


@evaluate.command()
@click.argument("prediction", metavar="[PREDICTION]", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--truth", required=True, type=click.Path(exists=True, path_type=Path), help="The true masks or boxes of the clips."
)
@click.option(
    "--protocol",
    type=click.Choice(["davis", "tracks", "all"]),
    default="all",
    show_default=True,
    help="J and F of masks (davis); HOTA, IDF1, MOTA, switches and returns (tracks); or all of it.",
)
@click.option(
    "--match-ids",
    is_flag=True,
    help="For J and F, find out which prediction is which object, as for tracks from a text; all frames count then. "
    "[default: they have the same ids, as where masks were given]",
)
@click.option(
    "--baseline",
    type=click.Choice(["first-mask"]),
    help="Measure, instead of a prediction, the first true mask of each object copied to all frames.",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the measures into this file.",
)
def video(
    prediction: Path | None,
    truth: Path,
    protocol: "Protocol",
    match_ids: bool,
    baseline: str | None,
    json_file: Path | None,
) -> None:
    """Measure the tracks of clips in PREDICTION against the truth.

    Both are one of these: a folder of indexed PNG masks, as DAVIS has them, or of such folders; YouTube-VIS JSON; MOT
    or MOTS text, or a folder of it; and what `grounded track` wrote. Clips are paired by name, or where there is one of
    each, those.

    J is the overlap of masks, F that of their boundaries, by DAVIS: the first and the last frame do not count. HOTA,
    IDF1 and MOTA compare masks, or boxes where there are only those. An object that was out of sight for 4 frames or
    more is found again when its track has an IoU of 0.5 or more with it within 8 frames. Shares are in percent.

    Exit status: 0 measured; 1 something failed; 2 wrong arguments.
    """
    from grounded.evaluation.video.evaluate import evaluate_clips
    from grounded.evaluation.video.report import to_dict, to_text
    from grounded.labelling.formats.annotations import Notes
    from grounded.utils.files import check_folder, json_bytes, write_atomically

    if (prediction is None) == (baseline is None):
        raise click.UsageError("give either PREDICTION or --baseline")
    notes = Notes()
    with errors_as_messages():
        if json_file is not None:
            check_folder(json_file.parent)
        pairs = _pair_clips(prediction, truth, protocol == "davis" and not match_ids, notes)
        frames = sum(len(pair.numbers) for pair in pairs)
        with tqdm(total=frames, desc="measuring", unit=" frames", disable=None, leave=False) as bar:
            evaluation = evaluate_clips(pairs, protocol, match_ids=match_ids, on_frame=bar.update)
        if json_file is not None:
            write_atomically(json_file, json_bytes(to_dict(evaluation, notes.lines())))
    for note in (*notes.lines(), *evaluation.notes):
        click.echo(f"Warning: {note}", err=True)
    click.echo(to_text(evaluation))
    if json_file is not None:
        click.echo(f"-> {json_file}")


def _pair_clips(prediction: Path | None, truth: Path, is_davis: bool, notes: "Notes") -> "list[ClipPair]":
    """Open and pair all clips; without a prediction, each with copies of its own first masks."""
    from grounded.evaluation.video.clips import FirstMasks
    from grounded.evaluation.video.sources import open_clips, pair_clips

    truths = open_clips(truth, notes, is_truth=True)
    if prediction is None:
        copies = [FirstMasks.of(clip) for clip in _progress("reading", "clip")(truths)]
        return pair_clips(truths, copies, notes, is_davis=is_davis)
    return pair_clips(truths, open_clips(prediction, notes, truth=truths), notes, is_davis=is_davis)


def _progress(action: str, unit: str) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Return a function that passes items on beside a progress bar on a terminal, and without one elsewhere."""

    def pass_on(items: Iterable[Any]) -> Iterator[Any]:
        yield from tqdm(items, desc=action, unit=f" {unit}s", disable=None, leave=False)

    return pass_on

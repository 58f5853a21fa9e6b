"""`grounded evaluate edges`: edge maps against the boundaries that people drew, by the protocol of BSDS500."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from grounded.cli.errors import errors_as_messages
from grounded.cli.options import read_segmenter, segmenter_options
from grounded.errors import ResultError

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    import numpy as np

    from grounded.config import PipelineConfig
    from grounded.evaluation.boundaries.evaluate import BoundaryProtocol, MeasuredImage
    from grounded.evaluation.boundaries.scores import BoundaryScores
    from grounded.labelling.formats.annotations import Notes

    FindEdges = Callable[[Path], np.ndarray]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("images", metavar="[IMAGES]", required=False, type=_FOLDER)
@click.option(
    "--truth",
    required=True,
    metavar="DIR",
    type=_FOLDER,
    help="The true boundaries: NAME.mat of BSDS500, NAME.png, or a folder NAME of PNG files, one for each annotator.",
)
@click.option("--edges", metavar="DIR", type=_FOLDER, help="Measure edge maps made elsewhere: grey PNG files, 0 to 1.")
@click.option(
    "--method",
    type=click.Choice(["automatic", "sobel", "canny"]),
    default="automatic",
    show_default=True,
    help="How to find edges in IMAGES: by automatic masks, or without a model.",
)
@segmenter_options
@click.option(
    "--write-edges",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the edge maps that are found, for --edges.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write edges.json and edges.png, the precision-recall curve, into this folder.",
)
@click.option("--limit", type=click.IntRange(1), help="Measure so many images, evenly chosen by name. [all]")
@click.option("--workers", type=click.IntRange(1), help="Processes that measure. [one for each processor]")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 0.1, min_open=True),
    default=0.0075,
    show_default=True,
    help="Greatest distance of a matched pair of pixels, as a share of the image diagonal.",
)
@click.option("--thresholds", type=click.IntRange(1, 255), default=99, show_default=True, help="Of edge strength.")
def edges(
    images: Path | None,
    truth: Path,
    edges: Path | None,
    method: str,
    config: str,
    segmenter: str | None,
    device: str | None,
    write_edges: Path | None,
    out: Path | None,
    limit: int | None,
    workers: int | None,
    tolerance: float,
    thresholds: int,
) -> None:
    """Measure how well edges agree with the boundaries that people drew.

    The edges are found in IMAGES, a folder, by automatic masks as Segment Anything does, or read from --edges. Images,
    ground truth and edge maps belong together by their names without suffix.

    Prints ODS, OIS, AP and R50 by the protocol of BSDS500 beside published figures: at each threshold edges are
    thinned, and matched one to one with those of each annotator.

    Exit status: 0 measured; 1 something failed; 2 wrong arguments.
    """
    from grounded.evaluation.boundaries.annotations import find_annotations
    from grounded.evaluation.boundaries.evaluate import BoundaryProtocol, measure_edge_maps
    from grounded.evaluation.boundaries.scores import score_boundaries
    from grounded.labelling.formats.annotations import Notes
    from grounded.utils.files import check_folder

    if (images is None) == (edges is None):
        raise click.UsageError("give either IMAGES, to find edges in them, or --edges")
    notes = Notes()
    protocol = BoundaryProtocol(thresholds, tolerance)
    with errors_as_messages():
        for folder in filter(None, (out, write_edges)):
            check_folder(folder)
        truths = find_annotations(truth)
        name, files, find = _edge_maps(images, edges, method, lambda: read_segmenter(config, segmenter, device))
        chosen = _pair(files, truths, limit, notes)
        found = _found_edges(chosen, find, write_edges)
        with closing(measure_edge_maps(found, truths, protocol, workers)) as measuring:
            measured = list(tqdm(measuring, total=len(chosen), desc="measuring", unit=" images", disable=None))
        scores = score_boundaries([one.counts for one in measured])
        if out is not None:
            _write(out, name, protocol, measured, scores, notes)
    from grounded.evaluation.boundaries.report import to_text

    for note in notes.lines():
        click.echo(f"Warning: {note}", err=True)
    click.echo(to_text(name, protocol, measured, scores))
    if out is not None:
        click.echo(f"-> {out / 'edges.json'}, {out / 'edges.png'}")


def _edge_maps(
    images: Path | None, edges: Path | None, method: str, read: "Callable[[], PipelineConfig]"
) -> "tuple[str, dict[str, Path], FindEdges]":
    """Return what is measured, the files by name, and how an edge map comes from a file."""
    from grounded.data.image import open_image
    from grounded.evaluation.boundaries.edge_map_files import find_edge_maps, read_edge_map
    from grounded.labelling.sources.items import is_image

    if edges is not None:
        return edges.name, find_edge_maps(edges), read_edge_map
    assert images is not None
    files = {path.stem: path for path in sorted(images.iterdir()) if is_image(path.name)}
    if method != "automatic":
        from grounded.experiments.edge_filters import detect_edges

        return method, files, lambda path: detect_edges(open_image(path).pixels, method)
    from grounded.experiments.edges import automatic_edges
    from grounded.models.build import load_segmenter, pick_device

    settings = read()
    segmenter = load_segmenter(settings, pick_device(settings.device))
    return settings.segmenter.checkpoint, files, partial(automatic_edges, segmenter)


def _pair(files: dict[str, Path], truths: dict[str, Path], limit: int | None, notes: "Notes") -> dict[str, Path]:
    """Return the files that have ground truth, or some of them; what has no counterpart is noted."""
    for name in files.keys() - truths.keys():
        notes.add("images without ground truth, left out", name)
    for name in truths.keys() - files.keys():
        notes.add("ground truth without an image, left out", name)
    common = sorted(files.keys() & truths.keys())
    if not common:
        raise ResultError(f"nothing to measure: the {len(truths)} names of the ground truth are those of no image")
    if limit is not None and limit < len(common):
        notes.add("images left out by --limit", count=len(common) - limit)
        common = [common[number * len(common) // limit] for number in range(limit)]
    return {name: files[name] for name in common}


def _found_edges(files: dict[str, Path], find: "FindEdges", folder: Path | None) -> "Iterator[tuple[str, np.ndarray]]":
    from grounded.evaluation.boundaries.edge_map_files import edge_map_bytes
    from grounded.utils.files import write_atomically

    for name, path in files.items():
        edge_map = find(path)
        if folder is not None:
            write_atomically(folder / f"{name}.png", edge_map_bytes(edge_map))
        yield name, edge_map


def _write(
    out: Path,
    name: str,
    protocol: "BoundaryProtocol",
    measured: "list[MeasuredImage]",
    scores: "BoundaryScores",
    notes: "Notes",
) -> None:
    """Write both files, or none where one fails."""
    from grounded.evaluation.boundaries.report import draw_precision_recall, to_dict
    from grounded.utils.files import atomic_files, image_bytes, json_bytes

    with atomic_files() as write:
        write(out / "edges.json", json_bytes(to_dict(name, protocol, measured, scores, notes.lines())))
        write(out / "edges.png", image_bytes(draw_precision_recall(name, len(measured), scores), optimize=True))

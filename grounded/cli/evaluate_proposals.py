"""`grounded evaluate proposals`: how many annotated objects automatic masks find, as average recall."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grounded.cli.errors import errors_as_messages
from grounded.cli.experiment_images import (
    ExperimentImages,
    ResultLog,
    Rows,
    experiment_options,
    measure_images,
    read_experiment,
)
from grounded.cli.options import read_segmenter, segmenter_options

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from PIL.Image import Image

    from grounded.data.protocols import Segmenter
    from grounded.experiments.proposals import ProposalConfig


@click.command()
@experiment_options("proposals")
@segmenter_options
@click.option("--points-per-side", type=click.IntRange(1, 256), default=64, show_default=True, help="Of the grid.")
@click.option(
    "--nms-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Box IoU above which one of two masks is dropped.",
)
@click.option("--pred-iou-thresh", type=float, default=0.0, show_default=True, help="Least predicted IoU; 0 keeps all.")
@click.option(
    "--stability-score-thresh",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Least stability score; 0 keeps all.",
)
def proposals(
    truth: Path,
    images: str | None,
    out: Path,
    limit: int | None,
    sample: int | None,
    seed: int,
    restart: bool,
    config: str,
    segmenter: str | None,
    device: str | None,
    **values: Any,
) -> None:
    """Measure how many objects of INSTANCES, a COCO or LVIS annotation file, automatic masks find.

    Segment Anything's section 7.3: a grid of 64 x 64 points, nothing filtered, at most 1000 masks of an image ranked by
    predicted IoU and stability score. Prints mask AR@10, @100 and @1000 of all objects and by size, for LVIS files by
    class frequency as well. Crowds are ignored.

    Writes proposals.json, and proposals.jsonl with the counts of every image.

    Exit status: 0 measured; 1 something failed; 2 wrong arguments; 130 interrupted, and the same command goes on.
    """
    from grounded.evaluation.proposals import found_from_dict, sum_found, to_dict, to_text
    from grounded.experiments.proposals import ProposalConfig
    from grounded.labelling.formats.annotations import Notes
    from grounded.models.build import load_segmenter, pick_device
    from grounded.models.checkpoints import hash_checkpoints
    from grounded.utils.files import check_folder, json_bytes, write_atomically

    notes = Notes()
    with errors_as_messages():
        check_folder(out)
        settings, how = read_segmenter(config, segmenter, device), ProposalConfig(**values)
        chosen = read_experiment(truth, images, limit, sample, seed, notes)
        header = {"truth": str(truth), "segmenter": asdict(settings.segmenter), "proposals": asdict(how)}
        model = load_segmenter(settings, pick_device(settings.device))
        header |= {"weights": hash_checkpoints(settings, ("segmenter",))}
        log = ResultLog(out / "proposals.jsonl", header, restart)
        for note in notes.lines():
            click.echo(f"Warning: {note}", err=True)
        unread = Notes()
        rows = measure_images(
            chosen, log, unread, "proposing", lambda file, pixels: _measure(model, chosen, file, pixels, how)
        )
        groups = sum_found(found_from_dict(row["groups"]) for image in rows.values() for row in image)
        counts = [row["proposals"] for image in rows.values() for row in image]
        lines = [*notes.lines(), *unread.lines()]
        write_atomically(out / "proposals.json", json_bytes(to_dict(header, groups, counts, lines)))
    for note in unread.lines():
        click.echo(f"Warning: {note}", err=True)
    click.echo(to_text(groups, counts))
    click.echo(f"-> {out / 'proposals.json'}")


def _measure(
    segmenter: "Segmenter", chosen: ExperimentImages, file: str, pixels: "Image", how: "ProposalConfig"
) -> Rows:
    """Return the counts of one image."""
    from grounded.evaluation.proposals import count_found, found_to_dict
    from grounded.experiments.proposals import propose_masks

    found = propose_masks(segmenter, pixels, how)
    frequencies = None if chosen.federation is None else chosen.federation.frequencies
    objects = [one for one in chosen.objects[file] if one.mask is not None]
    groups = count_found(found.rles, objects, frequencies)
    return [{"proposals": len(found.rles), "groups": found_to_dict(groups)}]

"""`grounded evaluate points`: masks from one to nine clicks against the masks of a COCO annotation file."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.cli.errors import errors_as_messages
from grounded.cli.experiment_images import SIZE_DIFFERS, ResultLog
from grounded.cli.options import read_segmenter, segmenter_options
from grounded.errors import ImageError, ResultError, one_line

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.data.protocols import Segmenter
    from grounded.evaluation.points import ClickedMask
    from grounded.labelling.formats.annotations import Notes
    from grounded.labelling.formats.coco_file import CocoFile, CocoImage

_MASKS_AT_ONCE = 16
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("truth", metavar="INSTANCES", type=_FILE)
@click.option("--images", metavar="SOURCE", help="Where the images are. [default: beside INSTANCES]")
@click.option(
    "--out",
    default="points",
    show_default=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results; an evaluation that was interrupted goes on there.",
)
@segmenter_options
@click.option("--clicks", type=click.IntRange(1, 9), default=9, show_default=True, help="Greatest number of clicks.")
@click.option(
    "--groups",
    "groups_file",
    metavar="CSV",
    type=_FILE,
    help="Also measure by group: a table with the columns annotation_id and group.",
)
@click.option("--limit", type=click.IntRange(1), help="Measure so many images, the first of the file. [all]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random first clicks.")
@click.option("--restart", is_flag=True, help="Begin again where an earlier evaluation lies in --out.")
def points(
    truth: Path,
    images: str | None,
    out: Path,
    config: str,
    segmenter: str | None,
    device: str | None,
    clicks: int,
    groups_file: Path | None,
    limit: int | None,
    seed: int,
    restart: bool,
) -> None:
    """Measure masks from single points, and from up to nine, against INSTANCES, a COCO annotation file.

    The first point is the one of a true mask farthest from its boundary, or a random one in it; each later one lies in
    the middle of the largest error region. Prints the mean IoU of the mask that the model scores best, and that of the
    best one of three (oracle). Crowds are left out.

    Writes points.json, points.png with the curves, and points.jsonl with the IoU of every mask.

    Exit status: 0 measured; 1 something failed; 2 wrong arguments; 130 interrupted, and the same command goes on.
    """
    from grounded.evaluation.points import draw_click_curves, read_groups, to_dict, to_text
    from grounded.labelling.formats.annotations import LeftOut, Notes
    from grounded.labelling.formats.coco_file import read_coco
    from grounded.models.build import load_segmenter, pick_device
    from grounded.models.checkpoints import hash_checkpoints
    from grounded.utils.files import atomic_files, check_folder, image_bytes, json_bytes

    notes = Notes()
    with errors_as_messages():
        check_folder(out)
        settings = read_segmenter(config, segmenter, device)
        groups = {} if groups_file is None else read_groups(groups_file)
        coco = read_coco(truth)
        coco.note_left_out(LeftOut(notes, ""))
        header = {"truth": str(truth), "segmenter": asdict(settings.segmenter), "clicks": clicks, "seed": seed}
        model = load_segmenter(settings, pick_device(settings.device))
        header |= {"weights": hash_checkpoints(settings, ("segmenter",))}
        log = ResultLog(out / "points.jsonl", header, restart)
        chosen = coco.images[:limit]
        masks = _measure(coco, chosen, images or str(truth.parent), model, log, clicks, seed, notes)
        if not masks:
            raise ResultError("nothing to measure: no image of the annotation file could be read with a mask")
        for id in groups.keys() - {mask.id for mask in masks}:
            notes.add("annotations of --groups that were not measured", id)
        with atomic_files() as write:
            write(out / "points.json", json_bytes(to_dict(header, masks, groups, notes.lines())))
            write(out / "points.png", image_bytes(draw_click_curves(masks), optimize=True))
    for note in notes.lines():
        click.echo(f"Warning: {note}", err=True)
    click.echo(to_text(masks, groups))
    click.echo(f"-> {out / 'points.json'}, {out / 'points.png'}")


def _measure(
    coco: "CocoFile",
    images: "tuple[CocoImage, ...]",
    source: str,
    segmenter: "Segmenter",
    log: ResultLog,
    clicks: int,
    seed: int,
    notes: "Notes",
) -> "list[ClickedMask]":
    """Measure all images that the log does not hold, and return the masks of all."""
    from grounded.data.image import open_image
    from grounded.evaluation.points import ClickedMask
    from grounded.labelling.sources import open_source

    opened, masks = open_source(source), list[Any]()
    for number, image in enumerate(tqdm(images, desc="clicking", unit=" images", disable=None, leave=False)):
        file = image.file_name or ""
        if file not in log.done:
            try:
                pixels = open_image(opened.get(file)).pixels
            except ImageError as error:
                notes.add("images that cannot be read, left out", f"{file}: {one_line(error, 100)}")
                continue
            found = _click_image(coco, image, pixels, segmenter, clicks, seed + number, notes)
            log.append(file, [asdict(one) for one in found])
        masks += [ClickedMask(**row) for row in log.done[file]]
    return masks


def _click_image(
    coco: "CocoFile", image: "CocoImage", pixels: Any, segmenter: "Segmenter", clicks: int, seed: int, notes: "Notes"
) -> "Iterator[ClickedMask]":
    """Yield the masks of an image, which is encoded once."""
    import torch

    from grounded.evaluation.points import ClickedMask
    from grounded.experiments.points import FIRST_CLICKS, measure_clicks
    from segany.utils.rle import decode_rle

    size = (pixels.height, pixels.width)
    if image.image_size not in (None, size):
        notes.add(SIZE_DIFFERS, image.file_name or "")
        return
    objects = list(_masks_of(coco, image, size, notes))
    embedding = segmenter.encode(pixels) if objects else None
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(objects), _MASKS_AT_ONCE):
        part = objects[start : start + _MASKS_AT_ONCE]
        truths = decode_rle([rle for _, _, rle in part], size)
        found = {
            first: measure_clicks(segmenter, embedding, truths, first, clicks, generator) for first in FIRST_CLICKS
        }
        for row, (id, label, _) in enumerate(part):
            best_scored, oracle = dict[str, list[float]](), dict[str, list[float]]()
            for first, ious in found.items():
                best_scored[first], oracle[first] = ious.best_scored[row].tolist(), ious.oracle[row].tolist()
            yield ClickedMask(id, label, best_scored, oracle)


def _masks_of(
    coco: "CocoFile", image: "CocoImage", size: tuple[int, int], notes: "Notes"
) -> Iterator[tuple[str, str, Any]]:
    """Yield the id, the label and the mask of each annotation that has one and is no crowd."""
    from grounded.labelling.formats.annotations import LeftOut

    assert image.id is not None
    left_out = LeftOut(notes, image.file_name or "")
    for entry in coco.annotations[image.id]:
        for one in replace(coco, annotations={image.id: [entry]}).objects(image, size, left_out):
            if one.is_crowd:
                notes.add("crowd regions, left out", image.file_name or "")
            elif one.mask is None:
                notes.add("annotations that are a box without a mask, left out", image.file_name or "")
            else:
                yield str(entry.get("id", "")), one.label, one.mask

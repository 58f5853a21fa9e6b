"""`grounded evaluate boxes`: masks from true boxes, or from those of a detector, as mask AP of COCO or LVIS."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grounded.cli.errors import errors_as_messages
from grounded.cli.experiment_images import (
    ExperimentImages,
    ResultLog,
    Rows,
    class_phrase,
    experiment_options,
    measure_images,
    read_experiment,
)
from grounded.cli.options import read_segmenter, segmenter_options
from grounded.errors import ConfigError, ResultError

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from PIL.Image import Image

    from grounded.config import PipelineConfig
    from grounded.data.protocols import Segmenter
    from grounded.evaluation.dataset import ImagePair
    from grounded.labelling.formats.annotations import Box, Notes

    # The label, the score (None for true boxes, which have none) and the box of each, best first.
    Boxes = Sequence[tuple[str, float | None, Box]]
    FindBoxes = Callable[[str, Image, Callable[[], Any]], Boxes]

_COCO_BOXES, _LVIS_BOXES = 100, 300  # of an image that count in the two protocols


@click.command()
@experiment_options("boxes")
@segmenter_options
@click.option(
    "--boxes",
    default="truth",
    show_default=True,
    metavar="truth|detector|FILE",
    help="The boxes of INSTANCES, those of the preset's detector for its classes, or a JSON file of COCO results.",
)
@click.option(
    "--box-threshold",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Least score of the preset's detector; AP wants boxes of low scores as well.",
)
@click.option("--max-boxes", type=click.IntRange(1), help="Of an image, best first. [100, for LVIS 300]")
@click.option(
    "--iterations",
    type=click.IntRange(0, 8),
    default=0,
    show_default=True,
    help="How often a mask is predicted again, from its box and itself.",
)
def boxes(
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
    boxes: str,
    box_threshold: float,
    max_boxes: int | None,
    iterations: int,
) -> None:
    """Measure the masks that boxes give, against INSTANCES, a COCO or LVIS annotation file.

    Segment Anything's section 7.4. Prints mask AP by COCO's protocol, or by that of LVIS where INSTANCES states class
    frequencies and absent classes. True boxes have no score: their masks are ranked by predicted IoU, and the mean IoU
    with their objects is printed as well.

    Writes boxes.json; results.json with the masks as COCO results, for other evaluators; and boxes.jsonl with the masks
    of every image.

    Exit status: 0 measured; 1 something failed; 2 wrong arguments; 130 interrupted, and the same command goes on.
    """
    from grounded.evaluation.box_masks import evaluate_box_masks, to_dict, to_text
    from grounded.labelling.formats.annotations import Notes
    from grounded.models.build import load_segmenter, pick_device
    from grounded.models.checkpoints import hash_checkpoints
    from grounded.utils.files import atomic_files, check_folder, json_bytes

    notes = Notes()
    with errors_as_messages():
        check_folder(out)
        settings = _read_settings(config, segmenter, device, boxes, box_threshold, max_boxes)
        chosen = read_experiment(truth, images, limit, sample, seed, notes)
        most = max_boxes or (_COCO_BOXES if chosen.federation is None else _LVIS_BOXES)
        header = {"truth": str(truth), "segmenter": asdict(settings.segmenter), "boxes": boxes, "max_boxes": most}
        header |= {"iterations": iterations}
        header |= {"detector": asdict(settings.detector)} if boxes == "detector" else {}
        stored = None if boxes in ("truth", "detector") else _read_boxes(Path(boxes), truth, chosen, notes)
        model = load_segmenter(settings, pick_device(settings.device))
        if stored is not None:
            find = _stored_boxes(stored)
        else:
            find = _detected_boxes(settings, model, chosen.classes) if boxes == "detector" else _true_boxes(chosen)
        loaded = ("segmenter", "detector") if boxes == "detector" else ("segmenter",)
        header |= {"weights": hash_checkpoints(settings, loaded)}
        log = ResultLog(out / "boxes.jsonl", header, restart)
        for note in notes.lines():
            click.echo(f"Warning: {note}", err=True)
        unread = Notes()
        measure = partial(_measure, model, chosen, find, most, iterations, boxes == "truth")
        rows = measure_images(chosen, log, unread, "segmenting", measure)
        pairs = [_image_pair(chosen, file, found) for file, found in rows.items()]
        ious = [row["iou"] for found in rows.values() for row in found if "iou" in row]
        evaluation = evaluate_box_masks(pairs, chosen.federation, ious)
        counts = len(rows), sum(map(len, rows.values()))
        lines = [*notes.lines(), *unread.lines()]
        with atomic_files() as write:
            write(out / "boxes.json", json_bytes(to_dict(header, evaluation, *counts, lines)))
            write(out / "results.json", json_bytes(_coco_results(chosen, rows)))
    for note in unread.lines():
        click.echo(f"Warning: {note}", err=True)
    click.echo(to_text(evaluation, *counts))
    click.echo(f"-> {out / 'boxes.json'}, {out / 'results.json'}")


def _read_settings(
    config: str, segmenter: str | None, device: str | None, boxes: str, box_threshold: float, max_boxes: int | None
) -> "PipelineConfig":
    from grounded.config import override

    if boxes not in ("truth", "detector") and not Path(boxes).is_file():
        raise ConfigError(f"--boxes must be truth, detector or a file of COCO results, got {boxes!r}")
    settings = read_segmenter(config, segmenter, device)
    detector = {"box_threshold": box_threshold, "max_detections": max_boxes or _LVIS_BOXES}
    return override(settings, detector=detector) if boxes == "detector" else settings


def _read_boxes(path: Path, truth: Path, chosen: ExperimentImages, notes: "Notes") -> "dict[str, Boxes]":
    """Return the boxes of a file of COCO results by image; a result that is a mask alone has its tight box.

    Raises:
        ResultError: the file is not of that form, or no box of it is of an image that is measured.
    """
    import math

    from grounded.data.class_names import normalise_name
    from grounded.labelling.formats.annotations import LeftOut
    from grounded.labelling.formats.coco_results import CocoResultsReader

    coco = CocoResultsReader.open(path, truth).reader.file
    coco.note_left_out(LeftOut(notes, ""))
    labels = {normalise_name(label): label for label in chosen.classes}
    found: dict[str, Boxes] = {}
    for image in coco.images:
        file = image.file_name or ""
        if file in chosen.sizes:
            objects = coco.objects(image, chosen.sizes[file], LeftOut(notes, file))
            scores = [-1.0 if math.isnan(one.score) else one.score for one in objects]  # unknown ones last
            ranked = sorted(zip(scores, objects, strict=True), key=lambda row: -row[0])
            found[file] = [(labels[normalise_name(one.label)], score, one.box) for score, one in ranked]
    if not any(found.values()):
        raise ResultError(f"nothing to measure: {path} has no box in {len(chosen.sizes)} images")
    return found


def _stored_boxes(stored: "dict[str, Boxes]") -> "FindBoxes":
    return lambda file, pixels, embed: stored.get(file, ())


def _true_boxes(chosen: ExperimentImages) -> "FindBoxes":
    return lambda file, pixels, embed: [(one.label, None, one.box) for one in chosen.masks(file)]


def _detected_boxes(settings: "PipelineConfig", segmenter: "Segmenter", classes: tuple[str, ...]) -> "FindBoxes":
    """Return what detects the classes in an image."""
    from grounded.experiments.boxes import detect_classes
    from grounded.models.build import load_clip, load_detector, pick_device

    device = pick_device(settings.device)
    clip = load_clip(settings, device) if settings.detector.works_on_embeddings else None
    detector = load_detector(settings, device, segmenter, clip)
    phrases = tuple(map(class_phrase, classes))

    def find(file: str, pixels: "Image", embed: Callable[[], Any]) -> "Boxes":
        found = detect_classes(detector, embed, pixels, phrases)
        rows = zip(found.phrase_ids.tolist(), found.score.tolist(), found.boxes.tolist(), strict=True)
        return [(classes[id], score, (x0, y0, x1, y1)) for id, score, (x0, y0, x1, y1) in rows]

    return find


def _measure(
    segmenter: "Segmenter",
    chosen: ExperimentImages,
    find: "FindBoxes",
    most: int,
    iterations: int,
    is_truth: bool,
    file: str,
    pixels: "Image",
) -> Rows:
    """Return the masks of one image, which is encoded once, and only if there are boxes or the detector needs it."""
    from functools import cache

    import numpy as np

    from grounded.experiments.boxes import clip_boxes, segment_boxes
    from segany.utils.rle import rle_iou

    embed = cache(lambda: segmenter.encode(pixels))
    found = find(file, pixels, embed)
    found = found if is_truth else found[:most]
    if not found:
        return []
    prompts = clip_boxes(np.array([box for _, _, box in found]), chosen.sizes[file])
    masks = segment_boxes(segmenter, embed(), prompts, iterations)
    rows: Rows = []
    for (label, score, box), rle, predicted_iou in zip(found, masks.rles, masks.predicted_iou.tolist(), strict=True):
        score = predicted_iou if score is None else score
        rows.append({"label": label, "score": score, "box": list(box), "mask": dict(rle)})
    if is_truth:
        for row, rle, target in zip(rows, masks.rles, chosen.masks(file), strict=True):
            row["iou"] = float(rle_iou([rle], [target.require_mask()])[0, 0])
    return rows


def _image_pair(chosen: ExperimentImages, file: str, rows: Rows) -> "ImagePair":
    from grounded.evaluation.dataset import ImagePair, Prediction

    predictions = tuple(
        Prediction(row["label"], row["label"], row["score"], tuple(row["box"]), row["mask"]) for row in rows
    )
    classes = {label: label for label in chosen.classes}
    return ImagePair(file, file, chosen.sizes[file], classes, chosen.objects[file], predictions)


def _coco_results(chosen: ExperimentImages, rows: dict[str, Rows]) -> list[dict[str, Any]]:
    """Return all masks as COCO results, without boxes: evaluators would take the areas from these."""
    return [
        {
            "image_id": chosen.image_ids[file],
            "category_id": chosen.category_ids[row["label"]],
            "segmentation": row["mask"],
            "score": row["score"],
        }
        for file, found in rows.items()
        for row in found
    ]

"""`grounded evaluate text`: masks from text alone, from text with a point, and from text with a box."""

from collections import Counter
from dataclasses import asdict
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
    from grounded.evaluation.dataset import GroundTruthObject
    from grounded.evaluation.text_masks import PromptedObject
    from grounded.experiments.text import TextPrompting
    from grounded.labelling.formats.annotations import Notes

_MASKS_AT_ONCE = 64  # which are decoded at full size for their points
REPEATED = "objects whose name has several in the image, left out: text alone would be ambiguous"


@click.command()
@experiment_options("text")
@segmenter_options
@click.option(
    "--text-prompt",
    type=click.Choice(["adapter", "dense-clip"]),
    help="The segmenter's own text prompt, or points and a coarse mask from dense CLIP features. [of the preset]",
)
@click.option("--repeated", is_flag=True, help="Also measure objects whose name has several in the image.")
@click.option("--examples", type=click.IntRange(1, 50), default=6, show_default=True, help="Rows of the figure.")
def text(
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
    text_prompt: str | None,
    repeated: bool,
    examples: int,
) -> None:
    """Measure the masks that text gives, against INSTANCES, a COCO or LVIS annotation file.

    Segment Anything's section 7.5. The phrase of an object is the name of its class. Objects are measured whose name
    has one instance in the image, for text alone cannot tell several apart. Prints the mean IoU of the best-scored mask
    for text alone, a point at the centre of the object, text and point, its box, and box and text.

    Writes text.json; text.png, the paper's figure: images that text alone gets right, and images that the point
    corrects; and text.jsonl with the masks of every image.

    Exit status: 0 measured; 1 something failed; 2 wrong arguments; 130 interrupted, and the same command goes on.
    """
    from grounded.evaluation.text_masks import PromptedObject, to_dict, to_text
    from grounded.labelling.formats.annotations import Notes
    from grounded.models.build import load_segmenter, pick_device
    from grounded.models.checkpoints import hash_checkpoints
    from grounded.utils.files import atomic_files, check_folder, image_bytes, json_bytes

    notes = Notes()
    with errors_as_messages():
        check_folder(out)
        settings = _read_settings(config, segmenter, device, text_prompt)
        chosen = read_experiment(truth, images, limit, sample, seed, notes)
        objects = {file: _nameable(chosen, file, repeated, notes) for file in chosen.names}
        if not any(objects.values()):
            raise ResultError("nothing to measure: every name has several objects in its image, see --repeated")
        header: dict[str, Any] = {
            "truth": str(truth),
            "segmenter": asdict(settings.segmenter),
            "clip": asdict(settings.clip),
        }
        header |= {"text_prompt": settings.prompting.text_prompt, "repeated": repeated}
        model = load_segmenter(settings, pick_device(settings.device))
        prompting = _load_prompting(settings, model)
        header |= {"weights": hash_checkpoints(settings, ("segmenter", "clip"))}
        log = ResultLog(out / "text.jsonl", header, restart)
        for note in notes.lines():
            click.echo(f"Warning: {note}", err=True)
        unread = Notes()
        rows = measure_images(
            chosen, log, unread, "prompting", lambda file, pixels: _measure(model, prompting, objects[file], pixels)
        )
        measured = [
            PromptedObject(file, row["phrase"], row["iou"], number)
            for file, found in rows.items()
            for number, row in enumerate(found)
        ]
        if not measured:
            raise ResultError("nothing to measure: no image with an object of its own name could be read")
        with atomic_files() as write:
            write(out / "text.json", json_bytes(to_dict(header, measured, [*notes.lines(), *unread.lines()])))
            figure = _draw_examples(chosen, objects, rows, measured, examples)
            write(out / "text.png", image_bytes(figure, optimize=True))
    for note in unread.lines():
        click.echo(f"Warning: {note}", err=True)
    click.echo(to_text(measured))
    click.echo(f"-> {out / 'text.json'}, {out / 'text.png'}")


def _read_settings(config: str, segmenter: str | None, device: str | None, text_prompt: str | None) -> "PipelineConfig":
    from grounded.config import override

    settings = read_segmenter(config, segmenter, device)
    settings = settings if text_prompt is None else override(settings, text_prompt=text_prompt)
    if settings.prompting.text_prompt == "none":
        raise ConfigError(f"{config} has no text prompt: choose one with --text-prompt")
    return settings


def _load_prompting(settings: "PipelineConfig", segmenter: "Segmenter") -> "TextPrompting":
    """Load CLIP, and check that the segmenter takes what it gives.

    Raises:
        ConfigError: the segmenter has no text prompt of its own, or one of another width.
    """
    from grounded.experiments.text import TextPrompting
    from grounded.models.build import dense_clip, load_clip, pick_device
    from segany import Predictor

    clip = load_clip(settings, pick_device(settings.device))
    if settings.prompting.text_prompt == "dense-clip":
        return TextPrompting(dense=dense_clip(clip, settings))
    width = segmenter.model.config.text_dim if isinstance(segmenter, Predictor) else None
    if width != clip.dim:
        expected = "the segmenter has no text prompt" if width is None else f"the segmenter takes text of width {width}"
        raise ConfigError(f"{expected}, and CLIP has width {clip.dim}: --text-prompt dense-clip needs no training")
    return TextPrompting(encoder=clip)


def _nameable(
    chosen: ExperimentImages, file: str, repeated: bool, notes: "Notes"
) -> "list[tuple[str, GroundTruthObject]]":
    """Return the objects that are measured, with their phrases. A crowd of the same name counts as several."""
    counts = Counter[str]()
    for one in chosen.objects[file]:
        counts[one.label] += 2 if one.is_crowd else 1
    found = [one for one in chosen.masks(file) if repeated or counts[one.label] == 1]
    notes.add(REPEATED, file, len(chosen.masks(file)) - len(found))
    return [(class_phrase(one.label), one) for one in found]


def _measure(
    segmenter: "Segmenter",
    prompting: "TextPrompting",
    objects: "list[tuple[str, GroundTruthObject]]",
    pixels: "Image",
) -> Rows:
    """Return the phrase, the point, and for each kind of prompt the mask and its IoU, of the objects of one image."""
    import torch

    from grounded.experiments.text import segment_text
    from segany.utils.points import interior_point
    from segany.utils.rle import decode_rle, rle_iou

    if not objects:
        return []
    truths = [one.require_mask() for _, one in objects]
    parts = [truths[start : start + _MASKS_AT_ONCE] for start in range(0, len(truths), _MASKS_AT_ONCE)]
    points = torch.cat([interior_point(decode_rle(part)) for part in parts])
    phrases = list(dict.fromkeys(phrase for phrase, _ in objects))
    prompts = prompting.prompts(pixels, phrases)
    rows_of_phrases = torch.tensor([phrases.index(phrase) for phrase, _ in objects])
    boxes = torch.tensor([one.box for _, one in objects], dtype=torch.float32)
    found = segment_text(segmenter, segmenter.encode(pixels), _select(prompts, rows_of_phrases), points, boxes)
    return [
        {
            "phrase": phrase,
            "point": points[number].tolist(),
            "iou": {kind: float(rle_iou([rles[number]], [truths[number]])[0, 0]) for kind, rles in found.items()},
            "masks": {kind: dict(rles[number]) for kind, rles in found.items()},
        }
        for number, (phrase, _) in enumerate(objects)
    ]


def _select(prompts: Any, rows: Any) -> Any:
    """Return the prompts of some rows, which may repeat."""
    from grounded.data.protocols import DensePrompts

    if isinstance(prompts, DensePrompts):
        return DensePrompts(prompts.points[rows], prompts.labels[rows], prompts.logits[rows])
    return prompts[rows]


def _draw_examples(
    chosen: ExperimentImages,
    objects: "dict[str, list[tuple[str, GroundTruthObject]]]",
    rows: dict[str, Rows],
    measured: "list[PromptedObject]",
    count: int,
) -> "Image":
    """Draw the figure, of images that are read again."""
    from grounded.data.image import open_image
    from grounded.evaluation.report.text_figure import TextExample, draw_text_figure
    from grounded.evaluation.text_masks import choose_examples

    examples = []
    for one in choose_examples(measured, count):
        row = rows[one.file][one.number]
        pixels = open_image(chosen.source.get(chosen.names[one.file])).pixels
        truth = objects[one.file][one.number][1].require_mask()
        point = (row["point"][0], row["point"][1])
        examples.append(TextExample(pixels, one.phrase, truth, row["masks"], row["iou"], point))
    return draw_text_figure(examples, ("text", "text + point", "box", "box + text"))

"""`grounded train`: fine-tune the segmenter, its text prompt or the detector on one's own data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from grounded.cli.train_session import open_session

F = TypeVar("F", bound=Callable[..., Any])
_FOLDER = click.Path(file_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, path_type=Path)


@click.group()
def train() -> None:
    """Fine-tune models on your own data: COCO annotation files, or what `grounded label` wrote.

    What is wrong with the data is named before the first step. A training that was interrupted or killed goes on with
    the same command. Several GPUs: `accelerate launch -m grounded train ...`.
    """


def _data_options(command: F) -> F:
    """Decorate a command with the options that every training has."""
    options = (
        click.option(
            "--data", required=True, metavar="FILE|DIR", type=_EXISTING, help="COCO file, or the folder of a run."
        ),
        click.option("--images", metavar="DIR", help="Folder of the images. [default: that of the file, or the run's]"),
        click.option("--class", "classes", multiple=True, metavar="NAME", help="Learn this class; may be repeated."),
        click.option("--accepted-only", is_flag=True, help="Of a run, learn only what a person has confirmed."),
        click.option("--validation", metavar="FILE|DIR", type=_EXISTING, help="Data to measure on, read like --data."),
        click.option("--validation-images", metavar="DIR", help="Folder of the images of --validation."),
        click.option(
            "--hold-out",
            type=click.FloatRange(0, 0.9, min_open=True),
            default=0.1,
            show_default=True,
            help="Without --validation: share of the images to measure on.",
        ),
        click.option("--out", metavar="DIR", type=_FOLDER, help="Folder of the training, new or to go on with."),
        click.option("--restart", is_flag=True, help="Begin anew where --out holds a training."),
        click.option("--check", is_flag=True, help="Only check the data, and say what is wrong with it."),
        click.option(
            "--preset",
            metavar="NAME|FILE",
            help="Preset that supplies the other parts of preset.yaml. [default: photo or tiny, as --from, else base]",
        ),
        click.option(
            "--validate-every",
            type=click.IntRange(1),
            default=100,
            show_default=True,
            help="Steps between measurements.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="auto: bfloat16 where the device computes in it.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _step_options(steps: int, rate: float | None) -> Callable[[F], F]:
    """Decorate a command with --steps and --rate; without a rate the command has its own."""

    def decorate(command: F) -> F:
        command = click.option("--rate", type=click.FloatRange(0, min_open=True), default=rate, show_default=True)(
            command
        )
        return click.option("--steps", type=click.IntRange(1), default=steps, show_default=True)(command)

    return decorate


_flip = click.option(
    "--flip/--no-flip", default=True, show_default=True, help="Show half of the images mirrored; not for writing."
)
_cache = click.option("--cache", metavar="DIR", type=_FOLDER, help="Where embeddings are kept. [default: in --out]")


@train.command()
@_data_options
@_step_options(steps=500, rate=1e-4)
@click.option("--from", "base", default="photo", show_default=True, help="photo, tiny, a file, a folder or a hub id.")
@click.option(
    "--train",
    "parts",
    type=click.Choice(["decoder", "prompts", "lora"]),
    multiple=True,
    default=("decoder", "prompts"),
    show_default=True,
    help="What learns: mask decoder, prompt encoder, low-rank updates of the image encoder; may be repeated.",
)
@click.option("--lora-rank", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--prompt",
    "kinds",
    type=click.Choice(["point", "box"]),
    multiple=True,
    default=("point", "box"),
    show_default=True,
    help="Kind of the first prompt; may be repeated. Clicks follow.",
)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Images a step.")
@click.option("--objects", type=click.IntRange(1), default=4, show_default=True, help="Objects of each image a step.")
@click.option(
    "--rounds", type=click.IntRange(1), default=4, show_default=True, help="Prompts per object: one, then clicks."
)
@_flip
@_cache
def segmenter(**options: Any) -> None:
    """Fine-tune a Segment Anything by interactive training: a point or a box, then clicks into the error.

    The best state on held-out images is in --out as model/, which `segany.load` takes, and preset.yaml for --config.
    """
    from grounded.training import segmenter as training
    from grounded.training.interactive import InteractiveSettings

    with open_session(options, needed="mask") as session:
        settings = training.SegmenterSettings(
            base=options["base"],
            parts=tuple(sorted(set(options["parts"]))),
            lora_rank=options["lora_rank"],
            loop=session.loop_settings(),
            interactive=InteractiveSettings(
                kinds=tuple(sorted(set(options["kinds"]))),
                images=options["batch"],
                objects=options["objects"],
                rounds=options["rounds"],
                flip=options["flip"],
            ),
        )
        session.begin(settings.to_dict())
        built = training.SegmenterTraining.build(
            settings,
            session.learned,
            session.held_out,
            session.out,
            session.processes,
            session.notes,
            options["cache"],
        )
        session.show_notes()
        if built.embeddings is not None:
            session.fill("encoding images", built.embeddings, built.keys())
        session.finish(training.run, built, "IoU")


@train.command(name="text-prompt")
@_data_options
@_step_options(steps=1000, rate=8e-4)
@click.option("--from", "base", default="photo", show_default=True, help="photo, tiny, a file, a folder or a hub id.")
@click.option("--clip", help="CLIP checkpoint, as in a configuration. [default: that of the preset]")
@click.option("--train-decoder", is_flag=True, help="Let the mask decoder learn, too; the adapter then holds it.")
@click.option("--crops", type=click.IntRange(1), default=4, show_default=True, help="Crops of each object for CLIP.")
@click.option(
    "--text-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Probability of prompting with the class name instead of a crop; 0 in the paper.",
)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Images a step.")
@click.option("--objects", type=click.IntRange(1), default=4, show_default=True, help="Objects of each image a step.")
@click.option(
    "--rounds", type=click.IntRange(1), default=2, show_default=True, help="Prompts per object: one, then clicks."
)
@_flip
@_cache
def text_prompt(**options: Any) -> None:
    """Teach a Segment Anything to be prompted by text, as its paper did: by CLIP embeddings of crops.

    The image encoder is frozen. Writes an adapter of some MB, model/text_adapter.safetensors in --out, for
    `segany.load(..., text_adapter=...)`, and preset.yaml for --config.
    """
    from grounded.config import load
    from grounded.training import text_prompt as training
    from grounded.training.interactive import InteractiveSettings

    with open_session(options, needed="mask") as session:
        clip = load(session.preset).clip
        settings = training.TextPromptSettings(
            base=options["base"],
            clip=options["clip"] or clip.checkpoint,
            templates=clip.templates,
            decoder=options["train_decoder"],
            crops=options["crops"],
            text_share=options["text_share"],
            loop=session.loop_settings(),
            interactive=InteractiveSettings(
                kinds=("text",),
                images=options["batch"],
                objects=options["objects"],
                rounds=options["rounds"],
                flip=options["flip"],
            ),
        )
        session.begin(settings.to_dict())
        built = training.TextPromptTraining.build(
            settings,
            session.learned,
            session.held_out,
            session.out,
            session.processes,
            session.notes,
            options["cache"],
        )
        session.show_notes()
        assert built.segmenter.embeddings is not None  # the encoder is frozen
        session.fill("encoding images", built.segmenter.embeddings, built.segmenter.keys())
        session.fill("embedding crops", built.crops, built.crop_keys())
        session.finish(training.run, built, "text IoU")


@train.command()
@_data_options
@_step_options(steps=500, rate=None)
@click.option(
    "--from",
    "base",
    default="photo",
    show_default=True,
    help="photo or another preset with a one-stage detector; or a Grounding DINO: tiny, a folder, or a hub id.",
)
@click.option(
    "--train",
    "part",
    type=click.Choice(["all", "detector", "lora"]),
    default="all",
    show_default=True,
    help="What learns of a Grounding DINO: everything, all but the image and text backbones, or low-rank updates and "
    "the heads.",
)
@click.option("--lora-rank", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--backbone-rate",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    help="Learning rate of the backbones of a Grounding DINO, as a multiple of --rate.",
)
@click.option("--denoising/--no-denoising", default=True, show_default=True, help="Also learn from noised true boxes.")
@click.option("--batch", type=click.IntRange(1), help="Images a step. [default: 4; of a one-stage detector 8]")
@click.option("--phrases", type=click.IntRange(1), default=20, show_default=True, help="Most classes in a prompt.")
@click.option("--image-size", type=click.IntRange(32), help="Shorter edge in pixels. [default: the checkpoint's]")
@_flip
@_cache
@click.pass_context
def detector(context: click.Context, **options: Any) -> None:
    """Fine-tune a one-stage detector, a Grounding DINO or an MM Grounding DINO.

    Classes of the data that an image does not have are asked as well, and taken to be absent from it. The best state on
    held-out images is in --out as model/, a folder for `detector: {checkpoint: ...}`, and preset.yaml for --config.

    Of a one-stage detector the head alone learns, on embeddings that are computed once; the names that it knows are
    kept. Its rate is 1e-3 unless one is given, that of a Grounding DINO 1e-4.
    """
    from grounded.training.one_stage import is_one_stage

    if is_one_stage(options["base"]):
        given = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
        wrong = [name for name in _DINO_ALONE if context.get_parameter_source(name) in given]
        if wrong:
            option = "train" if wrong[0] == "part" else wrong[0].replace("_", "-")
            raise click.UsageError(f"--{option} is for a Grounding DINO, which {options['base']} does not have")
        _train_one_stage(options)
    else:
        _train_grounding_dino(options)


# Parameters of `detector` that mean nothing for a one-stage detector.
_DINO_ALONE = ("part", "lora_rank", "backbone_rate", "denoising", "phrases", "image_size")


def _train_one_stage(options: dict[str, Any]) -> None:
    from grounded.training import one_stage as training

    options = {**options, "rate": options["rate"] or 1e-3, "preset": options["preset"] or options["base"]}
    with open_session(options, needed="box") as session:
        loop = session.loop_settings(weight_decay=0.03)
        images = options["batch"] or 8
        settings = training.OneStageSettings(base=options["base"], images=images, flip=options["flip"], loop=loop)
        session.begin(settings.to_dict())
        built = training.OneStageTraining.build(
            settings, session.learned, session.held_out, session.out, session.processes, options["cache"]
        )
        session.show_notes()
        session.fill("encoding images", built.embeddings, built.keys())
        session.finish(training.run, built, "AP50")


def _train_grounding_dino(options: dict[str, Any]) -> None:
    from grounded.training import grounding_dino as training
    from grounded.training.grounding_dino_batches import DetectorBatchSettings

    with open_session({**options, "rate": options["rate"] or 1e-4}, needed="box") as session:
        settings = training.DetectorSettings(
            base=options["base"],
            part=options["part"],
            backbone_rate=options["backbone_rate"],
            lora_rank=options["lora_rank"],
            denoising=options["denoising"],
            loop=session.loop_settings(clip_norm=0.1, weight_decay=1e-4),
            batches=DetectorBatchSettings(
                images=options["batch"] or 4,
                phrases=options["phrases"],
                flip=options["flip"],
                image_size=options["image_size"],
            ),
        )
        session.begin(settings.to_dict())
        built = training.DetectorTraining.build(
            settings, session.learned, session.held_out, session.processes, session.notes
        )
        session.show_notes()
        session.finish(training.run, built, "AP50")

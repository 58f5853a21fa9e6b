"""The command `grounded`. PyTorch and the models are imported inside the commands, so that help appears at once."""

import os
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from grounded import __version__
from grounded.config import load, override
from grounded.errors import ConfigError, GroundedError
from grounded.phrases import parse
from grounded.settings import PipelineConfig

if TYPE_CHECKING:
    from grounded.pipeline import Pipeline


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grounded")
def main() -> None:
    """Free-form text in, labelled instance masks out."""


@main.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("text")
@click.option("--config", default="tiny", show_default=True, help="Name of a preset, or path of a YAML file.")
@click.option(
    "--out", default="out", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Output folder."
)
@click.option("--box-threshold", type=click.FloatRange(0, 1), help="Lowest detector score to keep.")
@click.option("--mode", type=click.Choice(["box", "text", "box+text"]), help="What the segmenter is prompted with.")
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--verbose", is_flag=True, help="Print the time of each stage, and where an unexpected error arose.")
def segment(
    images: tuple[Path, ...],
    text: str,
    config: str,
    out: Path,
    box_threshold: float | None,
    mode: str | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Find what TEXT names in each IMAGE, and write overlay.png, masks/ and result.json.

    TEXT holds one or more phrases, as in "a dog. the red mug". The result of one image lies in the output folder
    itself, those of several in a folder for each, named like the image.

    Exit status: 0 all images done; 1 something failed, and the other images are done; 2 wrong arguments.
    """
    if os.path.isfile(text):
        raise click.UsageError(f"the last argument must be the text to look for, got the file {text}")
    given = {"box_threshold": box_threshold, "mode": mode, "device": device}
    try:
        phrases = parse(text)
        settings = override(load(config), **{name: value for name, value in given.items() if value is not None})
    except GroundedError as error:
        raise click.UsageError(str(error)) from error
    pipeline = _load_pipeline(settings, verbose)
    failures = _segment_all(pipeline, images, phrases, out, verbose)
    if failures and len(images) > 1:
        click.echo(f"{failures} of {len(images)} images failed", err=True)
    sys.exit(1 if failures else 0)


def _load_pipeline(settings: PipelineConfig, verbose: bool) -> "Pipeline":
    """Load the models, or exit: with 2 where the settings cannot be met, with 1 where the weights are at fault."""
    from grounded.pipeline import Pipeline

    try:
        return Pipeline.from_config(settings)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except Exception as error:
        click.echo(_describe(error, verbose), err=True)
        sys.exit(1)


def _segment_all(
    pipeline: "Pipeline", images: tuple[Path, ...], phrases: tuple[str, ...], out: Path, verbose: bool
) -> int:
    """Segment the images one after the other, and return how many failed."""
    from grounded.writing import output_folders

    failures = 0
    # A bar for one image would only flicker; None leaves it out where stderr is not a terminal.
    with tqdm(total=len(images), unit="image", disable=None if len(images) > 1 else True) as progress:
        for image, folder in zip(images, output_folders(images, out), strict=True):
            try:
                progress.write(_segment_one(pipeline, image, phrases, folder, verbose))
            except Exception as error:  # whatever is wrong with one image must not cost the others
                failures += 1
                progress.write(_describe(error, verbose, str(image)), file=sys.stderr)
            progress.update()
    return failures


def _segment_one(pipeline: "Pipeline", image: Path, phrases: tuple[str, ...], folder: Path, verbose: bool) -> str:
    """Segment one image and write its result. Return what was found in one line, and with `verbose` the times below."""
    import torch

    from grounded.images import open_image
    from grounded.timing import Stopwatch
    from grounded.writing import write_result

    watch = Stopwatch(torch.cuda.synchronize if torch.cuda.is_initialized() else None)
    with watch.stage("open"):
        source = open_image(image)
    instances = pipeline.segment(source, phrases, watch)
    with watch.stage("write"):
        write_result(folder, source, instances, pipeline.models)
    counts = Counter(instances.labels.tolist())
    found = ", ".join(f"{phrase}: {counts[phrase]}" for phrase in phrases)
    return f"{image} -> {folder} ({found})" + (f"\n  {watch}" if verbose else "")


def _describe(error: Exception, verbose: bool, subject: str = "") -> str:
    """Return an error as one line; an unexpected one with its type, and with `verbose` its traceback."""
    from segany import CheckpointError

    reason = " ".join(str(error).split())
    expected = isinstance(error, (GroundedError, CheckpointError))
    if not expected:
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if subject and subject not in reason:
        reason = f"{subject}: {reason}"
    if verbose and not expected:
        reason += "\n" + "".join(traceback.format_exception(error)).rstrip()
    return f"Error: {reason}"

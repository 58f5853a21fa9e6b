"""`grounded segment`: find what a text names in pictures, and write overlays, masks and JSON."""

import os
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.cli.options import pipeline_options, settings
from grounded.data.phrases import parse, shortened
from grounded.errors import ConfigError, GroundedError
from grounded.settings import PipelineConfig
from grounded.utils.files import check_folder

if TYPE_CHECKING:
    from grounded.pipeline import Pipeline

# Beyond this, the line on an image names only the phrases that were found in it.
_PHRASES_LISTED = 20


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("text")
@click.option(
    "--out", default="out", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Output folder."
)
@pipeline_options
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=200,
    show_default=True,
    help="Refuse larger images, by the size that the file states.",
)
@click.option("--verbose", is_flag=True, help="Print the time of each stage, and where an unexpected error arose.")
def segment(
    images: tuple[Path, ...],
    text: str,
    out: Path,
    max_megapixels: float,
    verbose: bool,
    **fields: Any,
) -> None:
    """Find what TEXT names in each IMAGE, and write overlay.png, masks/ and result.json.

    TEXT holds one or more phrases, as in "a dog. the red mug". The result of one image lies in the output folder
    itself, those of several in a folder for each, named like the image.

    Exit status: 0 all images done; 1 something failed, and the other images are done; 2 wrong arguments;
    130 interrupted, and the results so far are complete.
    """
    if os.path.isfile(text):
        raise click.UsageError(f"the last argument must be the text to look for, got the file {text}")
    try:
        phrases = parse(text)
        config = settings(**fields)
        check_folder(out)  # now rather than after minutes of work
    except GroundedError as error:
        raise click.UsageError(str(error)) from error
    pipeline = _load_pipeline(config, verbose)
    failures = _segment_all(pipeline, images, phrases, out, round(max_megapixels * 1e6), verbose)
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
    pipeline: "Pipeline", images: tuple[Path, ...], phrases: tuple[str, ...], out: Path, max_pixels: int, verbose: bool
) -> int:
    """Segment the images one after the other, and return how many failed."""
    from grounded.output.write import output_folders

    failures = 0
    # A bar for one image would only flicker; None leaves it out where stderr is not a terminal.
    with tqdm(total=len(images), unit="image", disable=None if len(images) > 1 else True) as progress:
        for image, folder in zip(images, output_folders(images, out), strict=True):
            try:
                progress.write(_segment_one(pipeline, image, phrases, folder, max_pixels, verbose))
            except Exception as error:  # whatever is wrong with one image must not cost the others
                failures += 1
                progress.write(_describe(error, verbose, str(image)), file=sys.stderr)
            progress.update()
    return failures


def _segment_one(
    pipeline: "Pipeline", image: Path, phrases: tuple[str, ...], folder: Path, max_pixels: int, verbose: bool
) -> str:
    """Segment one image and write its result. Return what was found in one line, and notes and times below it."""
    import torch

    from grounded.data.image import open_image
    from grounded.output.write import write_result
    from grounded.utils.timing import Stopwatch

    watch = Stopwatch(torch.cuda.synchronize if torch.cuda.is_initialized() else None)
    with watch.stage("open"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on oddities of files that it can read nevertheless
        source = open_image(image, max_pixels)
    instances = pipeline.segment(source, phrases, watch)
    with watch.stage("write"):
        write_result(folder, source, instances, pipeline.models)
    lines = [f"{image} -> {folder} ({_counts(phrases, instances.labels.tolist())})"]
    lines += [f"  note: {note}" for note in source.notes]
    return "\n".join([*lines, f"  {watch}"] if verbose else lines)


def _counts(phrases: tuple[str, ...], labels: list[str]) -> str:
    """How many instances each phrase has; of many phrases, only those that were found."""
    counts = Counter(labels)
    listed = phrases if len(phrases) <= _PHRASES_LISTED else [phrase for phrase in phrases if counts[phrase]]
    parts = [f"{shortened(phrase)}: {counts[phrase]}" for phrase in listed]
    if len(listed) < len(phrases):
        parts.append(f"{len(phrases) - len(listed)} other phrases: 0")
    return ", ".join(parts)


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

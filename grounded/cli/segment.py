"""The command `grounded segment`: segments images by a text, and writes overlays, masks and JSON."""

import os
import sys
import traceback
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.cli.options import pipeline_options, read_config
from grounded.config import PipelineConfig
from grounded.data.phrases import listed, parse, shortened
from grounded.errors import ConfigError, GroundedError, describe_error
from grounded.utils.files import check_folder
from grounded.utils.timing import Stopwatch
from segany.utils.addresses import is_address, shown_address

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from grounded.pipeline import Pipeline

# With more phrases than these, the line on an image names only those that were found in it.
_PHRASES_LISTED = 20


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
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
@click.option(
    "--verbose",
    is_flag=True,
    help="Print the phrases that were understood, the time of each stage, and where an unexpected error arose.",
)
def segment(
    images: tuple[str, ...],
    text: str,
    out: Path,
    max_megapixels: float,
    verbose: bool,
    **fields: Any,
) -> None:
    """Find what TEXT names in each IMAGE, and write overlay.png, masks/ and result.json.

    IMAGE is a file or an http:// or https:// address. TEXT holds one or more phrases, as in "a dog. the red mug". The
    result of one image lies in the output folder itself, those of several in a folder for each, named like the image.

    Exit status: 0 all images done; 1 something failed, and the other images are done; 2 wrong arguments;
    130 interrupted, and the results so far are complete.
    """
    if os.path.isfile(text):
        raise click.UsageError(f"the last argument must be the text to look for, got the file {text}")
    try:
        phrases = parse(text)
        config = read_config(**fields)
        check_folder(out)  # now rather than after minutes of work
    except GroundedError as error:
        raise click.UsageError(str(error)) from error
    if verbose:
        click.echo(f"Phrases: {listed(phrases)}")
    from grounded.output.write import output_folders

    pipeline = _load_pipeline(config, verbose)
    failures = 0
    # A bar for one image would only flicker; None leaves it out where stderr is not a terminal.
    with tqdm(total=len(images), unit="image", disable=None if len(images) > 1 else True) as progress:
        for image, folder in zip(images, output_folders(images, out), strict=True):
            try:
                progress.write(_segment_one(pipeline, image, phrases, folder, round(max_megapixels * 1e6), verbose))
            except Exception as error:  # whatever is wrong with one image must not cost the others
                failures += 1
                progress.write(_error_message(error, verbose, _shown(image)), file=sys.stderr)
            progress.update()
    if failures and len(images) > 1:
        click.echo(f"{failures} of {len(images)} images failed", err=True)
    sys.exit(1 if failures else 0)


def _load_pipeline(config: PipelineConfig, verbose: bool) -> "Pipeline":
    """Load the models, or exit: with 2 where the configuration is at fault, with 1 where the weights are."""
    from grounded.pipeline import Pipeline

    try:
        return Pipeline.from_config(config)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except Exception as error:
        click.echo(_error_message(error, verbose), err=True)
        sys.exit(1)


def _segment_one(
    pipeline: "Pipeline", image: str, phrases: tuple[str, ...], folder: Path, max_pixels: int, verbose: bool
) -> str:
    """Segment one image and write its result. Return what was found in one line, and notes and times below it."""
    from grounded.data.image import open_image
    from grounded.output.fonts import letter_notes
    from grounded.output.write import write_result

    stopwatch = Stopwatch.for_device()
    with stopwatch.stage("open"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on oddities of files that it can read nevertheless
        source = open_image(image, max_pixels)
    instances = pipeline.segment(source, phrases, stopwatch)
    source = replace(source, notes=(*source.notes, *letter_notes(instances.labels.tolist())))
    with stopwatch.stage("write"):
        write_result(folder, source, instances, pipeline.models)
    lines = [f"{_shown(image)} -> {folder} ({_list_counts(phrases, instances.labels.tolist())})"]
    lines += [f"  note: {note}" for note in (*source.notes, *instances.notes)]
    return "\n".join([*lines, f"  {stopwatch}"] if verbose else lines)


def _shown(image: str) -> str:
    """An image as messages name it: an address without its password."""
    return shown_address(image) if is_address(image) else str(Path(image))


def _list_counts(phrases: tuple[str, ...], labels: list[str]) -> str:
    """Return how many instances each phrase has; of many phrases, only those that were found are listed."""
    counts = Counter(labels)
    named = phrases if len(phrases) <= _PHRASES_LISTED else [phrase for phrase in phrases if counts[phrase]]
    parts = [f"{shortened(phrase)}: {counts[phrase]}" for phrase in named]
    if len(named) < len(phrases):
        parts.append(f"{len(phrases) - len(named)} other phrases: 0")
    return ", ".join(parts)


def _error_message(error: Exception, verbose: bool, file: str = "") -> str:
    """Return an error as one line that names the file, and with `verbose` the traceback of an unexpected one."""
    message = describe_error(error)
    if file and file not in message:
        message = f"{file}: {message}"
    if verbose and not isinstance(error, GroundedError):
        message += "\n" + "".join(traceback.format_exception(error)).rstrip()
    return f"Error: {message}"

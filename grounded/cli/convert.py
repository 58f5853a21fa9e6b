"""`grounded convert-checkpoint`: an original Grounding DINO for `transformers`."""

import sys
from pathlib import Path

import click

from grounded.errors import GroundedError, one_line


@click.command(name="convert-checkpoint")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder with tokenizer.json or vocab.txt of bert-base-uncased. [default: beside the checkpoint]",
)
@click.option(
    "--out", metavar="FOLDER", required=True, type=click.Path(path_type=Path), help="Output folder, new or empty."
)
def convert_checkpoint(checkpoint: Path, tokenizer: Path | None, out: Path) -> None:
    """Convert an original Grounding DINO CHECKPOINT, a .pth file, to a folder that needs no other package.

    The folder is named as detector checkpoint in a configuration, with kind grounding-dino. The sizes of networks other
    than Swin-T OGC and Swin-B COGCOOR are read from a JSON file beside the checkpoint, NAME.json for NAME.pth.

    Exit status: 0 the folder is complete; 1 something failed, and there is no folder; 2 wrong arguments.
    """
    from grounded.models.detectors.original.convert import convert  # here: it loads PyTorch, which --help does not need

    try:
        folder = convert(checkpoint, out, tokenizer)
    except GroundedError as error:
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
    click.echo(f"{checkpoint} -> {folder}")

"""`grounded download`: the weights of a preset, before they are needed."""

import sys

import click

from grounded.errors import GroundedError


@click.command()
@click.argument("config", metavar="PRESET")
def download(config: str) -> None:
    """Fetch the weights that PRESET (its name, or the path of a YAML file) takes from the Hugging Face hub.

    What is there already is checked and left as it is, and an interrupted download is resumed.

    Exit status: 0 all weights are there; 1 some are missing or damaged; 2 wrong arguments.
    """
    from grounded.models.download import fetch
    from segany import CheckpointError

    try:
        parts = fetch(config)
    except GroundedError as error:
        raise click.UsageError(str(error)) from error
    except CheckpointError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    for part in parts:
        state = "downloaded" if part.downloaded else "present"
        files = f"{len(part.files)} {'file' if len(part.files) == 1 else 'files'}"
        click.echo(f"{part.part}: {part.checkpoint}: {state}, {files}, {part.bytes / 1e6:.1f} MB in {part.path}")

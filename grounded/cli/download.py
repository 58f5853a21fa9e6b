"""`grounded download`: the weights of a preset, before they are needed."""

import sys

import click

from grounded.errors import CheckpointError, ConfigError
from grounded.models.checkpoints import fetch


@click.command()
@click.argument("config", metavar="PRESET")
def download(config: str) -> None:
    """Fetch the weights that PRESET (its name, or the path of a YAML file) takes from the Hugging Face hub.

    What is there already is checked and left as it is, and an interrupted download is resumed.

    Exit status: 0 all weights are there; 1 some are missing or damaged; 2 wrong arguments.
    """
    try:
        checkpoints = fetch(config)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except CheckpointError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    for local in checkpoints:
        state = "downloaded" if local.downloaded else "present"
        files = f"{len(local.files)} {'file' if len(local.files) == 1 else 'files'}"
        click.echo(f"{local.part}: {local.checkpoint}: {state}, {files}, {local.bytes / 1e6:.1f} MB in {local.path}")

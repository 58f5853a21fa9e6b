"""`grounded download`: the weights of a preset, before they are needed."""

import sys
from typing import TYPE_CHECKING

import click

from grounded.config import load
from grounded.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from grounded.models.checkpoints import LocalCheckpoint


@click.command()
@click.argument("config", metavar="PRESET")
@click.option("--all", "fetch_all", is_flag=True, help="Fetch models too that PRESET does not use but the app offers.")
@click.option("--verify", is_flag=True, help="Compare what is here already with its hash on the hub.")
def download(config: str, fetch_all: bool, verify: bool) -> None:
    """Fetch the weights that PRESET (its name, or the path of a YAML file) takes from the Hugging Face hub.

    An interrupted download is resumed, and what arrives is compared with the hashes that the hub states. What is here
    already is only checked to be complete; with --verify it is compared too, and fetched again where it is damaged.

    Exit status: 0 all weights are there; 1 some are missing or damaged; 2 wrong arguments.
    """
    from grounded.models.checkpoints import fetch, offered_parts, used_parts

    try:
        settings = load(config)
        offered = offered_parts(settings)
        unused = [] if fetch_all else [part for part in offered if part not in used_parts(settings)]
        checkpoints = fetch(settings, offered if fetch_all else None, verify=verify)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except CheckpointError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    for local in checkpoints:
        click.echo(_describe(local, verify))
    for part in unused:
        checkpoint = getattr(settings, part).checkpoint
        click.echo(f"{part}: {checkpoint}: not used by {config}; the app offers what needs it, --all fetches it too")


def _describe(local: "LocalCheckpoint", verify: bool) -> str:
    """One line: what is there, in which state, and where."""
    state = "downloaded" if local.downloaded else "present"
    if local.verified:
        state += ", verified" if len(local.verified) == len(local.files) else f", {len(local.verified)} files verified"
    elif verify and local.commit is None:
        state += ", not verified (a local copy, which no hash is known of)"
    elif verify:
        state += ", not verified (the cache has no links that name the hashes)"
    files = f"{len(local.files)} {'file' if len(local.files) == 1 else 'files'}"
    return f"{local.part}: {local.checkpoint}: {state}, {files}, {local.bytes / 1e6:.1f} MB in {local.path}"

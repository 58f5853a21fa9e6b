"""`grounded demo`: the app, in a browser and over the network."""

import sys
from dataclasses import replace
from typing import Any

import click

from grounded.cli.options import config_option
from grounded.config import load
from grounded.errors import ConfigError, describe_error


@click.command()
@config_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets other machines in."
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. [default: the first free from 7860]")
@click.option("--share", is_flag=True, help="Make a public link through Gradio's servers.")
@click.option("--mcp", is_flag=True, help="Serve the endpoints as tools of the Model Context Protocol as well.")
@click.option(
    "--max-side",
    type=click.IntRange(min=64),
    metavar="PIXELS",
    help="Scale larger images down to this. [default: 2048]",
)
@click.option(
    "--allow-addresses",
    is_flag=True,
    help="Let users name images by http and https addresses, which the server fetches from the public network.",
)
@click.option("--open-browser", is_flag=True, help="Show the app in the default browser.")
def demo(
    config: str,
    host: str,
    port: int | None,
    max_side: int | None,
    allow_addresses: bool,
    mcp: bool,
    **options: Any,
) -> None:
    """Open the app: find, correct and download labelled masks in a browser.

    Programs use the same address: /segment, /refine, /automatic, /label and /track for gradio_client. Uploads and
    results lie in a folder of their own, which is removed at the end. Ctrl-C ends it.

    Exit status: 0 ended by Ctrl-C; 1 something failed; 2 wrong arguments; 143 ended by SIGTERM.
    """
    from grounded.ui import serving  # here: the app loads PyTorch, which --help does not need
    from grounded.ui.state import Limits

    try:
        load(config)
        if mcp:
            serving.check_mcp()
        serving.check_port(port, host)  # now rather than after the models are loaded
        serving.prepare()
        limits = replace(Limits(), allow_addresses=allow_addresses)
        limits = limits if max_side is None else replace(limits, max_side=max_side)
        actions = serving.load_models(config, limits)
        from grounded.ui.app import appearance, build_demo  # not above: Gradio notes its folder when it is imported

        serving.serve(build_demo(actions), limits, host=host, port=port, mcp=mcp, **options, **appearance())
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except Exception as error:  # what stops the app from starting may come from any library
        click.echo(f"Error: {describe_error(error)}", err=True)
        sys.exit(1)

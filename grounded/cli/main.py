"""The command `grounded`. PyTorch and the models are imported inside the commands, so that help appears at once."""

import io
import sys
from typing import Any

import click

from grounded import __version__
from grounded.cli.browse import browse
from grounded.cli.convert import convert_checkpoint
from grounded.cli.demo import demo
from grounded.cli.download import download
from grounded.cli.evaluate import evaluate
from grounded.cli.export import export
from grounded.cli.import_ import import_
from grounded.cli.label import label
from grounded.cli.segment import segment


class _Commands(click.Group):
    """The commands, of which each may be interrupted, and may print names and phrases in any script."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            ctx.exit(130)  # 128 + SIGINT, as shells have it


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grounded")
def main() -> None:
    """Free-form text in, labelled instance masks out."""


for command in (segment, label, browse, export, import_, evaluate, demo, download, convert_checkpoint):
    main.add_command(command)

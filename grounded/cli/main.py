"""The command `grounded`. A command's own file is imported when the command runs, so that the help appears at once."""

import importlib
import io
import sys
from typing import Any

import click

from grounded import __version__

# Name of a command: its module within grounded.cli, its function there, and the first sentence of its help.
COMMANDS = {
    "segment": (
        "segment",
        "segment",
        "Find what TEXT names in each IMAGE, and write overlay.png, masks/ and result.json.",
    ),
    "edges": (
        "edges",
        "edges",
        "Write an edge map of IMAGE: how strong an edge is at each pixel.",
    ),
    "similar": (
        "similar",
        "similar",
        "Show the masks of IMAGE that are alike, for the segmenter, to the one at a point or in a box.",
    ),
    "track": (
        "track",
        "track",
        "Follow what TEXT names, or objects that are given by masks or prompts, through CLIP.",
    ),
    "label": (
        "label",
        "label",
        "Find what TEXT names in all IMAGES, and write one record per image into a folder.",
    ),
    "browse": (
        "browse",
        "browse",
        "Review what `grounded label` wrote into DIR, on a page of this machine.",
    ),
    "export": (
        "export",
        "export",
        "Write what `grounded label` found, as it was corrected, in a format that other programs read.",
    ),
    "import": (
        "import_",
        "import_",
        "Import annotations of other tools, or what an export wrote: a file or folder of any format.",
    ),
    "evaluate": (
        "evaluate",
        "evaluate",
        "Measure how good labels, tracks, masks and edges are.",
    ),
    "train": (
        "train",
        "train",
        "Fine-tune models on your own data: COCO annotation files, or what `grounded label` wrote.",
    ),
    "engine": (
        "engine",
        "engine",
        "Annotate images in rounds, and train the model after each: the data engine of Segment Anything.",
    ),
    "demo": (
        "demo",
        "demo",
        "Open the app: find, correct and download labelled masks in a browser.",
    ),
    "download": (
        "download",
        "download",
        "Fetch the weights that PRESET (its name, or the path of a YAML file) takes from the Hugging Face hub.",
    ),
    "convert-checkpoint": (
        "convert",
        "convert_checkpoint",
        "Convert an original Grounding DINO CHECKPOINT, a .pth file, to a folder that needs no other package.",
    ),
}


class _LazyGroup(click.Group):
    """Holds commands that have no more than a name and a help sentence, and loads the one that runs.

    Any command may be interrupted, and may print names and phrases in any script.
    """

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that `args` begin with, and load it."""
        name, command, remaining = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, remaining

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            ctx.exit(130)  # 128 + SIGINT, as shells have it


def load_command(name: str) -> click.Command:
    """Import the file of a command, and return the command."""
    module, function, _ = COMMANDS[name]
    return getattr(importlib.import_module(f"grounded.cli.{module}"), function)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grounded")
def main() -> None:
    """Free-form text in, labelled instance masks out."""


for _name, (_, _, _help) in COMMANDS.items():
    main.add_command(click.Command(_name, help=_help))

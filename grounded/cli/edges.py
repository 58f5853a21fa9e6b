"""The command `grounded edges`: draws the edges of an image, found by automatic masks or without a model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from grounded.cli.errors import errors_as_messages
from grounded.cli.options import read_segmenter, segmenter_options

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    import numpy as np
    import PIL.Image

    from grounded.config import PipelineConfig
    from grounded.data.image import SourceImage

METHODS = ("automatic", "sobel", "canny")


@click.command()
@click.argument("image")
@click.option(
    "--out",
    required=True,
    metavar="PNG",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The edge map: grey, of 16 bits, 65535 for the strongest edge.",
)
@click.option(
    "--overlay",
    metavar="PNG",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw the edges over the image into this file.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="automatic",
    show_default=True,
    help="Automatic masks of the segmenter, or a detector that needs no model.",
)
@click.option(
    "--points-per-side", type=click.IntRange(1, 128), default=16, show_default=True, help="Of the grid of points."
)
@segmenter_options
def edges(
    image: str,
    out: Path,
    overlay: Path | None,
    method: str,
    points_per_side: int,
    config: str,
    segmenter: str | None,
    device: str | None,
) -> None:
    """Write an edge map of IMAGE: how strong an edge is at each pixel.

    IMAGE is a file or an http:// or https:// address. The default is the method of Segment Anything: 16 x 16 points,
    three masks each, and the outlines of the masks that remain of them.

    Exit status: 0 written; 1 something failed; 2 wrong arguments.
    """
    from grounded.data.image import open_image
    from grounded.evaluation.boundaries.edge_map_files import edge_map_bytes
    from grounded.utils.files import atomic_files, check_folder, image_bytes

    with errors_as_messages():
        for path in filter(None, (out, overlay)):
            check_folder(path.parent)
        settings = read_segmenter(config, segmenter, device)
        source = open_image(image)
        edge_map = find_edges(source, method, settings, points_per_side)
        with atomic_files() as write:
            write(out, edge_map_bytes(edge_map))
            if overlay is not None:
                write(overlay, image_bytes(_draw_over(source, edge_map)))
    for note in source.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{image} -> {out}")


def find_edges(source: "SourceImage", method: str, settings: "PipelineConfig", points_per_side: int) -> "np.ndarray":
    """Return the edge map of an image by one of METHODS."""
    if method != "automatic":
        from grounded.experiments.edge_filters import detect_edges

        return detect_edges(source.pixels, method)
    from grounded.experiments.edges import EdgeConfig, automatic_edges
    from grounded.models.build import load_segmenter, pick_device

    segmenter = load_segmenter(settings, pick_device(settings.device))
    with tqdm(total=points_per_side**2, desc="finding masks", unit=" points", disable=None, leave=False) as bar:

        def show(done: int, _: int) -> None:
            bar.update(done - bar.n)

        return automatic_edges(segmenter, source, EdgeConfig(points_per_side=points_per_side), show)


def _draw_over(source: "SourceImage", edge_map: "np.ndarray") -> "PIL.Image.Image":
    """Draw edges in red over a paler image; stronger ones hide more of it."""
    import numpy as np
    from PIL import Image

    pale = Image.blend(source.pixels, Image.new("RGB", source.pixels.size, "white"), 0.5)
    opacity = Image.fromarray(np.rint(np.sqrt(edge_map) * 255).astype(np.uint8))
    pale.paste((200, 20, 20), mask=opacity)
    return pale

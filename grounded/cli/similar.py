"""The command `grounded similar`: masks that the segmenter's embedding takes for alike."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from grounded.cli.options import read_segmenter, segmenter_options
from grounded.errors import ConfigError, GroundedError, PromptError, one_line

if TYPE_CHECKING:  # modules that load PyTorch are imported when they are used, so that --help is fast
    from PIL.Image import Image

    from grounded.config import PipelineConfig
    from grounded.data.image import SourceImage
    from grounded.experiments.similar import SimilarMasks
    from segany import Prompts

_QUERY, _LOW, _HIGH = (214, 92, 60), (150, 190, 230), (20, 70, 150)


def _numbers(count: int, form: str) -> Any:
    def read(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise click.BadParameter(f"expected {form}, got {value!r}", context, option)
        return numbers

    return read


@click.command()
@click.argument("image")
@click.option("--point", metavar="X,Y", callback=_numbers(2, "X,Y"), help="A click in the object, in pixels.")
@click.option("--box", metavar="X0,Y0,X1,Y1", callback=_numbers(4, "X0,Y0,X1,Y1"), help="Its box, in pixels.")
@click.option(
    "--out",
    default="similar",
    show_default=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results.",
)
@segmenter_options
@click.option(
    "--threshold",
    type=click.FloatRange(-1, 1),
    default=0.8,
    show_default=True,
    help="Least cosine of a mask that is shown; it depends on the model.",
)
@click.option("--crops", is_flag=True, help="Encode a crop around every mask, as the paper does: two runs for each.")
@click.option("--points-per-side", type=click.IntRange(1, 256), default=32, show_default=True, help="Of the grid.")
@click.option(
    "--pred-iou-thresh", type=float, help="Least predicted IoU of the masks that are compared. [of the preset]"
)
@click.option(
    "--stability-score-thresh", type=click.FloatRange(0, 1), help="Least stability score, likewise. [of the preset]"
)
def similar(
    image: str,
    point: tuple[float, float] | None,
    box: tuple[float, float, float, float] | None,
    out: Path,
    config: str,
    segmenter: str | None,
    device: str | None,
    threshold: float,
    crops: bool,
    points_per_side: int,
    pred_iou_thresh: float | None,
    stability_score_thresh: float | None,
) -> None:
    """Show the masks of IMAGE that are alike, for the segmenter, to the one at a point or in a box.

    Segment Anything's look into its latent space: everything in the image is segmented, a mask is embedded as the mean
    of the image embedding over it, and masks are compared by the cosine of their embeddings. IMAGE is a file or a
    http:// or https:// address.

    Writes similar.png, the query in red and masks above --threshold in blue with their cosines, and similar.json with
    the cosine of every mask.

    Exit status: 0 written; 1 something failed; 2 wrong arguments.
    """
    from grounded.data.image import open_image
    from grounded.utils.files import atomic_files, check_folder, image_bytes, json_bytes

    if point is None and box is None:
        raise click.UsageError("give --point, --box, or both")
    try:
        check_folder(out)
        settings = read_segmenter(config, segmenter, device)
        source = open_image(image)
        prompts = _read_prompts(point, box, source)
        fallback = settings.fallback
        options = {
            "points_per_side": points_per_side,
            "pred_iou_thresh": fallback.pred_iou_thresh if pred_iou_thresh is None else pred_iou_thresh,
            "stability_score_thresh": fallback.stability_score_thresh
            if stability_score_thresh is None
            else stability_score_thresh,
        }
        found = _find_similar(settings, source, prompts, options, crops)
        with atomic_files() as write:
            write(out / "similar.json", json_bytes(_to_dict(image, point, box, crops, threshold, found)))
            write(out / "similar.png", image_bytes(_draw(source, found, threshold)))
    except (ConfigError, PromptError) as error:
        raise click.UsageError(str(error)) from error
    except GroundedError as error:
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
    for note in source.notes:
        click.echo(f"note: {note}", err=True)
    count = int((found.cosines >= threshold).sum())
    click.echo(f"{count} of {len(found.rles)} masks have a cosine of at least {threshold} -> {out / 'similar.png'}")
    click.echo(f"highest cosines: {', '.join(f'{cosine:.2f}' for cosine in found.cosines[:10].tolist()) or 'none'}")


def _read_prompts(
    point: tuple[float, float] | None, box: tuple[float, float, float, float] | None, source: "SourceImage"
) -> "Prompts":
    """Return the point and the box as one prompt.

    Raises:
        PromptError: they do not lie in the image, or the box has no area.
    """
    from segany import Prompts
    from segany.utils.points import FOREGROUND

    height, width = source.size
    for x, y in [point] if point else []:
        if not (0 <= x < width and 0 <= y < height):
            raise PromptError(f"the point must lie in the image of {width} x {height} pixels, got {x:g},{y:g}")
    if box and not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        shown = ",".join(f"{side:g}" for side in box)
        raise PromptError(f"the box must be X0,Y0,X1,Y1 in the image of {width} x {height} pixels, got {shown}")
    return Prompts(
        points=[[point]] if point else None,
        point_labels=[[FOREGROUND]] if point else None,
        boxes=[box] if box else None,
    )


def _find_similar(
    settings: "PipelineConfig", source: "SourceImage", prompts: "Prompts", options: dict[str, Any], crops: bool
) -> "SimilarMasks":
    """Segment the object in question and everything else, and compare them; the image is encoded once."""
    from grounded.experiments.similar import prompted_mask, similar_masks
    from grounded.models.build import load_segmenter, pick_device
    from segany import AutomaticMaskGenerator, Predictor

    segmenter = load_segmenter(settings, pick_device(settings.device))
    if not isinstance(segmenter, Predictor):
        raise ConfigError(f"similar masks need a segany.Predictor, got {type(segmenter).__name__}")
    embedding = segmenter.encode(source.pixels)
    query = prompted_mask(segmenter, embedding, prompts)
    generator = AutomaticMaskGenerator(segmenter, **options)
    with tqdm(desc="finding masks", unit=" points", disable=None, leave=False) as bar:
        masks = generator.generate(source.pixels, _progress(bar), embedding=embedding)
    with tqdm(desc="comparing", unit=" masks", disable=None, leave=False) as bar:
        return similar_masks(segmenter, source.pixels, embedding, query, masks.rles, crops, _progress(bar))


def _progress(bar: Any) -> Any:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def _to_dict(
    image: str,
    point: tuple[float, float] | None,
    box: tuple[float, float, float, float] | None,
    crops: bool,
    threshold: float,
    found: "SimilarMasks",
) -> dict[str, Any]:
    from segany.utils.rle import rle_boxes

    masks = zip(found.rles, found.cosines.tolist(), rle_boxes(found.rles).tolist(), strict=True)
    return {
        "image": image,
        "point": point and list(point),
        "box": box and list(box),
        "crops": crops,
        "threshold": threshold,
        "query": {"box": rle_boxes([found.query])[0].tolist(), "mask": dict(found.query)},
        "masks": [
            {"cosine": cosine, "is_similar": cosine >= threshold, "box": tight, "mask": dict(rle)}
            for rle, cosine, tight in masks
        ],
    }


def _draw(source: "SourceImage", found: "SimilarMasks", threshold: float) -> "Image":
    """Draw the query, and the masks above the threshold with their cosines, the darker the more alike."""
    import numpy as np

    from grounded.output.draw import draw_masks
    from segany.utils.rle import rle_boxes

    shown = [
        (rle, cosine) for rle, cosine in zip(found.rles, found.cosines.tolist(), strict=True) if cosine >= threshold
    ]
    rles = [found.query, *(rle for rle, _ in shown)]
    captions = ["query", *(f"{cosine:.2f}" for _, cosine in shown)]
    colours = [_QUERY, *(_shade((cosine - threshold) / max(1 - threshold, 1e-6)) for _, cosine in shown)]
    boxes = rle_boxes(rles).astype(np.float32)
    return draw_masks(source.pixels, rles, captions, boxes, captions, colours=colours)


def _shade(share: float) -> tuple[int, int, int]:
    red, green, blue = (round(low + share * (high - low)) for low, high in zip(_LOW, _HIGH, strict=True))
    return red, green, blue
